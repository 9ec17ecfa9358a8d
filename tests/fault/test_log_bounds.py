"""Logs within their bounds: what is dropped is told to the byte, and nothing else is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.disks import LINE_BYTES, fill, mounted_disk, numbers, tally
from tests.support import MIB, Api, Instance, MakeInstance, eventually, scaled

OUT, ERR = pb.LOG_STREAM_STDOUT, pb.LOG_STREAM_STDERR
LIMIT = scaled(8 * MIB, 100 * MIB)
LINES = {
    OUT: scaled(300 * MIB, 15 << 30) // LINE_BYTES,
    ERR: scaled(100 * MIB, 5 << 30) // LINE_BYTES,
}
BOTH = f"{numbers(OUT, LINES[OUT])} & {numbers(ERR, LINES[ERR])}; wait"
READ_S = scaled(100, 3600)


@pytest.fixture
def api(instance: Instance) -> Iterator[Api]:
    with instance.admin.api() as api:
        yield api


def bounds(max_bytes: int | None, full: pb.LogFull = pb.LOG_FULL_UNSPECIFIED) -> pb.LogBounds:
    return pb.LogBounds(max_bytes=max_bytes, on_full=full)


@contextmanager
def watched(directory: Path) -> Iterator[list[int]]:
    """Give a list that has, when this ends, the most bytes on disk that were seen there."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            most[0] = max(most[0], disk_bytes(directory))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def disk_bytes(directory: Path) -> int:
    """Return what the files in the directory have on disk now."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                pass  # it was dropped meanwhile
    return total


def wait_blocked(api: Api, job: str, *, directory: Path) -> None:
    """Return once the job's log does not grow any more while the job runs."""
    seen = [-1] * 20

    def is_still() -> bool:
        seen.append(disk_bytes(directory))
        return len(set(seen[-20:])) == 1

    eventually(is_still, what="the log's standstill")
    assert api.status(job).state == pb.JOB_STATE_RUNNING


@pytest.mark.timeout(7200)
def test_a_log_keeps_its_newest_within_its_limit_and_tells_the_rest(
    instance: Instance, api: Api
) -> None:
    job = api.start("sh", "-c", BOTH, log=bounds(LIMIT))
    with watched(instance.jobs_dir / job) as most:
        followed, end = api.entries(job, timeout=READ_S)
    assert most[0] < 1.3 * LIMIT
    print(f"\n{sum(LINES.values()) * LINE_BYTES} bytes under {LIMIT}: at most {most[0]} on disk")
    kept, kept_end = api.entries(job)

    for entries, last in ((followed, end), (kept, kept_end)):
        tallies = {stream: tally(entries, stream) for stream in (OUT, ERR)}
        for stream in (OUT, ERR):
            assert tallies[stream].bytes == LINES[stream] * LINE_BYTES
        assert last.complete
        assert last.status.outcome.exit_code == 0
        assert last.lost_bytes == sum(found.lost_bytes for found in tallies.values())
        assert last.stdout_bytes == tallies[OUT].kept_bytes
        assert last.stderr_bytes == tallies[ERR].kept_bytes
    assert sum(tally(kept, stream).kept_bytes for stream in (OUT, ERR)) > 0.7 * LIMIT
    assert sum(tally(kept, stream).kept_bytes for stream in (OUT, ERR)) <= LIMIT
    assert kept[-1].HasField("chunk")  # the newest is what is kept
    causes = {entry.gap.cause for entry in kept if entry.HasField("gap")}
    assert causes == {"dropped to make room for newer output"}


@pytest.mark.timeout(7200)
def test_a_log_that_stops_keeps_its_oldest_and_tells_the_rest(instance: Instance, api: Api) -> None:
    job = api.start("sh", "-c", BOTH, log=bounds(LIMIT, pb.LOG_FULL_STOP_RECORDING))
    with watched(instance.jobs_dir / job) as most:
        followed, _ = api.entries(job, timeout=READ_S)
    assert most[0] < 1.3 * LIMIT
    entries, end = api.entries(job)
    assert entries == followed
    tallies = {stream: tally(entries, stream) for stream in (OUT, ERR)}
    for stream in (OUT, ERR):
        assert tallies[stream].bytes == LINES[stream] * LINE_BYTES
    assert 0.8 * LIMIT < sum(found.kept_bytes for found in tallies.values()) <= LIMIT
    gaps = [entry.HasField("gap") for entry in entries]
    assert sum(gaps) >= 2  # some of each stream, told while it went on writing,
    assert gaps == sorted(gaps)  # and nothing came after them
    assert end.lost_bytes == sum(found.lost_bytes for found in tallies.values())
    assert {entry.gap.cause for entry in entries[-sum(gaps) :]} == {
        "the log has the size that it may have"
    }


