"""Each job is in a cgroup of its own from its first act on, and nothing of it is left there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.support import (
    IS_ROOT,
    Api,
    Client,
    Instance,
    eventually,
    is_alive,
    processes_of,
    scaled,
    status_fields,
)

JOBS = scaled(200, 1000)
AT_ONCE = 4
SLEEPERS = 4


@pytest.fixture
def jobs_group(shared: Instance) -> Path:
    """The group above all jobs of the shared instance."""
    root = shared.cgroup_root
    if root is None:
        pytest.skip("no cgroup v2 here that could be written")
    return root / "jobs"


def run_many(one: Callable[[Api, int], str], client: Client) -> set[str]:
    """Return the ids of very many jobs, some of them at a time."""
    with client.api() as api, ThreadPoolExecutor(AT_ONCE) as pool:
        return set(pool.map(lambda number: one(api, number), range(JOBS)))


def group_of(line: str) -> str:
    """Return the last part of a group's path in a line of /proc/PID/cgroup."""
    return line.rstrip("\n").rpartition("/")[2]


def assert_nothing_left(instance: Instance, jobs: set[str]) -> None:
    assert len(jobs) == JOBS
    eventually(lambda: instance.job_cgroups().isdisjoint(jobs), what="the end of their groups")
    assert not jobs & set(os.listdir(instance.runtime_dir / "keepers"))
    # Their own directories stay with their records.
    assert jobs <= set(os.listdir(instance.work_dir))


def v2_lines(output: bytes) -> list[str]:
    return [line for line in output.decode().splitlines() if line.startswith("0::")]


def test_the_first_act_of_each_job_finds_it_in_its_own_group(
    shared: Instance, alice: Client, jobs_group: Path
) -> None:
    def look(api: Api, _: int) -> str:
        job = api.start("cat", "/proc/self/cgroup")
        [line] = v2_lines(api.logs(job).stdout)
        assert group_of(line) == job
        return job

    assert_nothing_left(shared, run_many(look, alice))


def test_jobs_that_fork_at_once_have_no_process_outside_and_leave_none(
    shared: Instance, alice: Client, jobs_group: Path
) -> None:
    # The leader's end is not waited for by what it leaves behind, in sessions of its own.
    script = "for n in 1 2; do cat /proc/self/cgroup & done; (setsid sleep 600 &); wait; exit 5"

    def fork(api: Api, _: int) -> str:
        job = api.start("sh", "-c", script)
        log = api.logs(job)
        assert log.end is not None
        assert log.end.status.outcome == pb.Outcome(exit_code=5)
        assert [group_of(line) for line in v2_lines(log.stdout)] == [job, job]
        return job

    jobs = run_many(fork, alice)
    assert_nothing_left(shared, jobs)
    assert not jobs & {group_of(group) for group in groups_of_all()}
    assert shared.processes() == {shared.spawner_pid(), shared.zygote_pid()} | running(shared)


def groups_of_all() -> set[str]:
    """Return the v2 group of every process of this host."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            found.update(v2_lines(path.read_bytes()))
        except OSError:
            continue  # it has ended
    return found


def running(instance: Instance) -> set[int]:
    """Return what lives of jobs that other tests have left running, keepers included."""
    jobs = {job for job in instance.job_ids() if processes_of(job)}
    keepers = {instance.keeper_of(job) for job in jobs}
    return {pid for job in jobs for pid in processes_of(job)} | {k for k in keepers if k}


def delegate(group: Path, uid: int) -> None:
    """Give the job's group to its user, which is the job's own only where somebody does that."""
    for path in (group, group / "cgroup.subtree_control", group / "cgroup.procs"):
        os.chown(path, uid, uid)


def uid_of(job: str) -> int | None:
    """Return the uid of a process of the job's, all of which have the same."""
    uids = {status_fields(pid).get("Uid", "0").split()[0] for pid in processes_of(job)} - {"0"}
    return int(uids.pop()) if uids else None


# Moves sleepers into groups of its own making, one below the other, and itself last.
NEST = """
until [ -w "$1/cgroup.procs" ]; do sleep 0.02; done
mkdir -p "$1/a/b/c" "$1/empty"
for place in a/b/c a/b a; do
    setsid sleep 600 &
    echo $! >"$1/$place/cgroup.procs"
done
echo 0 >"$1/a/b/c/cgroup.procs"
echo nested
while :; do sleep 600; done
"""


@pytest.mark.parametrize("end", ["stop", "kill", "keeper"])
def test_groups_that_a_job_has_made_in_its_own_are_removed_with_it(
    shared: Instance, alice: Client, jobs_group: Path, end: str
) -> None:
    if not IS_ROOT:
        pytest.skip("without root a job's group is its user's own; here root gives it away")
    with alice.api() as api:
        # The job learns its id, and so its group, from its environment.
        nest = f'set -- "{jobs_group}/$JOB_ID"; {NEST}'
        job = api.start("sh", "-c", nest)
        group = jobs_group / job
        delegate(group, eventually(lambda: uid_of(job), what="its user"))
        for message in api.stream(job):
            if any(b"nested" in entry.chunk.data for entry in message.batch.entries):
                break
        assert {path.name for path in group.rglob("*/")} == {"a", "b", "c", "empty"}
        assert (group / "a/b/c/cgroup.procs").read_text().split()
        pids = processes_of(job)
        assert len(pids) >= SLEEPERS
        keeper = shared.keeper_of(job)
        match end:
            case "stop":
                assert api.stop(job).outcome == pb.Outcome(signal=15)
            case "kill":
                assert api.stop(job, grace_ms=0).outcome == pb.Outcome(signal=9)
            case "keeper":
                assert keeper is not None
                os.kill(keeper, signal.SIGKILL)
                last = api.logs(job).end
                assert last is not None
                assert last.status.outcome.lost == "its keeper died"
        assert not any(map(is_alive, pids))
        eventually(lambda: not group.exists(), what="the end of its groups")
