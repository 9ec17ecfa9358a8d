"""In a container with a cgroup namespace of its own, whose group jobd may write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.linux import cgroup
from jobruntime.rpc.gen import service_pb2 as pb
from tests.limits.payloads import SLEEP, hog_limit, taking
from tests.support import MIB, Instance, eventually

# What runs a container does this: its processes see their own group as the top.
ENTER = """
echo 0 >"$BOX/cgroup.procs" && exec unshare --cgroup --mount sh -c '
umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh "$@"
"""


@pytest.fixture
def box(v2: None) -> Iterator[Path]:
    """A group for a container, as its host sees it."""
    hierarchy = cgroup.find_hierarchy()
    assert hierarchy is not None
    box = Path(hierarchy.mount, "box")
    box.mkdir()
    (box.parent / "cgroup.subtree_control").write_text("+cpu +io +memory +pids")
    try:
        yield box
    finally:
        for path in (*sorted((path for path in box.rglob("*/")), reverse=True), box):
            path.rmdir()


def test_limits_hold_in_a_container_with_a_writable_cgroup(disk: Path, box: Path) -> None:
    wrap = ("sh", "-c", ENTER.replace("$BOX", str(box)), "sh")
    with Instance(disk / "contained", wrap=wrap) as instance:
        assert instance.cgroup_root == Path(f"/sys/fs/cgroup/jobd-{instance.tag}")
        instance.wait_stderr("the container's own cgroup")
        assert instance.controllers >= {"cpu", "io", "memory", "pids"}
        with instance.admin.api() as api:
            neighbour = api.start(*SLEEP, limits=hog_limit())
            group = box / f"jobd-{instance.tag}" / "jobs" / neighbour
            assert (group / "memory.max").read_text() == f"{16 * MIB}\n"
            hog = api.start(*taking(32 * MIB), limits=hog_limit())
            assert api.wait(hog).cause == pb.END_CAUSE_OOM
            first = api.start("cat", "/proc/self/cgroup")
            assert api.logs(first).stdout.decode() == f"0::/jobd-{instance.tag}/jobs/{first}\n"
            assert api.status(neighbour).state == pb.JOB_STATE_RUNNING
            api.stop(neighbour, grace_ms=0)
            assert not group.exists()
        assert (box / "init/cgroup.procs").read_text().split()
    eventually(
        lambda: not (box / f"jobd-{instance.tag}/jobs").exists(), what="the end of its groups"
    )
