"""A job is inside its limits from its first instruction on, and so is all that it forks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from jobruntime.rpc.gen import service_pb2 as pb
from tests.limits.payloads import limits
from tests.support import MIB, Api, Instance, eventually, processes_of, scaled

JOBS = scaled(10, 200)


def test_a_jobs_first_act_finds_it_in_its_own_group(api: Api) -> None:
    def run(_: int) -> bool:
        job = api.start("cat", "/proc/self/cgroup", limits=limits(pids=1, memory_bytes=24 * MIB))
        return api.logs(job).stdout.decode().endswith(f"/jobs/{job}\n")

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(JOBS)))


def test_a_jobs_first_fork_is_refused_where_it_may_have_one_process(api: Api) -> None:
    def run(_: int) -> tuple[bytes, int]:
        job = api.start("sh", "-c", "sleep 600 & echo forked", limits=limits(pids=1))
        log = api.logs(job)
        assert log.end is not None
        return log.stdout, log.end.status.usage.pids_refused

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(JOBS))) == {(b"", 1)}


def test_what_a_job_forks_at_once_is_in_its_group_and_ends_with_it(
    shared: Instance, api: Api
) -> None:
    fork = "for n in 1 2 3; do setsid cat /proc/self/cgroup & done; (setsid sleep 600 &); wait"

    def run(_: int) -> str:
        job = api.start("sh", "-c", fork, limits=limits(pids=20, memory_bytes=24 * MIB))
        log = api.logs(job)
        assert log.end is not None
        assert log.end.status.outcome == pb.Outcome(exit_code=0)
        lines = log.stdout.decode().splitlines()
        assert len(lines) == 3
        assert all(line.endswith(f"/jobs/{job}") for line in lines), lines
        return job

    with ThreadPoolExecutor(4) as pool:
        jobs = set(pool.map(run, range(JOBS)))
    assert not any(map(processes_of, jobs))
    eventually(lambda: shared.job_cgroups().isdisjoint(jobs), what="the end of their groups")
