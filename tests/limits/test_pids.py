"""Processes: a fork bomb meets its limit, and a stop ends all of it at once."""

from __future__ import annotations

import time

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.limits.payloads import limits, wait_usage
from tests.support import PATIENCE, Api, Instance, eventually, processes_of

# A shell whose fork is refused ends, and others fork in its place; the first forks no more.
BOMB = "bomb() { while :; do bomb & done; }; bomb & while :; do :; done"
MOST = 32
STOP_S = 2 * PATIENCE


@pytest.mark.parametrize("grace_ms", [None, 0], ids=["by TERM", "by KILL"])
def test_a_fork_bomb_meets_its_limit_and_is_stopped_whole(
    shared: Instance, api: Api, grace_ms: int | None
) -> None:
    neighbour = api.start("sh", "-c", "until [ -e end ]; do sleep 0.1; done")
    job = api.start("sh", "-c", BOMB, limits=limits(pids=MOST))
    wait_usage(api, job, lambda usage: usage.pids_refused > 100, "refused forks")
    for _ in range(10):
        assert 1 < api.usage(job).pids <= MOST
    began_s = time.monotonic()
    status = api.stop(job, grace_ms=grace_ms)
    took_s = time.monotonic() - began_s
    print(f"measured: stop of a fork bomb: {took_s:.3f} s")
    assert took_s < STOP_S
    assert status.outcome.signal == (15 if grace_ms is None else 9)
    assert status.usage.pids_refused > 100
    assert not processes_of(job)
    eventually(lambda: job not in shared.job_cgroups(), what="the end of its group")
    (shared.work_dir / neighbour / "end").touch()  # it could fork all the time
    assert api.wait(neighbour).outcome == pb.Outcome(exit_code=0)


def test_a_job_may_have_as_many_processes_as_were_asked_for_and_no_more(api: Api) -> None:
    fork = "n=0; while [ $n -lt {count} ]; do sleep 1000 & n=$((n + 1)); done; echo done; wait"
    exact = api.start("sh", "-c", fork.format(count=4), limits=limits(pids=5))
    usage = wait_usage(api, exact, lambda usage: usage.pids == 5, "all five")
    assert usage.pids_refused == 0
    one_more = api.start("sh", "-c", fork.format(count=5), limits=limits(pids=5))
    status = api.wait(one_more)  # sh gives up where it cannot fork
    assert status.outcome.exit_code != 0
    assert status.usage.pids_refused == 1
    api.stop(exact, grace_ms=0)
