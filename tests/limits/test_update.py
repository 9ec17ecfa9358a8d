"""Limits of a running job, changed: what happens is what they then are."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.limits.payloads import (
    BUSY,
    cpus,
    hoard,
    limits,
    measured,
    over,
    text_of,
    wait_output,
    wait_usage,
)
from tests.support import MIB, Api, Client, Instance

HOARD_WHEN_TOLD = f"echo ready; until [ -e go ]; do sleep 0.05; done; {hoard(32 * MIB)}; echo fits"


def test_a_quota_is_raised_and_lifted_while_its_job_runs(alice: Client, api: Api) -> None:
    job = api.start(*BUSY, limits=limits(cpu_millis=100, pids=9))
    measured("0.1 CPUs", 0.07, 0.13, lambda: cpus(over(api, [job], 2.0)[0]))
    assert alice.output("update", job, "--cpus", "0.4") == b""
    measured("then 0.4", 0.36, 0.44, lambda: cpus(over(api, [job], 2.0)[0]))
    assert api.status(job).limits == limits(cpu_millis=400, pids=9)
    api.update(job, unlimited=[pb.LIMIT_KIND_CPU])
    measured("then all", 0.6, 1.01, lambda: cpus(over(api, [job], 2.0)[0]))
    assert api.stop(job, grace_ms=0).limits.pids == 9


@pytest.mark.parametrize(("before", "after"), [(16, 256), (256, 16)], ids=["raised", "lowered"])
def test_a_limit_of_memory_is_changed_before_it_is_met(
    shared: Instance, api: Api, before: int, after: int
) -> None:
    job = api.start("sh", "-c", HOARD_WHEN_TOLD, limits=limits(memory_bytes=before * MIB))
    wait_output(api, job, b"ready\n")
    api.update(job, memory_bytes=after * MIB)
    Path(shared.work_dir, job, "go").touch()
    status = api.wait(job)
    assert status.limits.memory_bytes == after * MIB
    if before < after:
        assert status.outcome == pb.Outcome(exit_code=0)
        assert status.usage.memory_peak_bytes > 16 * MIB
    else:
        assert status.cause == pb.END_CAUSE_OOM


def test_whether_a_childs_end_is_the_jobs_can_be_changed(shared: Instance, api: Api) -> None:
    script = f"echo ready; until [ -e go ]; do sleep 0.05; done; ({hoard(32 * MIB)}); echo $?"
    job = api.start("sh", "-c", script, limits=limits(memory_bytes=16 * MIB))
    wait_output(api, job, b"ready\n")
    api.update(job, oom_group=False)
    Path(shared.work_dir, job, "go").touch()
    log = api.logs(job)
    assert log.stdout == b"ready\n137\n"
    assert log.end is not None
    assert log.end.status.cause == pb.END_CAUSE_EXITED
    assert not log.end.status.oom.leader


def test_a_limit_of_processes_is_raised_for_one_that_has_met_it(api: Api) -> None:
    # The shell that cannot fork ends, and the first begins another.
    script = "while :; do (sleep 600 & sleep 600 & wait) & wait $!; done"
    job = api.start("sh", "-c", script, limits=limits(pids=3))
    wait_usage(api, job, lambda usage: usage.pids_refused > 0, "a refused fork")
    assert api.usage(job).pids <= 3
    api.update(job, pids=20)
    wait_usage(api, job, lambda usage: usage.pids >= 4, "more processes")
    api.stop(job, grace_ms=0)


def test_a_rate_is_changed_and_lifted_while_its_job_writes(
    disk: Path, api: Api, jobs_group: Path
) -> None:
    write = "dd if=/dev/zero of=file bs=64k count=64 oflag=direct conv=notrunc 2>/dev/null"
    slow = [pb.IoLimit(path=str(disk), write_bps=MIB)]
    job = api.start("sh", "-c", f"while {write}; do :; done", limits=limits(io=slow))

    def rate() -> float:
        used = over(api, [job], 3.0)[0]
        return used.io_write_bytes * 1e9 / used.wall_ns / MIB

    measured("1 MiB/s", 0.8, 1.2, rate)
    api.update(job, io=[pb.IoLimit(path=str(disk), write_bps=3 * MIB)])
    measured("then 3 MiB/s", 2.4, 3.6, rate)
    api.update(job, io=[pb.IoLimit(path=str(disk), unlimited=[pb.IO_RATE_WRITE_BPS])])
    assert text_of(jobs_group / job, "io.max") == ""
    measured("then as fast as it goes", 4, 1e6, rate)
    api.stop(job, grace_ms=0)


def test_changed_limits_outlive_the_server(shared: Instance, api: Api, jobs_group: Path) -> None:
    job = api.start(*BUSY, limits=limits(cpu_millis=100, memory_bytes=16 * MIB))
    api.update(job, cpu_millis=300, memory_bytes=32 * MIB)
    shared.kill()
    shared.start()
    assert text_of(jobs_group / job, "cpu.max") == "30000 100000"
    with shared.issue("alice", "user").api() as api:
        assert api.status(job).limits == limits(cpu_millis=300, memory_bytes=32 * MIB)
        # What is not named stays as it was changed, and not as it was at the start.
        status = api.update(job, pids=5)
        assert status.limits == limits(cpu_millis=300, memory_bytes=32 * MIB, pids=5)
        api.stop(job, grace_ms=0)


def test_only_limits_of_a_running_job_can_be_changed(api: Api) -> None:
    job = api.start("true")
    api.wait(job)
    refusal = api.refused(lambda: api.update(job, pids=5))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
    assert refusal.message == f"cannot update job {job}: it has ended"
    refusal = api.refused(lambda: api.update("absent", pids=5))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
