"""Who may do what: the design's table, cell by cell, and what a refusal gives away."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from google.protobuf.message import Message

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc
from tests.calls import Answer, ask
from tests.support import Instance, scaled

# The table of the design, as its author wrote it.
TABLE = """
| operation on jobs     | admin   | user  |
| --------------------- | ------- | ----- |
| start                 | yes     | yes   |
| stop own              | yes     | yes   |
| query own             | yes     | yes   |
| fetch logs own        | yes     | yes   |
| stop any              | yes     | no    |
| query any             | yes     | no    |
| fetch logs any        | yes     | no    |
"""


def cells() -> list[tuple[str, str, bool]]:
    """Return role, operation and whether the table allows it, for each cell."""
    rows = [[word.strip() for word in line.strip("|").split("|")] for line in TABLE.split("\n")]
    (_, *roles), _, *operations = [row for row in rows if len(row) > 1]
    return [
        (role, operation, word == "yes")
        for operation, *words in operations
        for role, word in zip(roles, words, strict=True)
    ]


@dataclass
class People:
    """Stubs of some users, each over a connection of his own."""

    stubs: dict[str, JobServiceStub]

    def ask(self, who: str, request: Message) -> Answer:
        return ask(self.stubs[who], request)

    def start(self, who: str, *argv: str, **fields: object) -> str:
        """Start a job as `who`; return its id."""
        request = pb.StartRequest(argv=argv or ("sleep", "600"), grace_ms=0)
        request.MergeFrom(pb.StartRequest(**fields))  # type: ignore[arg-type]
        answer = self.ask(who, request)
        assert answer.ok, answer
        [response] = answer.responses
        assert isinstance(response, pb.StartResponse)
        return response.job_id


ROLES = {"boss": "admin", "alice": "user", "bob": "user", "carol": "user"}


@pytest.fixture(scope="module")
def people(shared: Instance) -> Iterator[People]:
    with ExitStack() as stack:
        clients = {name: shared.issue(name, role) for name, role in ROLES.items()}
        yield People(
            {
                name: JobServiceStub(stack.enter_context(client.channel()))
                for name, client in clients.items()
            }
        )


def requests_for(job: str) -> dict[str, Message]:
    """Return each RPC's request that names a job."""
    return {
        "stop": pb.StopRequest(job=job, grace_ms=0),
        "query": pb.StatusRequest(job=job),
        "fetch logs": pb.LogsRequest(job=job),
    }


@pytest.mark.parametrize(("role", "operation", "allowed"), cells())
def test_the_table_of_roles_holds(
    people: People, *, role: str, operation: str, allowed: bool
) -> None:
    caller = {"admin": "boss", "user": "alice"}[role]
    if operation == "start":
        assert people.start(caller, "true")
        return
    verb, whose = operation.rsplit(" ", 1)
    owner = caller if whose == "own" else "bob"
    job = people.start(owner)

    answer = people.ask(caller, requests_for(job)[verb])

    assert answer.ok is allowed, answer
    status = _status(people, owner, job)
    ended = status.state == pb.JOB_STATE_TERMINATED
    assert ended is (verb == "stop" and allowed)
    if not allowed:
        assert answer.code is grpc.StatusCode.NOT_FOUND
        assert answer.responses == ()
        people.ask(owner, pb.StopRequest(job=job, grace_ms=0))


def _status(people: People, who: str, job: str) -> pb.JobStatus:
    [response] = people.ask(who, pb.StatusRequest(job=job)).responses
    assert isinstance(response, pb.StatusResponse)
    return response.status


