"""A job shared with another user: what he may do with it, and that nothing else has changed."""

from __future__ import annotations

import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest
from google.protobuf.message import Message

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc
from tests.calls import Answer, ask
from tests.e2e.test_access import SAMPLES, area_under_curve
from tests.support import Api, Client, Instance, gather

NOT_FOUND = grpc.StatusCode.NOT_FOUND


@dataclass
class People:
    """Some users, each with his jobc and a connection of his own."""

    clients: dict[str, Client]
    apis: dict[str, Api]

    def ask(self, who: str, request: Message) -> Answer:
        return ask(self.apis[who].stub, request)


@pytest.fixture(scope="module")
def people(shared: Instance) -> Iterator[People]:
    roles = {"boss": "admin", "alice": "user", "bob": "user", "carol": "user"}
    with ExitStack() as stack:
        clients = {name: shared.issue(name, role) for name, role in roles.items()}
        channels = {name: stack.enter_context(c.channel()) for name, c in clients.items()}
        stubs = {name: Api(JobServiceStub(channel)) for name, channel in channels.items()}
        yield People(clients, stubs)


@pytest.fixture
def job(people: People) -> Iterator[str]:
    """A job of alice's that has said something and runs, shared with bob to read."""
    script = "echo hello; exec sleep 600"
    share = [pb.Share(user="bob", verbs=["logs"])]
    job = people.apis["alice"].start("sh", "-c", script, share=share, grace_ms=0)
    yield job
    people.apis["alice"].stop(job)


def share(user: str, *verbs: str) -> pb.Share:
    return pb.Share(user=user, verbs=verbs)


def first_bytes(api: Api, job: str) -> bytes:
    """Return the first output of a job that goes on."""
    stream = api.stream(job)
    for message in stream:
        if message.batch.entries:
            stream.cancel()  # type: ignore[attr-defined]
            return message.batch.entries[0].chunk.data
    raise AssertionError("no output")


def test_a_shared_job_can_be_read_by_the_one_and_by_nobody_else(people: People, job: str) -> None:
    bob, carol = people.apis["bob"], people.apis["carol"]

    assert first_bytes(bob, job) == b"hello\n"
    status = bob.status(job[:13])
    assert (status.job_id, status.owner) == (job, "alice")
    assert list(status.shares) == [share("bob", "status", "logs")]
    for call in (carol.status, carol.logs, carol.stop, bob.stop, bob.pause, bob.usage, bob.remove):
        assert carol.refused(partial(call, job)).code is NOT_FOUND
    # The answer to what he may not do is the one about a job that is not there.
    for request in (pb.StopRequest(), pb.RemoveRequest()):
        one, other = request, type(request)(job=str(uuid.uuid4()))
        one.job = job
        assert people.ask("bob", one).without(job) == people.ask("bob", other).without(other.job)
    assert people.apis["alice"].status(job).state == pb.JOB_STATE_RUNNING


def test_every_verb_that_is_shared_works_and_each_is_shared_alone(people: People) -> None:
    alice, bob = people.apis["alice"], people.apis["bob"]
    calls: dict[str, Callable[[str], object]] = {
        "logs": bob.logs,
        "stats": bob.usage,
        "status": bob.status,
        "stop": bob.stop,
    }
    for verb in calls:
        job = alice.start("true", share=[share("bob", verb)])
        alice.wait(job)
        for other, call in calls.items():
            if other in (verb, "status"):
                call(job)
            else:
                assert bob.refused(partial(call, job)).code is NOT_FOUND


def test_a_stop_by_a_share_names_who_stopped(people: People) -> None:
    alice, bob = people.clients["alice"], people.clients["bob"]
    job = alice.start("--share", "bob:stop", "sleep", "600")
    bob.stop(job)
    status = alice.status_json(job)
    assert status["owner"] == "alice"
    assert status["stop_requested"]["by"] == "bob"  # type: ignore[index]
    assert "stop requested by bob at" in alice.output("status", "-o", "wide", job).decode()


def test_names_find_ones_own_job_first_and_then_a_shared_one(people: People) -> None:
    alice, bob = people.clients["alice"], people.clients["bob"]
    name = f"n-{uuid.uuid4()}"
    theirs = alice.start("--name", name, "--share", "bob:logs,stop", "sleep", "600")
    assert bob.status_json(name)["job_id"] == theirs
    assert bob.output("logs", "--no-follow", name) == b""
    own = bob.start("--name", name, "sleep", "600")
    assert bob.status_json(name)["job_id"] == own
    bob.stop(name)
    assert bob.status_json(name)["job_id"] == own
    assert alice.status(theirs) == "running"
    bob.stop(theirs)