def test_a_job_that_has_to_wait_is_stopped_at_once(instance: Instance, api: Api) -> None:
    lines = 400_000
    job = api.start("sh", "-c", numbers(OUT, lines), log=bounds(MIB, pb.LOG_FULL_BLOCK))
    wait_blocked(api, job, directory=instance.jobs_dir / job)
    if instance.cgroup_root is not None:
        assert api.pause(job).state == pb.JOB_STATE_PAUSED
        assert api.resume(job).state == pb.JOB_STATE_RUNNING

    status = api.stop(job, grace_ms=60_000)

    assert status.outcome.signal == 15
    assert not status.killed
    entries, end = api.entries(job)
    found = tally(entries, OUT)
    assert 0.8 * MIB < found.kept_bytes <= MIB
    # What the job had written already, and nobody had read, is told as lost.
    assert found.bytes < lines * LINE_BYTES
    assert (end.stdout_bytes, end.lost_bytes) == (found.kept_bytes, found.lost_bytes)
    assert end.complete


def test_a_job_that_has_to_wait_runs_into_its_timeout(instance: Instance, api: Api) -> None:
    command = ("sh", "-c", numbers(OUT, 400_000))
    job = api.start(*command, log=bounds(MIB, pb.LOG_FULL_BLOCK), timeout_ms=1500)
    status = api.wait(job)
    assert (status.timed_out, status.killed, status.outcome.signal) == (True, False, 15)
    assert tally(api.entries(job)[0], OUT).kept_bytes > 0.8 * MIB


def test_defaults_and_ceiling_are_the_operators(make_instance: MakeInstance) -> None:
    text = "[logs]\nmax = '1M'\nfull = 'stop-recording'\nceiling = '16M'\n"
    instance = make_instance(edit=lambda old: f"{old}\n{text}")
    with instance.admin.api() as api:
        job = api.start("sh", "-c", numbers(OUT, 400_000))
        status = api.wait(job)
        assert status.log == bounds(MIB, pb.LOG_FULL_STOP_RECORDING)
        assert tally(api.entries(job)[0], OUT).bytes == 400_000 * LINE_BYTES
        assert tally(api.entries(job)[0], OUT).kept_bytes <= MIB

        more = api.start("true", log=bounds(16 * MIB))
        assert api.wait(more).log == bounds(16 * MIB, pb.LOG_FULL_STOP_RECORDING)
        refusal = api.refused(lambda: api.start("true", log=bounds(16 * MIB + 1)))
        assert refusal.reason == "LIMIT_ABOVE_CEILING"
        refusal = api.refused(lambda: api.start("true", log=bounds(1000)))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


# ---------------------------------------------------------------- a disk that is full

DISK_BYTES = 64 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", DISK_BYTES) as path:
        yield path


MakeOnDisk = Callable[[str], Instance]


@pytest.fixture
def make_on_disk(disk: Path, make_instance: MakeInstance) -> MakeOnDisk:
    """Make a server whose state directory is on the small disk, with this more to configure."""

    def make(text: str) -> Instance:
        places = ('state_dir = "state"', f'state_dir = "{disk}/state"')
        return make_instance(edit=lambda old: f"{old.replace(*places)}\n{text}\n")

    return make


