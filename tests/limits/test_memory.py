"""Memory: a limit that kills, one that slows, swap, and what is never charged to a job."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.limits.payloads import SLEEP, hoard, hog_limit, limits, taking, wait_output, wait_usage
from tests.support import (
    MIB,
    PATIENCE,
    Api,
    Client,
    Instance,
    eventually,
    processes_of,
    status_fields,
)

SMALL_BYTES = (4096, 16 << 10, 64 << 10, 256 << 10, 1 << 20)


def test_a_hog_is_killed_at_its_limit_and_told_so_while_server_and_neighbours_live(
    shared: Instance, alice: Client, api: Api
) -> None:
    neighbours = [api.start(*SLEEP, limits=hog_limit(64)), api.start(*SLEEP)]
    alive = [processes_of(job) for job in neighbours]
    server, spawner = shared.pid, shared.spawner_pid()
    hog = api.start(*taking(128 * MIB), limits=hog_limit(64))
    status = api.wait(hog)
    assert status.outcome.signal == 9
    assert status.cause == pb.END_CAUSE_OOM
    assert (status.oom.scope, status.oom.leader) == (pb.OOM_SCOPE_JOB, True)
    assert 32 * MIB < status.usage.memory_peak_bytes <= 64 * MIB
    told = alice.output("status", "-o", "wide", hog).decode()
    assert "out of memory: it reached its limit of 64 MiB, and the kernel killed it" in told
    assert "Advice:  out of memory at its limit: --memory raises it from 64 MiB" in told
    assert (shared.pid, shared.spawner_pid()) == (server, spawner)
    assert [processes_of(job) for job in neighbours] == alive
    for job in neighbours:
        assert api.status(job).state == pb.JOB_STATE_RUNNING
        api.stop(job, grace_ms=0)


def test_without_swap_of_its_own_a_hog_is_killed_and_with_it_goes_on(api: Api) -> None:
    if len(Path("/proc/swaps").read_text().splitlines()) < 2:
        pytest.skip("this host has no swap")
    keeping = taking(16 * MIB, "echo done; sleep 1000")
    alone = api.start(*keeping, limits=hog_limit(12))
    assert api.wait(alone).cause == pb.END_CAUSE_OOM
    job = api.start(*keeping, limits=limits(memory_bytes=12 * MIB, memory_swap_bytes=56 * MIB))
    wait_output(api, job, b"done\n")
    usage = api.usage(job)
    assert usage.memory_bytes <= 12 * MIB
    assert usage.swap_bytes > 2 * MIB
    assert not api.stop(job, grace_ms=0).HasField("oom")


def test_a_job_above_its_soft_limit_is_slowed_until_that_is_raised(api: Api) -> None:
    script = f"echo begin; {hoard(16 * MIB)}; echo end; sleep 1000"

    def run(bounds: pb.Limits) -> str:
        job = api.start("sh", "-c", script, limits=bounds)
        wait_output(api, job, b"begin\n")
        return job

    began_s = time.monotonic()
    free = run(limits(memory_bytes=256 * MIB))
    wait_output(api, free, b"end\n")
    free_s = time.monotonic() - began_s
    # With a limit above, it has no swap to evade into.
    slow = run(limits(memory_bytes=256 * MIB, memory_high_bytes=4 * MIB))
    time.sleep(3 * free_s)
    assert api.logs(slow, follow=False).stdout == b"begin\n"
    usage = wait_usage(api, slow, lambda now: now.memory_high_events > 0, "its being slowed")
    assert usage.memory_bytes < 12 * MIB
    assert not api.status(slow).HasField("oom")
    api.update(slow, unlimited=[pb.LIMIT_KIND_MEMORY_HIGH])
    wait_output(api, slow, b"end\n")
    for job in (free, slow):
        api.stop(job, grace_ms=0)


def test_a_job_that_is_being_slowed_can_be_stopped(api: Api) -> None:
    bounds = limits(memory_bytes=256 * MIB, memory_high_bytes=4 * MIB)
    job = api.start(*taking(64 * MIB), limits=bounds)
    wait_usage(api, job, lambda now: now.memory_high_events > 0, "its being slowed")
    began_s = time.monotonic()
    assert api.stop(job).cause == pb.END_CAUSE_STOP
    assert time.monotonic() - began_s < 2 * PATIENCE


def test_what_a_keeper_needs_for_a_job_is_not_charged_to_it(shared: Instance, api: Api) -> None:
    # Its output is 32 times its limit, and the log's pages are the keeper's.
    script = "dd if=/dev/zero bs=64k count=1024 2>/dev/null; echo; sleep 1000"
    job = api.start("sh", "-c", script, limits=limits(memory_bytes=2 * MIB))
    directory = shared.jobs_dir / job

    def log_size() -> int:
        return sum(path.stat().st_size for path in directory.glob("log.*"))

    eventually(lambda: log_size() > 64 * MIB, what="its output")
    keeper = shared.keeper_of(job)
    assert keeper is not None
    assert Path(f"/proc/{keeper}/cgroup").read_text().endswith("/supervisor\n")
    assert keeper not in processes_of(job)
    assert "Threads" in status_fields(keeper)
    receipt = api.stop(job, grace_ms=0).usage
    assert 0 < receipt.memory_peak_bytes < 2 * MIB
    assert receipt.memory_max_events == 0


@pytest.mark.parametrize("size_bytes", SMALL_BYTES)
def test_too_little_memory_to_execute_anything_is_told_and_leaves_nothing(
    shared: Instance, api: Api, size_bytes: int
) -> None:
    before = shared.traces()
    try:
        job = api.start("true", limits=limits(memory_bytes=size_bytes))
    except grpc.RpcError as error:
        failure = error
    else:
        # It was executed, and what became of it then is its own story.
        assert size_bytes > 4096
        assert api.wait(job).cause in (pb.END_CAUSE_OOM, pb.END_CAUSE_EXITED)
        return

    def refuse() -> object:
        raise failure

    refusal = api.refused(refuse)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "KILLED_BEFORE_EXEC",
    )
    size = f"{size_bytes >> 10} KiB" if size_bytes < MIB else "1 MiB"
    assert refusal.message == (
        f"cannot start the job: its limit of memory, {size}, is too small to execute 'true'"
    )
    eventually(lambda: shared.traces() == before, 40, "nothing to be left")
