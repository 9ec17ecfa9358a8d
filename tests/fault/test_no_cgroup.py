"""A host where no cgroup can be written: jobs are tracked as the subreaper of their processes."""

import json
import socket
from collections.abc import Iterator

import pytest

from jobruntime.linux.files import encode_json
from jobruntime.model.errors import Reason
from jobruntime.model.limits import Limits, encode_limits
from jobruntime.model.protocol import parse_failure
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.worker.start_errors import change_error
from tests.support import (
    CHAIN,
    DEADLINE_S,
    Client,
    Instance,
    assert_chain_ended,
    chain_length,
    command_of,
    eventually,
    processes_of,
)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A user of an instance without cgroups."""

    def without_cgroup(text: str) -> str:
        assert 'root = "auto"' in text
        return text.replace('root = "auto"', 'root = "none"')

    directory = tmp_path_factory.mktemp("no-cgroup") / "instance"
    with Instance(directory, edit=without_cgroup) as instance:
        assert instance.cgroup_root is None
        yield instance.issue("dora", "user")


@pytest.fixture
def dora(user: Client, isolation: str) -> Client:
    """The same user, whose jobs are bare, and then isolated."""
    return user.isolated(isolation)


def wait_sleepers(job: str, count: int) -> set[int]:
    def sleepers() -> set[int]:
        return {pid for pid in processes_of(job) if command_of(pid)[:1] == ["sleep"]}

    return eventually(lambda: found if len(found := sleepers()) == count else set())


@pytest.mark.parametrize(
    ("script", "sleepers"),
    [
        ("setsid sleep 600 & sleep 600", 2),
        ("(setsid sleep 600 &); exec sleep 600", 2),
        ("(setsid sh -c '(sleep 600 &); sleep 600 & exit' &); exec sleep 600", 3),
        ("(setsid sh -c 'trap \"\" TERM HUP INT; exec sleep 600' &); exec sleep 600", 2),
    ],
    ids=["another session", "double fork", "deeper", "deaf"],
)
def test_a_stop_ends_what_has_left_the_jobs_session(
    dora: Client, script: str, sleepers: int
) -> None:
    with dora.api() as api:
        job = api.start("sh", "-c", script, grace_ms=500)
        pids = wait_sleepers(job, sleepers)
        status = api.stop(job)
        assert status.outcome.signal == 15
        assert not processes_of(job)
        assert not any(map(command_of, pids))


def test_what_the_first_process_leaves_behind_is_killed(dora: Client) -> None:
    with dora.api() as api:
        job = api.start("sh", "-c", "setsid sleep 600 & sleep 600 & (sleep 600 &); exit 3")
        assert api.wait(job).outcome.exit_code == 3
        assert not processes_of(job)


def test_a_chain_of_processes_each_of_which_forks_the_next_and_ends_is_killed(
    dora: Client,
) -> None:
    with dora.api() as api:
        job = api.start("sh", "-c", CHAIN, grace_ms=0)
        eventually(lambda: chain_length(dora.instance, job) > 5, what="the chain")
        assert api.stop(job).state == pb.JOB_STATE_TERMINATED
        assert_chain_ended(dora.instance, job)


def test_many_processes_in_sessions_of_their_own_are_all_killed(dora: Client) -> None:
    crowd = "i=0; while [ $i -lt 100 ]; do (setsid sleep 600 &); i=$((i+1)); done; sleep 600"
    with dora.api() as api:
        job = api.start("sh", "-c", crowd, grace_ms=0)
        eventually(lambda: len(processes_of(job)) > 5, what="some of its processes")
        assert api.stop(job).state == pb.JOB_STATE_TERMINATED
        assert not processes_of(job)


def test_a_job_that_ignores_TERM_is_killed_after_its_grace(dora: Client) -> None:
    with dora.api() as api:
        job = api.start(
            "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done", grace_ms=400
        )
        next(api.stream(job))
        assert api.stop(job).outcome.signal == 9
        assert not processes_of(job)


def test_output_outcome_and_view_are_the_same_as_with_a_cgroup(dora: Client) -> None:
    job = dora.start("sh", "-c", "ls /proc/$$/fd; seq 1 10000; exit 5")
    stdout, _ = dora.logs_raw(job)
    assert stdout.split() == [b"0", b"1", b"2", *(b"%d" % n for n in range(1, 10_001))]
    assert dora.status(job) == "finished (exit code: 5)"


def test_a_failed_start_leaves_nothing(dora: Client) -> None:
    before = dora.instance.processes()
    jobs = dora.instance.job_ids()
    with dora.api() as api:
        assert api.refused(lambda: api.start("absent")).reason == "PROGRAM_NOT_FOUND"
    eventually(lambda: dora.instance.processes() == before)
    assert dora.instance.job_ids() == jobs


def test_an_update_of_a_job_without_a_cgroup_says_so_and_not_that_it_has_ended(
    dora: Client,
) -> None:
    with dora.api() as api:
        job = api.start("sleep", "600", grace_ms=0)
        # The server refuses it by what its host offers; a server that was started anew where there
        # are cgroups asks the keeper.
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as keeper:
            keeper.settimeout(DEADLINE_S)
            keeper.connect(str(dora.instance.runtime_dir / "keepers" / job))
            limits = encode_limits(Limits(memory_bytes=1 << 30))
            keeper.send(encode_json({"op": "update", "seq": 7, "limits": limits}))
            messages = iter(lambda: json.loads(keeper.recv(65536)), None)
            answer = next(message for message in messages if message.get("answer") == 7)
        error = change_error(parse_failure(answer["failed"]), "update it")
        assert error.reason is Reason.LIMIT_NOT_ENFORCEABLE
        assert "started without a cgroup v2 of its own" in error.message
        assert error.remedy
        assert api.stop(job).outcome.signal == 9