def odd_requests_for(job: str) -> list[Message]:
    """Return requests that name a job, also with arguments that a server may look at first."""
    return [
        pb.StopRequest(job=job),
        pb.StopRequest(job=job, grace_ms=0, signal=9),
        pb.StopRequest(job=job, signal=65),
        pb.StopRequest(job=job, grace_ms=-1),
        pb.StatusRequest(job=job),
        pb.RemoveRequest(job=job),
        pb.UpdateRequest(job=job, limits=pb.Limits(pids=10)),
        pb.UpdateRequest(job=job, limits=pb.Limits(memory_bytes=1 << 30, cpu_millis=10)),
        pb.UpdateRequest(job=job),
        pb.PauseRequest(job=job),
        pb.ResumeRequest(job=job),
        pb.StatsRequest(job=job),
        pb.StatsRequest(job=job, follow=True, interval_ms=100),
        pb.StatsRequest(job=job, interval_ms=1),
        pb.LogsRequest(job=job),
        pb.LogsRequest(job=job, follow=True),
        pb.LogsRequest(job=job, cursor="1:8:0:0:0"),
        pb.LogsRequest(job=job, cursor="nonsense"),
        pb.LogsRequest(job=job, follow=True, cursor=f"1:{1 << 40}:0:0:0"),
    ]


def assert_tells_nothing(people: People, foreign: str, absent: str) -> None:
    """Ask as alice for the one and the other, in all ways; the answers must be the same."""
    assert len(foreign) == len(absent)
    pairs = zip(odd_requests_for(foreign), odd_requests_for(absent), strict=True)
    for about_foreign, about_absent in pairs:
        one, other = people.ask("alice", about_foreign), people.ask("alice", about_absent)
        assert not one.ok
        assert one.without(foreign) == other.without(absent)
        # Before the first message of a stream, too: nothing was sent before the refusal.
        assert one.responses == ()
        assert {key for key, _ in one.trailers} == {"grpc-status-details-bin"}


@pytest.fixture
def request_id() -> str:
    return f"request-{uuid.uuid4()}"


@pytest.fixture
def bobs_job(people: People, request_id: str) -> Iterator[str]:
    """A running job of bob's, named bobs-secret."""
    job = people.start("bob", name="bobs-secret", request_id=request_id)
    yield job
    answer = people.ask("bob", pb.StopRequest(job=job, grace_ms=0))
    assert answer.ok, answer


def test_a_foreign_job_answers_as_an_absent_one(people: People, bobs_job: str) -> None:
    assert_tells_nothing(people, bobs_job, str(uuid.uuid4()))

    assert _status(people, "bob", bobs_job).state == pb.JOB_STATE_RUNNING


def test_a_foreign_job_that_has_ended_answers_as_an_absent_one(people: People) -> None:
    job = people.start("bob", "true")
    assert people.ask("bob", pb.LogsRequest(job=job, follow=True)).ok

    assert_tells_nothing(people, job, str(uuid.uuid4()))


def test_a_prefix_of_a_foreign_id_answers_as_one_of_no_id(people: People, bobs_job: str) -> None:
    known = {bobs_job[:12]}
    absent = next(word for word in iter(lambda: str(uuid.uuid4())[:12], None) if word not in known)

    assert_tells_nothing(people, bobs_job[:12], absent)


@pytest.mark.usefixtures("bobs_job")
def test_a_foreign_name_answers_as_an_absent_one(people: People) -> None:
    assert_tells_nothing(people, "bobs-secret", "bobs-absent")


@pytest.mark.usefixtures("bobs_job")
def test_a_foreign_request_id_is_no_reference_to_a_job(people: People, request_id: str) -> None:
    assert_tells_nothing(people, request_id, f"request-{uuid.uuid4()}")


def test_names_and_request_ids_of_others_are_free_to_use(
    people: People, bobs_job: str, request_id: str
) -> None:
    # With bob's own words: to alice they are as new as any other.
    job = people.start("alice", "sleep", "601", name="bobs-secret", request_id=request_id)

    assert job != bobs_job
    assert _status(people, "alice", job).owner == "alice"
    assert _status(people, "alice", "bobs-secret").job_id == job
    assert _status(people, "bob", "bobs-secret").job_id == bobs_job
    people.ask("alice", pb.StopRequest(job=job, grace_ms=0))


