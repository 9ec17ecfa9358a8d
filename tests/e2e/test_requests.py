"""Request ids, names and prefixes: how a job is found again, and never started twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import Client, Instance, refusal_of, scaled


def test_a_repeated_request_gets_the_same_job(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600", request_id="r1", env={"A": "1", "B": "2"})
        assert api.start("sleep", "600", request_id="r1", env={"B": "2", "A": "1"}) == job
        api.stop(job, grace_ms=0)
        assert api.start("sleep", "600", request_id="r1", env={"A": "1", "B": "2"}) == job
        assert api.status(job).state == pb.JOB_STATE_TERMINATED


def test_a_request_id_for_something_else_is_refused(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("true", request_id="r2")
        others = {
            "argv": lambda: api.start("true", "x", request_id="r2"),
            "env": lambda: api.start("true", request_id="r2", env={"A": "1"}),
            "grace": lambda: api.start("true", request_id="r2", grace_ms=1),
            "name": lambda: api.start("true", request_id="r2", name="r2"),
        }
        for what, call in others.items():
            refusal = api.refused(call)
            assert refusal.code is grpc.StatusCode.ALREADY_EXISTS, what
            assert refusal.reason == "REQUEST_ID_REUSED"
            assert refusal.message.startswith("cannot ")
        assert api.start("true", request_id="r2") == job


def test_a_request_id_is_its_owners_own(alice: Client, bob: Client) -> None:
    with alice.api() as api, bob.api() as other:
        mine = api.start("true", request_id="r3")
        assert other.start("false", request_id="r3") != mine


def test_twenty_equal_requests_at_once_start_one_job(alice: Client) -> None:
    before = alice.instance.job_ids()
    with alice.api() as api, ThreadPoolExecutor(20) as pool:
        calls = [
            pool.submit(api.start, "sleep", "600", request_id="r4", name="only") for _ in range(20)
        ]
        jobs = {call.result(timeout=60) for call in calls}
        assert len(jobs) == 1
        assert alice.instance.job_ids() - before == jobs
        api.stop("only", grace_ms=0)


def test_twenty_different_requests_with_one_name_start_one_job(alice: Client) -> None:
    with alice.api() as api, ThreadPoolExecutor(20) as pool:

        def start(_: int) -> str:
            try:
                return api.start("sleep", "600", name="wanted")
            except grpc.RpcError as error:
                return refusal_of(error).reason

        answers = list(pool.map(start, range(20)))
        assert answers.count("NAME_IN_USE") == 19
        api.stop("wanted", grace_ms=0)


def test_jobc_passes_a_request_id(alice: Client) -> None:
    job = alice.start("--request-id", "r5", "true")
    assert alice.start("--request-id", "r5", "true") == job
    done = alice.run("start", "--request-id", "r5", "false")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"jobc: cannot ")


def test_requests_and_names_are_known_after_a_restart(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    with alice.api() as api:
        ended = api.start("true", request_id="ended")
        api.wait(ended)
        running = api.start("sleep", "600", request_id="running", name="nightly")
    instance.kill()
    instance.start()
    with alice.api() as api:
        assert api.start("true", request_id="ended") == ended
        assert api.start("sleep", "600", request_id="running", name="nightly") == running
        assert api.refused(lambda: api.start("false", request_id="ended")).reason == (
            "REQUEST_ID_REUSED"
        )
        assert api.refused(lambda: api.start("true", name="nightly")).reason == "NAME_IN_USE"
        assert api.status("nightly").job_id == running


def test_a_name_stands_for_its_job_and_is_free_again_after_the_end(alice: Client) -> None:
    first = alice.start("--name", "nightly", "--label", "team=a b", "sleep", "600")
    assert alice.status("nightly") == "running"
    told = alice.status_json("nightly")
    assert (told["job_id"], told["name"], told["labels"]) == (first, "nightly", {"team": "a b"})
    done = alice.run("start", "--name", "nightly", "true")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"jobc: cannot ")
    alice.stop("nightly", "--grace", "0")
    second = alice.start("--name", "nightly", "sh", "-c", "echo second")
    assert alice.logs_raw("nightly") == (b"second\n", b"")
    assert alice.status_json("nightly")["job_id"] == second
    assert alice.status(first) == "stopped (signal: 9)"


@pytest.mark.parametrize("told_by", ["stop", "logs"])
def test_a_name_is_free_from_the_moment_on_that_the_end_is_told(
    alice: Client, told_by: str
) -> None:
    with alice.api() as api:
        for _ in range(scaled(100, 1000)):
            if told_by == "stop":
                api.stop(api.start("sleep", "600", name="again"), grace_ms=0)
            else:
                api.logs(api.start("true", name="again"))


def test_a_name_is_its_owners_own(alice: Client, bob: Client) -> None:
    with alice.api() as api, bob.api() as other:
        mine = api.start("sleep", "600", name="shared-word")
        theirs = other.start("sleep", "600", name="shared-word")
        assert api.status("shared-word").job_id == mine
        assert other.status("shared-word").job_id == theirs
        api.stop(mine, grace_ms=0)
        other.stop(theirs, grace_ms=0)


def common_length(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=True))
    return next(index for index, (mine, yours) in pairs if mine != yours)


def test_a_prefix_is_enough_while_it_means_one_job(shared: Instance) -> None:
    pauline = shared.issue("pauline", "user")  # nobody else's: the jobs of other tests would count
    with pauline.api() as api:
        jobs = [api.start("true") for _ in range(17)]  # two of them begin alike
        for job in jobs:
            others = [other for other in jobs if other != job]
            shared_length = max(common_length(job, other) for other in others)
            assert api.status(job[: shared_length + 1]).job_id == job
            if shared_length:
                refusal = api.refused(lambda text=job[:shared_length]: api.status(text))  # type: ignore[misc]
                assert refusal.reason == "JOB_AMBIGUOUS"
        assert api.refused(lambda: api.status("")).reason == "INVALID_ARGUMENT"
        assert api.refused(lambda: api.status("xyz")).reason == "JOB_NOT_FOUND"
        for pattern in ("%", "_" * 36, "*", "' OR 1=1 --"):
            assert api.refused(lambda text=pattern: api.status(text)).reason == "JOB_NOT_FOUND"  # type: ignore[misc]


def test_ids_are_random_and_differ(alice: Client) -> None:
    with alice.api() as api:
        jobs = [api.start("true") for _ in range(8)]
    assert len(set(jobs)) == len(jobs)
    assert all(job[14] == "4" and job[19] in "89ab" for job in jobs)