def test_a_disk_filled_by_a_job_costs_others_nothing_that_they_had(
    disk: Path, make_on_disk: MakeOnDisk
) -> None:
    instance = make_on_disk("")
    with instance.admin.api() as api:
        before = api.start("sh", "-c", numbers(OUT, 300_000))
        api.wait(before)
        script = "echo before; until [ -e one ]; do sleep 0.01; done; {}; touch written; "
        script += "until [ -e two ]; do sleep 0.01; done; {}"
        command = script.format(numbers(OUT, 1000), "echo after")
        beside = api.start("sh", "-c", command, log=bounds(None, pb.LOG_FULL_STOP_RECORDING))
        home = instance.work_dir / beside
        lines = 200 * MIB // LINE_BYTES

        job = api.start("sh", "-c", f"{numbers(OUT, lines)}; exit 9")
        status = api.wait(job)

        assert status.outcome.exit_code == 9
        assert tally(api.entries(job)[0], OUT).bytes == lines * LINE_BYTES
        assert 40 * MIB < tally(api.entries(job)[0], OUT).kept_bytes < DISK_BYTES
        assert tally(api.entries(before)[0], OUT).kept_bytes == 300_000 * LINE_BYTES
        assert api.status(beside).state == pb.JOB_STATE_RUNNING
        ballast = fill(disk)
        (home / "one").touch()
        eventually((home / "written").exists)
        another = api.refused(lambda: api.start("true"))
        assert another.code is grpc.StatusCode.RESOURCE_EXHAUSTED

        ballast.unlink()
        assert api.remove(job).freed_bytes > 40 * MIB
        assert api.wait(api.start("true")).outcome.exit_code == 0
        (home / "two").touch()
        assert api.wait(beside).outcome.exit_code == 0
        entries, end = api.entries(beside)
        first, *middle, last = entries
        assert (first.chunk.data, last.chunk.data) == (b"before\n", b"after\n")
        assert tally(middle, OUT).bytes == 1000 * LINE_BYTES
        assert end.lost_bytes == tally(middle, OUT).lost_bytes


def test_a_job_that_waits_for_the_disk_goes_on_when_there_is_room_and_has_lost_nothing(
    disk: Path, make_on_disk: MakeOnDisk
) -> None:
    instance = make_on_disk("")
    with instance.admin.api() as api:
        ballast = fill(disk, leave_bytes=8 * MIB)
        lines = 20 * MIB // LINE_BYTES
        both = f"{numbers(OUT, lines)} & {numbers(ERR, lines)}; wait; exit 5"
        job = api.start("sh", "-c", both, log=bounds(None, pb.LOG_FULL_BLOCK))
        wait_blocked(api, job, directory=instance.jobs_dir / job)
        assert disk_bytes(instance.jobs_dir / job) < 10 * MIB

        ballast.unlink()

        assert api.wait(job).outcome.exit_code == 5
        entries, end = api.entries(job)
        for stream in (OUT, ERR):
            found = tally(entries, stream)
            assert (found.kept_bytes, found.lost_bytes) == (lines * LINE_BYTES, 0)
        assert end.lost_bytes == 0


def test_jobs_that_ended_make_room_where_the_reserve_is_touched(
    disk: Path, make_on_disk: MakeOnDisk
) -> None:
    instance = make_on_disk("[logs]\nreserve = '50%'\n[retention]\nspare = '0'")
    lines = 9 * MIB // LINE_BYTES
    with instance.admin.api() as api:
        jobs = []
        for _ in range(8):
            jobs.append(api.start("sh", "-c", numbers(OUT, lines)))
            assert api.wait(jobs[-1]).outcome.exit_code == 0
            eventually(lambda: os.statvfs(disk).f_bavail * 4096 >= DISK_BYTES // 2)
        for job in jobs[:5]:
            instance.wait_stderr(f"removed job {job}: the free disk is .* below the reserve")
        assert instance.job_ids() == set(jobs[-3:])
        for job in jobs[-3:]:
            assert tally(api.entries(job)[0], OUT).kept_bytes == lines * LINE_BYTES


def test_what_is_spared_stays_and_recording_ends_at_half_the_reserve(
    disk: Path, make_on_disk: MakeOnDisk
) -> None:
    instance = make_on_disk("[logs]\nreserve = '32M'")
    lines = 100 * MIB // LINE_BYTES
    with instance.admin.api() as api:
        job = api.start("sh", "-c", f"{numbers(OUT, lines)}; exec sleep 600")
        eventually(lambda: os.statvfs(disk).f_bavail * 4096 < 17 * MIB)
        instance.wait_stderr("below the reserve, and no job is left that may be removed")
        assert os.statvfs(disk).f_bavail * 4096 >= 15 * MIB
        assert api.stop(job).outcome.signal == 15
        entries, _ = api.entries(job)
        assert tally(entries, OUT).bytes == lines * LINE_BYTES
        reached = "the free room that the server keeps is reached"
        assert {entry.gap.cause for entry in entries if entry.HasField("gap")} == {reached}
        assert instance.job_ids() == {job}