def test_a_prefix_is_unique_among_what_the_caller_may_see(people: People) -> None:
    own = people.start("carol", "true")
    while people.start("bob", "true")[0] != own[0]:
        pass  # 16 on average

    assert _status(people, "carol", own[0]).job_id == own
    ambiguous = people.ask("boss", pb.StatusRequest(job=own[0]))
    assert ambiguous.code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_name_that_several_have_is_an_admins_own_first(people: People) -> None:
    others = people.start("bob", name="web")
    assert _status(people, "boss", "web").job_id == others
    own = people.start("boss", name="web")
    people.start("carol", "true", name="web")

    assert _status(people, "boss", "web").job_id == own
    assert _status(people, "bob", "web").job_id == others

    # His own has ended and another runs: whoever says "stop web" may mean that.
    assert people.ask("boss", pb.StopRequest(job="web", grace_ms=0)).ok
    refused = people.ask("boss", pb.StopRequest(job="web", grace_ms=0))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert _status(people, "bob", "web").state == pb.JOB_STATE_RUNNING

    assert people.ask("bob", pb.StopRequest(job="web", grace_ms=0)).ok
    assert _status(people, "boss", "web").job_id == own


def test_a_stop_tells_who_asked_for_it(people: People, bobs_job: str) -> None:
    assert people.ask("boss", pb.StopRequest(job=bobs_job, grace_ms=0)).ok

    status = _status(people, "bob", bobs_job)
    assert (status.owner, status.stop_requested.by) == ("bob", "boss")


SAMPLES = scaled(200, 2000)
FARTHEST = 0.15 if SAMPLES < 2000 else 0.05
"""From 0.5, five standard deviations of an AUC over so many samples."""


def every_request_for(job: str) -> dict[str, Message]:
    """Return a request of each RPC that names a job."""
    return {
        "Stop": pb.StopRequest(job=job, grace_ms=0),
        "Status": pb.StatusRequest(job=job),
        "Logs": pb.LogsRequest(job=job),
        "Stats": pb.StatsRequest(job=job),
        "Update": pb.UpdateRequest(job=job, limits=pb.Limits(pids=10)),
        "Pause": pb.PauseRequest(job=job),
        "Resume": pb.ResumeRequest(job=job),
        "Remove": pb.RemoveRequest(job=job),
        "CanI": pb.CanIRequest(verb="stop", job=job),
    }


def test_every_rpc_that_names_a_job_is_measured_below() -> None:
    methods = pb.DESCRIPTOR.services_by_name["JobService"].methods
    naming = {method.name for method in methods if "job" in method.input_type.fields_by_name}
    assert naming == every_request_for("").keys()


@pytest.mark.parametrize("verb", every_request_for(""))
def test_a_foreign_job_takes_as_long_to_answer_as_an_absent_one(
    people: People, bobs_job: str, verb: str
) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    told: set[Answer] = set()
    for number in range(2 * SAMPLES):
        foreign = number % 2 == 0
        job = bobs_job if foreign else str(uuid.uuid4())
        request = every_request_for(job)[verb]
        begin = time.perf_counter()
        answer = people.ask("alice", request)
        times[foreign].append(time.perf_counter() - begin)
        expected = grpc.StatusCode.OK if verb == "CanI" else grpc.StatusCode.NOT_FOUND
        assert answer.code is expected
        told.add(answer.without(job))
    assert len(told) == 1, told
    absent, present = times

    auc = area_under_curve(present, absent)
    median = statistics.median(absent) * 1e3
    print(f"{verb}: AUC {auc:.3f} over {SAMPLES} samples each, median {median:.2f} ms")
    assert abs(auc - 0.5) < FARTHEST


def area_under_curve(one: list[float], other: list[float]) -> float:
    """Return the chance that a value of `one` is larger than a value of `other`."""
    ranked = sorted([(value, 1) for value in one] + [(value, 0) for value in other])
    rank_sum = sum(rank for rank, (_, mark) in enumerate(ranked, 1) if mark)
    return (rank_sum - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))
