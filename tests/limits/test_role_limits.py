"""Limits and quotas of a role, through the server: at starts, at updates, and by a path's disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.e2e.test_policy import reload_policy, write_policy
from tests.limits.payloads import SLEEP, io_limit, limits, text_of
from tests.limits.test_operator_io import line
from tests.support import MIB, Instance


@pytest.fixture(scope="module")
def closed(disk: Path) -> Path:
    """A directory on the disk that neither a job's user nor the server's can see."""
    place = disk / "root-only"
    place.mkdir(mode=0o700)
    (place / "below").mkdir()
    return place / "below"


def policy(closed: Path) -> str:
    return f"""
[roles.user.limits.default]
memory = "24M"
io_write_bps = ["{closed}:2M"]
[roles.user.limits.ceiling]
memory = "200M"
io_write_bps = ["{closed}:4M"]

[roles.mem]
verbs = "own"
[roles.mem.quotas]
memory = "100M"
cpu = 2
"""


@pytest.fixture(scope="module")
def served(disk: Path, closed: Path) -> Iterator[Instance]:
    instance = Instance(disk / "roles", serve=False)
    write_policy(instance, policy(closed))
    with instance:
        instance.start()
        yield instance


def test_a_roles_rates_hold_for_the_disk_of_a_path_that_only_root_sees(
    served: Instance, disk: Path, closed: Path
) -> None:
    assert served.cgroup_root is not None
    jobs, ann = served.cgroup_root / "jobs", served.issue("ann", "user")
    with ann.api() as api:
        job = api.start(*SLEEP)
        assert text_of(jobs / job, "io.max") == line(disk, wbps=2 * MIB)
        assert text_of(jobs / job, "memory.max") == str(24 * MIB)
        more = [pb.IoLimit(path=str(disk), write_bps=5 * MIB)]
        told = f"role user's ceiling io in policy.toml allows at most {4 * MIB}"
        for refusal in (
            api.refused(lambda: api.start("true", limits=limits(io=more))),
            api.refused(lambda: api.update(job, io=more)),
        ):
            assert refusal.reason == "LIMIT_ABOVE_CEILING"
            assert told in refusal.message
        api.update(job, io=[pb.IoLimit(path=str(disk), write_bps=3 * MIB)])
        assert text_of(jobs / job, "io.max") == line(disk, wbps=3 * MIB)
        api.stop(job, grace_ms=0)
        # What root has seen at the start counts also for what is read anew.
        text = policy(closed).replace(":4M", ":1M").replace(":2M", ":1M")
        reload_policy(served, text, r"reloaded the policy: role user changed")
        job = api.start(*SLEEP)
        assert text_of(jobs / job, "io.max") == line(disk, wbps=MIB)
        refusal = api.refused(lambda: api.start("true", limits=io_limit(disk, write_bps=2 * MIB)))
        assert f"role user's ceiling io in policy.toml allows at most {MIB}" in refusal.message
        api.stop(job, grace_ms=0)


def test_an_update_is_held_to_the_quota_of_the_role_and_an_administrators_is_not(
    served: Instance,
) -> None:
    mel = served.issue("mel", "mem")
    given = limits(memory_bytes=60 * MIB, cpu_millis=500)
    with mel.api() as api, served.admin.api() as other:
        assert api.refused(lambda: api.start("true")).reason == "LIMIT_ABOVE_CEILING"
        job = api.start(*SLEEP, limits=given, grace_ms=0)
        refusal = api.refused(lambda: api.update(job, memory_bytes=101 * MIB))
        assert refusal.reason == "RESOURCE_EXHAUSTED"
        assert "role mem's quota memory = 100 MiB has 100 MiB left" in refusal.message
        refusal = api.refused(lambda: api.update(job, unlimited=[pb.LIMIT_KIND_MEMORY]))
        assert refusal.reason == "LIMIT_ABOVE_CEILING"
        assert api.update(job, memory_bytes=90 * MIB).limits.memory_bytes == 90 * MIB
        refusal = api.refused(lambda: api.start("true", limits=given))
        assert "role mem's quota memory = 100 MiB has 10 MiB left" in refusal.message
        assert other.update(job, memory_bytes=200 * MIB).limits.memory_bytes == 200 * MIB
        assert "has 0 B left" in api.refused(lambda: api.start("true", limits=given)).message
        api.stop(job)
