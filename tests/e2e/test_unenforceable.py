"""Where a host cannot hold a limit: a job without it runs, one with it is refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from jobruntime.model.limits import NO_LIMITS
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import BIN, MIB, RUN_S, Client, Instance, MakeInstance, eventually

IO = [pb.IoLimit(path="/", read_bps=MIB)]
NEEDING: Mapping[str, tuple[tuple[str, dict[str, object]], ...]] = MappingProxyType(
    {
        "cpu": (("--cpus", {"cpu_millis": 500}), ("--cpu-weight", {"cpu_weight": 10})),
        "cpuset": (("--cpuset", {"cpuset": "0"}),),
        "io": (("--io-read-bps", {"io": IO}), ("--io-weight", {"io_weight": 10})),
        "memory": (
            ("--memory", {"memory_bytes": 64 * MIB}),
            ("--memory-high", {"memory_high_bytes": 64 * MIB}),
            ("--oom-group", {"oom_group": True}),
        ),
        "pids": (("--pids", {"pids": 100}),),
    }
)


def lacking(instance: Instance) -> list[str]:
    """Return the controllers that jobs cannot be limited with here; skips where there is none."""
    found = sorted(NEEDING.keys() - instance.controllers)
    if not found:
        pytest.skip("this host has all controllers")
    return found


def test_a_job_without_limits_runs_and_is_told_what_is_counted(
    shared: Instance, alice: Client
) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", "echo hello; exit 3")
        log = api.logs(job)
        assert log.stdout == b"hello\n"
        assert log.end is not None
        status = log.end.status
        assert status.outcome == pb.Outcome(exit_code=3)
        assert status.usage.wall_ns > 0
        assert status.usage.cpu_us > 0
        if "memory" in lacking(shared):  # what is not counted is not told as 0
            assert not status.usage.HasField("memory_peak_bytes")
            assert not status.usage.HasField("memory_max_events")


def test_each_limit_that_cannot_be_held_is_refused_and_nothing_is_started(
    shared: Instance, alice: Client
) -> None:
    with alice.api() as api:
        running = api.start("sleep", "600")
        before = shared.traces()
        for controller in lacking(shared):
            for flag, fields in NEEDING[controller]:
                bounds = pb.Limits(**fields)  # type: ignore[arg-type]
                for refusal in (
                    api.refused(lambda: api.start("true", limits=bounds)),  # noqa: B023
                    api.refused(lambda: api.update(running, **fields)),  # noqa: B023
                ):
                    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION, flag
                    assert refusal.reason == "LIMIT_NOT_ENFORCEABLE"
                    assert f"'{controller}'" in refusal.message, refusal
                    assert flag in refusal.message
        eventually(lambda: shared.traces() == before, 10, "nothing to be left")
        assert api.status(running).limits == pb.Limits()
        api.stop(running, grace_ms=0)


def test_jobc_names_the_controller_and_the_remedy(shared: Instance, alice: Client) -> None:
    if "memory" not in lacking(shared):
        pytest.skip("this host can hold jobs to limits of memory")
    jobs = shared.job_ids()
    done = alice.run("start", "--memory", "64M", "sleep", "600")
    assert (done.returncode, done.stdout) == (1, b"")
    told = done.stderr.decode()
    assert told.startswith("jobc: cannot run the job with --memory: ")
    assert "'memory'" in told
    assert len(told.partition("; ")[2]) > len("run it elsewhere")
    if Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        assert "as cgroup version 1; boot it with systemd.unified_cgroup_hierarchy=1" in told
    assert shared.job_ids() == jobs


@pytest.mark.parametrize("table", ["default", "ceiling", "all"])
def test_a_server_with_limits_that_it_cannot_hold_does_not_serve_and_names_them(
    shared: Instance, make_instance: MakeInstance, table: str
) -> None:
    if "memory" not in lacking(shared):
        pytest.skip("this host can hold jobs to limits of memory")
    instance = make_instance(serve=False)
    assert instance.config.default_limits == NO_LIMITS  # as `jobd init` has written it
    text = instance.config_path.read_text()
    instance.config_path.write_text(f'{text}\n[limits.{table}]\nmemory = "64M"\n')
    done = subprocess.run(
        [BIN / "jobd", "serve", "--config", instance.config_path],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_S,
        check=False,
    )
    told = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 1
    assert told.startswith("jobd: cannot ")
    assert "--memory" in told
    assert "'memory'" in told
    instance.config_path.write_text(text)
