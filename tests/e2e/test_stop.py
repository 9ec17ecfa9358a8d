"""Stop: everything of the job ends, the answer comes when it is so, and no outcome is rewritten."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.support import (
    CHAIN,
    Api,
    Client,
    assert_chain_ended,
    chain_length,
    command_of,
    eventually,
    processes_of,
)

IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 600; done"


@pytest.fixture
def alice(alice: Client, isolation: str) -> Client:
    """A user whose jobs are bare, and then isolated: their course must be the same."""
    return alice.isolated(isolation)


def wait_output(api: Api, job: str) -> None:
    """Return once the job has written something."""
    for message in api.stream(job):
        if message.batch.entries:
            return
    raise AssertionError("the job ended without output")


def wait_sleepers(job: str, count: int) -> None:
    eventually(
        lambda: sum(command_of(pid)[:1] == ["sleep"] for pid in processes_of(job)) == count,
        what=f"{count} sleeping processes",
    )


def outcome_of(status: pb.JobStatus) -> tuple[str, int]:
    assert status.state == pb.JOB_STATE_TERMINATED
    kind = status.outcome.WhichOneof("kind")
    assert kind in ("exit_code", "signal"), status
    return kind, getattr(status.outcome, kind)


@pytest.mark.parametrize(
    "command",
    [
        "setsid sleep 600 & sleep 600",
        "(setsid sleep 600 &); exec sleep 600",
        "(setsid sh -c 'sleep 600 & exit' &); exec sleep 600",
        "(env -i setsid sh -c 'trap \"\" TERM HUP INT; exec sleep 600' &); exec sleep 600",
    ],
    ids=["another session", "double fork", "double fork from another session", "deaf and nameless"],
)
def test_a_stop_ends_every_process_of_the_job(alice: Client, command: str) -> None:
    job = alice.start("--grace", "1s", "--", "sh", "-c", command)
    root = alice.instance.cgroup_root
    if root is None:
        pytest.skip("without a cgroup only the host's own process table tells who was the job's")
    members = root / "jobs" / job / "cgroup.procs"

    def sleepers() -> list[int]:
        pids = [int(pid) for pid in members.read_text().split()]
        return [pid for pid in pids if command_of(pid)[:1] == ["sleep"]]

    pids = eventually(lambda: len(found := sleepers()) == 2 and found, what="both sleepers")
    alice.stop(job)
    assert [pid for pid in pids if command_of(pid)] == []
    assert not processes_of(job)
    assert not members.exists()
    assert alice.status(job) == "stopped (signal: 15)"


def test_a_job_that_ignores_TERM_is_killed_after_its_grace(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", IGNORES_TERM, grace_ms=1000)
        wait_output(api, job)
        began_at = time.monotonic()
        alice.stop(job)
        took_s = time.monotonic() - began_at
        assert 1 <= took_s < 6
        assert not processes_of(job)
    assert alice.status(job) == "stopped (signal: 9)"


def test_a_grace_given_to_the_stop_takes_the_place_of_the_jobs_own(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", IGNORES_TERM, grace_ms=60_000)
        wait_output(api, job)
        began_at = time.monotonic()
        alice.stop(job, "--grace", "500ms")
        assert 0.5 <= time.monotonic() - began_at < 5.5
    assert alice.status(job) == "stopped (signal: 9)"


def test_a_stop_without_grace_kills_at_once(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", IGNORES_TERM, grace_ms=60_000)
        wait_output(api, job)
        alice.stop(job, "--grace", "0")
    assert alice.status(job) == "stopped (signal: 9)"


def test_a_stop_returns_when_the_job_has_ended_and_not_after_the_grace(alice: Client) -> None:
    job = alice.start("--grace", "60s", "sleep", "600")
    began_at = time.monotonic()
    alice.stop(job)
    assert time.monotonic() - began_at < 20
    assert alice.status(job) == "stopped (signal: 15)"


def test_a_shorter_stop_hastens_one_that_is_under_way(alice: Client) -> None:
    with alice.api() as api, ThreadPoolExecutor() as pool:
        job = api.start("sh", "-c", IGNORES_TERM, grace_ms=60_000)
        wait_output(api, job)
        patient = pool.submit(api.stop, job)
        eventually(lambda: api.status(job).state == pb.JOB_STATE_STOPPING)
        assert alice.status(job) == "stopping"
        api.stop(job, grace_ms=100)
        assert outcome_of(patient.result(timeout=20)) == ("signal", 9)


def test_a_job_gets_the_signal_that_it_asked_for(alice: Client) -> None:
    job = alice.start("--signal", "INT", "sleep", "600")
    alice.stop(job)
    assert alice.status(job) == "stopped (signal: 2)"


@pytest.mark.parametrize(("name", "signo"), [("INT", 2), ("KILL", 9), ("SIGUSR1", 10), ("3", 3)])
def test_a_stop_may_name_another_signal(alice: Client, name: str, signo: int) -> None:
    job = alice.start("sleep", "600")
    alice.stop(job, "--signal", name)
    assert alice.status(job) == f"stopped (signal: {signo})"


def test_a_job_that_obeys_and_exits_is_finished_with_its_own_exit_code(alice: Client) -> None:
    script = "trap 'exit 7' TERM; echo ready; sleep 600 & wait"
    with alice.api() as api:
        job = api.start("sh", "-c", script)
        wait_output(api, job)
        status = api.stop(job)
        assert outcome_of(status) == ("exit_code", 7)
        assert status.stop_requested.by == "alice"
        assert status.stop_requested.signal == 15
    assert not processes_of(job)


def test_the_last_words_of_a_stopped_job_are_in_its_log(alice: Client) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo ready; sleep 600 & wait"
    with alice.api() as api:
        job = api.start("sh", "-c", script)
        wait_output(api, job)
        api.stop(job)
    assert alice.logs_raw(job)[0] == b"ready\nbye\n"


def test_ten_stops_at_once_all_succeed_and_tell_of_one_end(alice: Client) -> None:
    with alice.api() as api, ThreadPoolExecutor(10) as pool:
        job = api.start("sh", "-c", IGNORES_TERM, grace_ms=500)
        wait_output(api, job)
        commands = [pool.submit(alice.run, "stop", job) for _ in range(5)]
        calls = [pool.submit(api.stop, job) for _ in range(5)]
        for command in commands:
            done = command.result(timeout=60)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        statuses = [call.result(timeout=60) for call in calls]
        assert {status.SerializeToString(deterministic=True) for status in statuses} == {
            api.status(job).SerializeToString(deterministic=True)
        }
        assert outcome_of(statuses[0]) == ("signal", 9)


def test_a_stop_of_an_ended_job_is_silent_and_changes_nothing(alice: Client) -> None:
    job = alice.start("sh", "-c", "exit 3")
    alice.logs_raw(job)
    before = alice.status_json(job)
    for _ in range(3):
        alice.stop(job, "--grace", "0", "--signal", "KILL")
    assert alice.status_json(job) == before
    assert before["stop_requested"] is None
    assert alice.status(job) == "finished (exit code: 3)"


def test_stops_at_the_moment_of_a_natural_exit_tell_one_of_the_two_truths(alice: Client) -> None:
    with alice.api() as api, ThreadPoolExecutor(10) as pool:
        jobs = [api.start("sleep", f"0.{10 + n}") for n in range(30)]
        stopped = list(pool.map(lambda job: outcome_of(api.stop(job)), jobs))
        assert set(stopped) <= {("exit_code", 0), ("signal", 15)}
        for _ in range(2):
            assert [outcome_of(api.status(job)) for job in jobs] == stopped
        for job, outcome in zip(jobs, stopped, strict=True):
            end = api.logs(job).end
            assert end is not None
            assert outcome_of(end.status) == outcome


def test_what_the_first_process_leaves_behind_is_killed_and_its_outcome_counts(
    alice: Client,
) -> None:
    script = "setsid sleep 600 & sleep 600 & (sleep 600 &); exit 3"
    with alice.api() as api:
        job = api.start("sh", "-c", script)
        assert outcome_of(api.wait(job)) == ("exit_code", 3)
        assert not processes_of(job)
        assert not api.status(job).HasField("stop_requested")


def test_a_chain_of_processes_each_of_which_forks_the_next_and_ends_is_killed(
    alice: Client,
) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", CHAIN, grace_ms=0)
        eventually(lambda: chain_length(alice.instance, job) > 5, what="the chain")
        outcome_of(api.stop(job))
        assert_chain_ended(alice.instance, job)


def test_a_background_process_cannot_hold_the_log_open_after_the_end(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", "setsid sh -c 'while :; do echo x; done' & echo y; exit 0")
        log = api.logs(job)
        assert log.end is not None
        assert log.end.complete
        assert log.end.stdout_bytes == len(log.stdout)
        assert not processes_of(job)


def test_a_kill_from_elsewhere_is_told_as_the_end_that_it_was(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", "kill -SEGV $$")
        assert outcome_of(api.wait(job)) == ("signal", 11)
        assert not api.status(job).HasField("stop_requested")


def test_a_stop_with_a_bad_signal_or_grace_is_refused_and_leaves_the_job_alone(
    alice: Client,
) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600")
        for call in (
            lambda: api.stop(job, signo=65),
            lambda: api.stop(job, signo=-1),
            lambda: api.stop(job, grace_ms=-1),
        ):
            refusal = api.refused(call)
            assert refusal.reason == "INVALID_ARGUMENT"
            assert re.match("cannot ", refusal.message)
        assert api.status(job).state == pb.JOB_STATE_RUNNING
        api.stop(job, grace_ms=0)


def test_what_a_handler_starts_to_clean_up_is_left_alone(alice: Client) -> None:
    script = 'trap "sleep 0.3; echo cleaned rc=\\$?; exit 0" TERM; echo ready; sleep 600 & wait'
    with alice.api() as api:
        jobs = [api.start("sh", "-c", script) for _ in range(5)]
        for job in jobs:
            with alice.popen("logs", "--raw", job) as follower:
                assert follower.stdout is not None
                assert follower.stdout.readline() == b"ready\n"
                assert api.stop(job).outcome.exit_code == 0
                assert follower.stdout.read() == b"cleaned rc=0\n"