def test_a_share_shows_in_every_form_and_is_changed_later(people: People) -> None:
    alice, bob = people.clients["alice"], people.clients["bob"]
    flags = ("--share", "bob:logs", "--share", "carol:stop", "--share", "bob:stats")
    job = alice.start(*flags, "sleep", "600")
    assert alice.status_json(job)["shares"] == [
        {"user": "bob", "verbs": ["status", "logs", "stats"]},
        {"user": "carol", "verbs": ["status", "stop"]},
    ]
    wide = alice.output("status", "-o", "wide", job).decode()
    assert "Shared:  bob:status,logs,stats carol:status,stop\n" in wide

    assert alice.output("update", job, "--share", "bob:stop", "--unshare", "carol") == b""
    assert alice.status_json(job)["shares"] == [{"user": "bob", "verbs": ["status", "stop"]}]
    assert people.apis["carol"].refused(lambda: people.apis["carol"].status(job)).code is NOT_FOUND
    bob.stop(job)
    # Also of one that has ended.
    alice.output("update", job, "--unshare", "bob")
    assert alice.status_json(job)["shares"] == []
    refused = bob.run("status", job)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert json.loads(alice.output("status", "-o", "json", job))["outcome"] is not None


def test_a_share_does_not_allow_to_share_further(people: People, job: str) -> None:
    request = pb.UpdateRequest(job=job, share=[share("carol", "logs")])
    bob = people.apis["bob"]
    assert bob.refused(lambda: bob.stub.Update(request)).code is NOT_FOUND
    assert list(people.apis["alice"].status(job).shares) == [share("bob", "status", "logs")]
    boss = people.apis["boss"]
    changed: pb.UpdateResponse = boss.stub.Update(request)
    assert [entry.user for entry in changed.status.shares] == ["bob", "carol"]


def test_an_open_stream_ends_when_its_share_is_taken_back(people: People, job: str) -> None:
    alice, bob = people.apis["alice"], people.apis["bob"]
    stream = bob.stream(job)
    assert next(iter(stream)).batch.entries[0].chunk.data == b"hello\n"
    taken_at = time.monotonic()
    alice.stub.Update(pb.UpdateRequest(job=job, unshare=["bob"]))
    refused = bob.refused(lambda: gather(stream))
    assert refused.code is NOT_FOUND
    assert time.monotonic() - taken_at < 5


def test_a_share_with_oneself_is_no_error_and_no_change(people: People) -> None:
    alice = people.apis["alice"]
    job = alice.start("true", share=[share("alice", "logs")])
    alice.wait(job)
    assert alice.status(job[:18]).job_id == job
    alice.remove(job)


@pytest.mark.parametrize(
    ("user", "verbs"),
    [
        ("bob", []),
        ("bob", ["start"]),
        ("bob", ["remove"]),
        ("bob", ["update"]),
        ("bob", ["prune"]),
        ("bob", ["status,logs"]),
        ("", ["logs"]),
        ("../bob", ["logs"]),
        ("bo\0b", ["logs"]),
        ("bo\nb", ["logs"]),
        ("b" * 65536, ["logs"]),
        ("bоb", ["logs"]),  # noqa: RUF001 - a Cyrillic letter
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_cannot_be_shared_starts_nothing(
    shared: Instance, people: People, user: str, verbs: list[str]
) -> None:
    before = set(shared.jobs_dir.iterdir())
    request = pb.StartRequest(argv=["true"], share=[share(user, *verbs)])
    answer = people.ask("alice", request)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.message.startswith("cannot share ")
    assert len(answer.message) < 300
    assert set(shared.jobs_dir.iterdir()) == before


def test_limits_and_shares_are_not_changed_in_one_call(people: People, job: str) -> None:
    alice = people.apis["alice"]
    request = pb.UpdateRequest(job=job, limits=pb.Limits(pids=9), unshare=["bob"])
    refused = alice.refused(lambda: alice.stub.Update(request))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    done = people.clients["alice"].run("update", job, "--pids", "9", "--unshare", "bob")
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(alice.status(job).shares) == 1


@pytest.mark.parametrize("verb", ["status", "logs", "stop"])
def test_a_job_shared_with_others_takes_as_long_to_refuse_as_an_absent_one(
    people: People, job: str, verb: str
) -> None:
    make = {"status": pb.StatusRequest, "logs": pb.LogsRequest, "stop": pb.StopRequest}[verb]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * SAMPLES):
        foreign = number % 2 == 0
        request = make(job=job if foreign else str(uuid.uuid4()))
        begin = time.perf_counter()
        answer = people.ask("carol", request)
        times[foreign].append(time.perf_counter() - begin)
        assert answer.code is NOT_FOUND
    absent, present = times
    auc = area_under_curve(present, absent)
    median = statistics.median(absent) * 1e3
    print(f"{verb}: AUC {auc:.3f} over {SAMPLES} samples each, median {median:.2f} ms")
    assert abs(auc - 0.5) < 0.15
