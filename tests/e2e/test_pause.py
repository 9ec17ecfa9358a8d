"""Pause and resume: a job held still uses nothing, goes on where it was, and can be ended."""

from __future__ import annotations

import os
import signal
import time

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import Api, Client, Instance, eventually

BUSY = "i=0; while :; do i=$((i + 1)); done"
MOMENT_S = 0.3
STOP_S = 5.0


@pytest.fixture(autouse=True)
def cgroups(shared: Instance) -> None:
    if shared.cgroup_root is None:
        pytest.skip("no cgroup v2 here that could be written")


@pytest.fixture
def alice(alice: Client, isolation: str) -> Client:
    """A user whose jobs are bare, and then isolated: their course must be the same."""
    return alice.isolated(isolation)


def used_in_a_moment(api: Api, job: str) -> int:
    """Return how much CPU time a job uses in some time that passes, in microseconds."""
    before = api.usage(job).cpu_us
    time.sleep(MOMENT_S)  # it is the time itself that is measured over
    return api.usage(job).cpu_us - before


def test_a_paused_job_stands_still_with_all_its_processes_and_goes_on(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", f"({BUSY}) & (setsid sh -c '{BUSY}') & {BUSY}")
        eventually(lambda: api.usage(job).cpu_us > 0, what="its first turn")
        for _ in range(2):
            assert alice.output("pause", job) == b""
            assert alice.status(job) == "paused"
            assert used_in_a_moment(api, job) == 0
            assert api.pause(job).state == pb.JOB_STATE_PAUSED  # again, which is no error
            assert alice.output("resume", job) == b""
            assert api.status(job).state == pb.JOB_STATE_RUNNING
            mark = api.usage(job).cpu_us
            eventually(lambda mark=mark: api.usage(job).cpu_us > mark, what="its going on")  # type: ignore[misc]
            assert api.resume(job).state == pb.JOB_STATE_RUNNING
        api.stop(job, grace_ms=0)


@pytest.mark.parametrize("grace_ms", [None, 0], ids=["by TERM", "by KILL"])
def test_a_paused_job_can_be_stopped(alice: Client, grace_ms: int | None) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    with alice.api() as api:
        job = api.start("sh", "-c", script, grace_ms=60_000)
        eventually(lambda: api.logs(job, follow=False).stdout == b"ready\n")
        api.pause(job)
        began_s = time.monotonic()
        status = api.stop(job, grace_ms=grace_ms)
        assert time.monotonic() - began_s < STOP_S
        log = api.logs(job)
        if grace_ms is None:  # it is woken, and can do what it wants to at its end
            assert (status.outcome, log.stdout) == (pb.Outcome(exit_code=0), b"ready\nbye\n")
        else:
            assert (status.outcome, log.stdout) == (pb.Outcome(signal=9), b"ready\n")


def test_the_timeout_of_a_paused_job_goes_on(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600", timeout_ms=1500)
        api.pause(job)
        status = api.wait(job)
        assert (status.outcome, status.cause) == (pb.Outcome(signal=15), pb.END_CAUSE_TIMEOUT)


def test_a_paused_job_stays_so_over_a_restart_of_the_server(instance: Instance) -> None:
    with instance.admin.api() as api:
        job = api.start("sh", "-c", BUSY)
        api.pause(job)
    instance.kill()
    instance.start()
    with instance.admin.api() as api:
        assert api.status(job).state == pb.JOB_STATE_PAUSED
        assert used_in_a_moment(api, job) == 0
        assert api.resume(job).state == pb.JOB_STATE_RUNNING
        assert api.stop(job, grace_ms=0).outcome == pb.Outcome(signal=9)


def test_a_paused_job_whose_keeper_is_killed_is_lost_and_leaves_nothing(
    shared: Instance, alice: Client
) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600")
        keeper = shared.keeper_of(job)
        assert keeper is not None
        api.pause(job)
        os.kill(keeper, signal.SIGKILL)
        end = api.logs(job).end
        assert end is not None
        assert end.status.outcome.lost == "its keeper died"
        eventually(lambda: job not in shared.job_cgroups(), what="the end of its group")


def test_only_a_running_job_can_be_paused_and_only_a_paused_one_resumed(alice: Client) -> None:
    deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    with alice.api() as api:
        ended = api.start("true")
        api.wait(ended)
        for change in (api.pause, api.resume):
            refusal = api.refused(lambda change=change: change(ended))  # type: ignore[misc]
            assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refusal.reason == "WRONG_STATE"
            assert refusal.message.endswith(": it has ended")
        stopping = api.start("sh", "-c", deaf, grace_ms=60_000)
        eventually(lambda: api.logs(stopping, follow=False).stdout == b"ready\n")
        stop = api.stub.Stop.future(pb.StopRequest(job=stopping), timeout=60)
        eventually(lambda: api.status(stopping).state == pb.JOB_STATE_STOPPING)
        refusal = api.refused(lambda: api.pause(stopping))
        assert refusal.reason == "WRONG_STATE"
        api.stop(stopping, grace_ms=0)
        assert stop.result().status.outcome == pb.Outcome(signal=9)
