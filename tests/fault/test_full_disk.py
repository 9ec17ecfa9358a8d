"""A state directory without room: jobs go on, the truth is kept, and nobody is told a lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.model.frames import segment_name
from jobruntime.rpc.gen import service_pb2 as pb
from tests.conftest import MakeInstance
from tests.disks import fill, mounted_disk
from tests.support import MIB, Client, Instance, eventually, processes_of

DISK_BYTES = 8 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    with mounted_disk(tmp_path / "disk", DISK_BYTES) as path:
        yield path


@pytest.fixture
def small(disk: Path, make_instance: MakeInstance) -> Instance:
    """A server whose state directory is on the small disk; the jobs' own directories are not."""
    return make_instance(
        edit=lambda text: (
            text.replace('state_dir = "state"', f'state_dir = "{disk}/state"')
            + '\n[logs]\nreserve = "0%"\n'
        )
    )


@pytest.fixture
def alice(small: Instance) -> Client:
    return small.issue("alice", "user")


def entries_of(client: Client, job: str) -> tuple[list[pb.LogEntry], pb.LogsEnd]:
    """Return all of a job's log, gaps too."""
    with client.api() as api:
        return api.entries(job)


def kept_and_lost(entries: list[pb.LogEntry]) -> tuple[int, int]:
    return sum(len(entry.chunk.data) for entry in entries), sum(e.gap.lost_bytes for e in entries)


def test_a_job_that_writes_more_than_fits_ends_as_ever_and_shows_the_gap(
    small: Instance, alice: Client, make_instance: MakeInstance
) -> None:
    written = 20 * MIB
    neighbour = make_instance("neighbour").admin
    theirs = neighbour.start("seq", "1", "100000")

    job = alice.start("--", "sh", "-c", f"head -c {written} /dev/zero; exit 9")
    with alice.api() as api:
        status = api.wait(job)

    assert status.outcome.exit_code == 9
    assert alice.status(job) == "finished (exit code: 9)"
    entries, end = entries_of(alice, job)
    kept, lost = kept_and_lost(entries)
    assert kept + lost == written
    assert 0 < kept < DISK_BYTES
    assert (end.complete, end.stdout_bytes, end.lost_bytes) == (True, kept, lost)
    assert {e.gap.cause for e in entries if e.HasField("gap")} == {"No space left on device"}
    shown = alice.run("logs", "--raw", job)
    assert len(shown.stdout) == kept
    assert b"bytes of stdout are missing here: No space left on device" in shown.stderr
    assert neighbour.logs_raw(theirs)[0] == b"".join(b"%d\n" % n for n in range(1, 100_001))
    small.restart()
    assert alice.status(job) == "finished (exit code: 9)"
    assert kept_and_lost(entries_of(alice, job)[0]) == (kept, lost)


def test_a_job_that_ends_on_a_full_disk_is_told_right(
    small: Instance, alice: Client, disk: Path
) -> None:
    job = alice.start("--", "sh", "-c", "until [ -e end ]; do sleep 0.01; done; exit 4")
    stopped = alice.start("sleep", "600")
    fill(disk)

    Path(small.work_dir, job, "end").touch()
    eventually(lambda: alice.status(job) == "finished (exit code: 4)")
    alice.stop(stopped)

    assert alice.status(stopped) == "stopped (signal: 15)"
    small.kill()
    small.start()
    assert alice.status(job) == "finished (exit code: 4)"
    assert alice.status(stopped) == "stopped (signal: 15)"
    assert alice.logs_raw(job) == (b"", b"")


def test_output_is_kept_again_once_there_is_room(
    small: Instance, alice: Client, disk: Path
) -> None:
    step = "until [ -e {0} ]; do sleep 0.01; done"
    parts = ["echo before", step.format("one"), "head -c 300000 /dev/zero; touch written"]
    parts += [step.format("two"), "echo after"]
    job = alice.start("--", "sh", "-c", "; ".join(parts))
    home = small.work_dir / job
    log = small.jobs_dir / job / segment_name(0)
    eventually(lambda: b"before" in log.read_bytes())
    ballast = fill(disk)
    (home / "one").touch()
    eventually((home / "written").exists)

    ballast.unlink()
    (home / "two").touch()

    entries, end = entries_of(alice, job)
    first, *gaps, last = entries
    assert (first.chunk.data, last.chunk.data) == (b"before\n", b"after\n")
    assert kept_and_lost(gaps)[1] + kept_and_lost(gaps)[0] == 300_000
    assert end.lost_bytes > 0
    assert alice.status(job) == "finished (exit code: 0)"


def test_a_start_on_a_full_disk_is_refused_and_leaves_nothing(
    small: Instance, alice: Client, disk: Path
) -> None:
    assert alice.start("true")  # its owner is known: only the job's own files are missing
    running = alice.start("sleep", "600")
    before = small.job_ids()
    ballast = fill(disk)

    for client in (alice, alice, small.admin):
        refused = client.run("start", "--name", "unlucky", "--request-id", "once", "sleep", "601")
        assert refused.returncode == 1
        assert refused.stderr.startswith(b"jobc: cannot ")
        assert b"o space left on device" in refused.stderr
        assert refused.stderr.count(b"\n") == 1
    assert small.job_ids() == before
    assert small.job_cgroups() == {running}
    assert {path.name for path in (small.runtime_dir / "keepers").iterdir()} == {running}
    assert {path.name for path in small.work_dir.iterdir()} <= before

    assert alice.status(running) == "running"
    ballast.unlink()
    job = alice.start("--name", "unlucky", "--request-id", "once", "sleep", "601")
    assert processes_of(job)
