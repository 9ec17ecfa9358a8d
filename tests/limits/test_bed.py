"""The system under the tests of limits is what they take it for, and jobd works in it."""

from __future__ import annotations

import os
from pathlib import Path

from jobruntime.linux import cgroup
from tests.bed.native import CONTROLLERS
from tests.support import Client, Instance


def test_the_kernel_has_all_four_controllers() -> None:
    hierarchy = cgroup.find_hierarchy()
    assert hierarchy is not None
    offered = Path(hierarchy.mount, "cgroup.controllers").read_text().split()
    assert set(CONTROLLERS) <= set(offered)


def test_the_disk_is_a_block_device_of_its_own(disk: Path) -> None:
    device = os.stat(disk).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    assert os.major(device) != 0  # what tmpfs and overlays have
    assert Path("/sys/dev/block", number).is_dir()
    assert device != os.stat("/").st_dev


def test_a_job_runs_in_a_group_of_its_own(shared: Instance, alice: Client) -> None:
    root = shared.cgroup_root
    assert root is not None
    job = alice.start("sh", "-c", "cat /proc/self/cgroup; echo trouble >&2; sleep 600")
    assert alice.status(job) == "running"
    assert cgroup.member_pids(f"{root}/jobs/{job}")
    alice.stop(job)
    assert alice.status(job) == "stopped (signal: 15)"
    stdout, stderr = alice.logs_raw(job)
    assert stdout.decode().endswith(f"/{root.name}/jobs/{job}\n")
    assert stderr == b"trouble\n"
    assert not (root / "jobs" / job).exists()
