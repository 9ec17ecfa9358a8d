"""Jobs that got at their own cgroup, as they can without root, and keepers that are hindered.

Here root moves and removes what a job of the server's own user could itself.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobruntime.model.protocol import Failure, Step
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.worker.start_errors import sweep_error
from tests.support import IS_ROOT, Client, Instance, eventually, is_alive, processes_of

NOBODY = 65_534


@pytest.fixture
def jobs_group(shared: Instance) -> Path:
    """The group above all jobs of the shared instance."""
    root = shared.cgroup_root
    if root is None or not IS_ROOT:
        pytest.skip("this needs root and cgroup v2")
    return root / "jobs"


@pytest.fixture
def outside(jobs_group: Path) -> Iterator[Path]:
    """A group that is not a job's."""
    path = jobs_group.parent / "outside"
    path.mkdir()
    yield path
    eventually(lambda: not (path / "cgroup.procs").read_text(), what="the end of who is outside")
    path.rmdir()


def move_out(job: str, outside: Path) -> int:
    """Move the job's one process out of its group; return its pid."""
    [pid] = eventually(lambda: processes_of(job), what="the job")
    (outside / "cgroup.procs").write_text(str(pid))
    return pid


@pytest.mark.parametrize(("grace_ms", "signo"), [(10_000, 15), (0, 9)])
def test_a_leader_that_has_left_its_group_is_stopped(
    alice: Client, outside: Path, grace_ms: int, signo: int
) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600")
        pid = move_out(job, outside)

        status = api.stop(job, grace_ms=grace_ms)

        assert status.outcome == pb.Outcome(signal=signo)
        assert not is_alive(pid)


def test_a_leader_that_has_left_its_group_and_is_deaf_is_killed_after_its_grace(
    alice: Client, outside: Path
) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", "trap '' TERM; echo deaf; while :; do read x </dev/zero; done")
        next(api.stream(job))
        move_out(job, outside)

        assert api.stop(job, grace_ms=100).outcome == pb.Outcome(signal=9)


def test_a_job_that_has_removed_its_group_has_its_own_outcome(
    alice: Client, jobs_group: Path, outside: Path
) -> None:
    with alice.api() as api:
        script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"
        job = api.start("sh", "-c", script)
        next(api.stream(job))
        group = jobs_group / job
        while pids := (group / "cgroup.procs").read_text().split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    (outside / "cgroup.procs").write_text(pid)
        group.rmdir()

        assert api.stop(job).outcome == pb.Outcome(exit_code=7)


def test_a_keeper_that_cannot_signal_its_job_tells_the_end_all_the_same(
    shared: Instance, alice: Client, jobs_group: Path
) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600")
        keeper = shared.keeper_of(job)
        assert keeper is not None
        before = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
        # Not one descriptor more: no pidfd can be had, nor any file of the group.
        used = {int(name) for name in os.listdir(f"/proc/{keeper}/fd")}
        room = min({*range(len(used) + 1)} - used)
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (room, before[1]))

        status = api.stop(job, grace_ms=300)

        assert status.outcome.lost == ""
        assert status.outcome.signal == 9
        assert status.killed


def test_a_change_that_the_keeper_does_not_answer_is_told_as_unknown(
    shared: Instance, alice: Client, jobs_group: Path
) -> None:
    with alice.api() as api:
        job = api.start("sleep", "600", grace_ms=0)
        keeper = shared.keeper_of(job)
        assert keeper is not None
        os.kill(keeper, signal.SIGSTOP)
        try:
            refusal = api.refused(lambda: api.pause(job))
        finally:
            os.kill(keeper, signal.SIGCONT)

        assert refusal.reason == "KEEPER_UNREACHABLE"
        assert f"cannot tell whether the pause of job {job} takes effect" in refusal.message
        assert "may still do it" in refusal.message
        eventually(lambda: api.status(job).state == pb.JOB_STATE_PAUSED, what="the late pause")
        api.stop(job)


CLOSED = """
import os, sys
from jobruntime.linux import cgroup
from jobruntime.keeper.order import Site
from jobruntime.keeper.sweep import sweep
os.setgid(65534); os.setuid(65534)
group = sys.argv[1]
os.makedirs(f"{group}/a/b/c")
for name in ("a/b/c", "a/b", "a", "cgroup.kill", "cgroup.events", "."):
    os.chmod(f"{group}/{name}", 0)
if sys.argv[2] == "remove":
    os.chmod(group, 0o700)
    cgroup.remove(group)
else:
    sweep(Site(SITE), os.path.basename(group))
"""


@pytest.fixture
def given(jobs_group: Path) -> Iterator[Path]:
    """A group `jobs/given` that belongs to a user without root, and so does what is above it."""
    top = jobs_group.parent / "given-away"
    group = top / "jobs" / "given"
    group.mkdir(parents=True)
    for path in (top, top / "jobs", group, *group.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    yield group
    for path in (*sorted(top.rglob("*/"), reverse=True), top):
        path.rmdir()


@pytest.mark.parametrize("how", ["remove", "sweep"])
def test_groups_that_a_job_has_closed_to_its_own_user_are_removed(given: Path, how: str) -> None:
    site = f'runtime_dir="/none", work_dir="/none", cgroup_root="{given.parents[1]}"'
    site += ", peer_uid=0, cgroup_files=frozenset(), log_reserve_bytes=0, uids=range(0)"
    done = subprocess.run(
        [sys.executable, "-c", CLOSED.replace("SITE", site), given, how],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert not given.exists()


def test_a_group_that_cannot_be_removed_is_not_told_as_processes_that_do_not_die() -> None:
    busy = sweep_error(Failure(Step.CGROUP, 16, "/sys/fs/cgroup/x"), "1234")
    hanging = sweep_error(Failure(Step.CGROUP, 110, "/sys/fs/cgroup/x"), "1234")

    assert "its cgroup /sys/fs/cgroup/x cannot be removed: Device or resource busy" in str(busy)
    assert "its processes do not die" in str(hanging)
