"""A job's timeout: it ends the job as a stop would, and the status tells that it was that."""

import datetime
import time

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.support import Client, processes_of


@pytest.fixture
def alice(alice: Client, isolation: str) -> Client:
    """A user whose jobs are bare, and then isolated: their course must be the same."""
    return alice.isolated(isolation)


def seconds_between(one: object, other: object) -> float:
    times = [datetime.datetime.fromisoformat(str(text)[:26] + "+00:00") for text in (one, other)]
    return (times[1] - times[0]).total_seconds()


def test_a_job_that_runs_too_long_is_stopped_and_says_so(alice: Client) -> None:
    began_at = time.monotonic()
    job = alice.start("--timeout", "300ms", "sleep", "600")
    alice.logs_raw(job)
    assert time.monotonic() - began_at < 20
    assert alice.status(job) == "stopped (signal: 15)"
    told = alice.status_json(job)
    assert told["timed_out"] is True
    assert told["state"] == "terminated"
    assert told["outcome"] == {"signal": 15, "signal_name": "SIGTERM"}
    assert 0.3 <= seconds_between(told["started_at"], told["ended_at"]) < 10
    assert b"its timeout passed" in alice.output("status", "-o", "wide", job)


def test_a_job_that_ignores_the_signal_of_its_timeout_is_killed_after_its_grace(
    alice: Client,
) -> None:
    script = "trap '' TERM; while :; do sleep 600; done"
    with alice.api() as api:
        job = api.start("sh", "-c", script, timeout_ms=300, grace_ms=300)
        status = api.wait(job)
        assert status.outcome.signal == 9
        assert status.timed_out
        took_ns = status.ended_at.ToNanoseconds() - status.started_at.ToNanoseconds()
        assert 0.6e9 <= took_ns < 10e9
        assert not processes_of(job)


def test_a_timeout_uses_the_jobs_own_stop_signal(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600", timeout_ms=100, stop_signal=2)
        assert api.wait(job).outcome.signal == 2


def test_a_job_that_ends_in_time_did_not_time_out(alice: Client) -> None:
    job = alice.start("--timeout", "1h", "true")
    alice.logs_raw(job)
    told = alice.status_json(job)
    assert (told["timed_out"], told["outcome"]) == (False, {"exit_code": 0})


def test_a_timeout_and_a_grace_of_years_are_waited_for(alice: Client) -> None:
    # poll(2) takes no more than 24 days; a keeper that gave it more would die at its first wait.
    script = "trap 'echo told' TERM; echo ready; while :; do sleep 0.1; done"
    with alice.api() as api:
        job = api.start("sh", "-c", script, timeout_ms=3 * 365 * 86_400_000)
        with alice.popen("logs", "--raw", job) as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline() == b"ready\n"
            with alice.popen("stop", "--grace", "400d", job) as stopping:
                assert follower.stdout.readline() == b"told\n"
                assert alice.status(job) == "stopping"
                alice.stop(job, "--grace", "0")
                assert stopping.wait(timeout=20) == 0
        assert alice.status(job) == "stopped (signal: 9)"


@pytest.mark.parametrize("text", ["0", "soon", "5", "-1s", "1w", "1s2"])
def test_a_timeout_that_is_no_duration_is_a_usage_error(alice: Client, text: str) -> None:
    done = alice.run("start", "--timeout", text, "true")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"cannot " in done.stderr


def test_a_grace_of_the_job_is_told_with_its_stop(alice: Client) -> None:
    job = alice.start("--grace", "1m30s", "sleep", "600")
    alice.stop(job)
    told = alice.status_json(job)["stop_requested"]
    assert isinstance(told, dict)
    assert {key: told[key] for key in ("by", "signal", "grace_ms")} == {
        "by": "alice",
        "signal": 15,
        "grace_ms": 90_000,
    }


def test_the_grace_that_nobody_gave_is_the_servers(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600")
        assert api.status(job).state == pb.JOB_STATE_RUNNING
        assert api.stop(job).stop_requested.grace_ms == 10_000
