"""A limit that cannot be set, for whatever reason: nothing is started, nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobruntime.linux.limits import LimitError, Write, apply_writes
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.limits.payloads import SLEEP, hog_limit, limits, text_of
from tests.support import MIB, Api, Instance, Refusal, eventually

NO_DISK = {
    "/dev/null": "it is a character device, not a block device",
    "/proc/self/status": "it lies on proc, which has no block device",
    "/no/such/disk": "No such file or directory",
}

GONE = {
    "cpu": (limits(cpu_millis=500), "cpu.max = 50000 100000"),
    "memory": (limits(memory_bytes=16 * MIB), "memory.swap.max = 0"),
    "pids": (limits(memory_bytes=16 * MIB, cpu_millis=500, pids=9), "pids.max = 9"),
    "io": (limits(pids=9, io=[pb.IoLimit(path="/disk", read_bps=MIB)]), "io.max = "),
}


def refuse_start(shared: Instance, api: Api, bounds: pb.Limits) -> Refusal:
    """Return how a start was refused, of which nothing may be left."""
    before = shared.traces()
    refusal = api.refused(lambda: api.start("sh", "-c", "touch ran", limits=bounds, name="free"))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    eventually(lambda: shared.traces() == before, 40, "nothing to be left")
    return refusal


@pytest.mark.parametrize("path", NO_DISK)
def test_a_path_that_has_no_disk_is_refused(shared: Instance, api: Api, path: str) -> None:
    io = [pb.IoLimit(path=path, write_bps=MIB)]
    refusal = refuse_start(shared, api, limits(memory_bytes=16 * MIB, pids=9, io=io))
    assert refusal.reason == "LIMIT_REFUSED"
    assert refusal.message == (
        f"cannot start the job: no disk can be named for {path}: {NO_DISK[path]}"
    )


def test_a_path_that_the_jobs_user_cannot_reach_is_refused_as_such(
    shared: Instance, api: Api
) -> None:
    io = [pb.IoLimit(path=str(shared.jobs_dir), write_bps=MIB)]
    refusal = refuse_start(shared, api, limits(io=io))
    assert refusal.message.endswith(f"for {shared.jobs_dir}: Permission denied")


@contextmanager
def taken_away(controller: str, group: Path) -> Iterator[None]:
    """Take a controller from the groups in this one, behind jobd's back."""
    switches = group / "cgroup.subtree_control"
    switches.write_text(f"-{controller}")
    try:
        yield
    finally:
        switches.write_text(f"+{controller}")


@pytest.mark.parametrize("controller", GONE)
def test_a_controller_that_has_gone_since_the_servers_start_starts_nothing(
    shared: Instance, disk: Path, api: Api, jobs_group: Path, controller: str
) -> None:
    bounds, told = GONE[controller]
    asked = pb.Limits()
    asked.CopyFrom(bounds)
    for limit in asked.io:
        limit.path = str(disk)
    with taken_away(controller, jobs_group):
        refusal = refuse_start(shared, api, asked)
    assert refusal.reason == "LIMIT_REFUSED"
    assert refusal.message.startswith(f"cannot start the job: the kernel refuses {told}")
    assert refusal.message.endswith(": No such file or directory")
    job = api.start(*SLEEP, limits=asked, name="free")  # as before, with the same name
    api.stop(job, grace_ms=0)


def test_a_change_that_fails_in_its_middle_changes_nothing(api: Api, jobs_group: Path) -> None:
    job = api.start(*SLEEP, limits=limits(memory_bytes=16 * MIB, pids=9))
    group = jobs_group / job
    files = ("memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max", "io.max")
    before = {file: text_of(group, file) for file in files}
    bad = [pb.IoLimit(path="/dev/null", read_bps=MIB)]
    changes = {"memory_bytes": 32 * MIB, "memory_high_bytes": MIB, "pids": 3, "cpu_millis": 100}
    refusal = api.refused(lambda: api.update(job, io=bad, **changes))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "LIMIT_REFUSED",
    )
    with taken_away("pids", jobs_group):
        refusal = api.refused(lambda: api.update(job, **changes))
        assert "the kernel refuses pids.max = 3" in refusal.message
        assert text_of(group, "memory.max") == before["memory.max"]
        assert text_of(group, "memory.high") == before["memory.high"]
    status = api.status(job)
    assert status.state == pb.JOB_STATE_RUNNING
    assert status.limits == limits(memory_bytes=16 * MIB, pids=9)
    for file in set(files) - {"pids.max"}:  # that one was taken away, and is new
        assert text_of(group, file) == before[file]
    api.stop(job, grace_ms=0)


def test_a_limit_that_reads_back_as_another_is_undone_with_those_before_it(
    api: Api, jobs_group: Path
) -> None:
    job = api.start(*SLEEP, limits=hog_limit(16))
    group = jobs_group / job
    writes = [
        Write("memory.max", str(32 * MIB)),
        Write("cpu.max", "20000 100000"),
        Write("pids.max", "0100"),  # the kernel takes it, as 100
    ]
    with pytest.raises(LimitError) as caught:
        apply_writes(str(group), writes)
    assert (caught.value.file, caught.value.code) == ("pids.max", 0)
    assert text_of(group, "memory.max") == str(16 * MIB)
    assert text_of(group, "cpu.max") == "max 100000"
    assert text_of(group, "pids.max") == "max"
    api.stop(job, grace_ms=0)
