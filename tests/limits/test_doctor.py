"""`jobd doctor` where there are limits: every canary holds, and one that does not is told."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from jobruntime.linux import cgroup
from tests.support import PATIENCE, Instance, jobd

HOLDING = {"a job", "stop and kill", "pause and resume", "all jobs together", "--cpus", "--pids"}
HOLDING |= {"--cpu-weight", "--memory", "--memory-high", "--memory-swap", "--oom-group"}
HOLDING |= {f"--io-{way}-{what}" for way in ("read", "write") for what in ("bps", "iops")}
NOT_EVERYWHERE = {"--cpuset", "--io-weight"}

Found = dict[str, dict[str, Any]]


@pytest.fixture
def mount() -> Path:
    hierarchy = cgroup.find_hierarchy()
    assert hierarchy is not None
    return Path(hierarchy.mount)


def examine(*args: str | Path, home: Path) -> tuple[Found, int]:
    """Return what a doctor found, by name, and its exit code."""
    done = jobd("doctor", "-o", "json", *args, home=home, timeout=60 * PATIENCE)
    assert done.stderr == b""
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}, done.returncode


def assert_all_hold(found: Found) -> None:
    levels = {name: check["level"] for name, check in found.items()}
    assert {name: levels[name] for name in HOLDING} == dict.fromkeys(HOLDING, "ok"), found
    for name in NOT_EVERYWHERE:
        check = found[name]
        assert check["level"] == "ok" or check["found"].startswith("not "), check
    assert 0.1 < found["--cpus"]["measured"]["cpus"] <= 0.25
    assert found["--io-write-bps"]["measured"]["counted"] >= 2 << 20


def groups_of(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if path.is_dir()}


def settings_of(group: Path) -> dict[str, str]:
    """Return what can be set in a group, as it is."""
    return {
        name: (group / name).read_text()
        for name in ("cpu.max", "memory.max", "pids.max", "cgroup.subtree_control")
    }


def test_every_limit_that_is_offered_holds_and_a_server_in_the_same_group_is_left_alone(
    disk: Path, mount: Path
) -> None:
    group = mount / "given"

    def edit(text: str) -> str:
        limits = '\n[limits.all]\nmemory = "512M"\npids = 100\n'
        return text.replace('root = "auto"', f'root = "{group}"') + limits

    with Instance(disk / "examined", edit=edit) as instance:
        job = instance.admin.start("--memory", "64M", "sleep", "600")
        groups, processes = groups_of(mount), instance.processes()
        limits = settings_of(group / "jobs")
        places = (instance.work_dir, instance.state_dir, instance.runtime_dir)
        names = [sorted(os.listdir(place)) for place in places]
        found, code = examine("--config", instance.config_path, home=disk)
        assert_all_hold(found)
        assert code == 0
        assert "configured" in found["cgroup"]["found"]
        assert groups_of(mount) == groups
        assert settings_of(group / "jobs") == limits
        assert instance.processes() == processes
        assert [sorted(os.listdir(place)) for place in places] == names
        assert instance.admin.status(job) == "running"
    assert not group.exists()


@contextmanager
def lifting(group: Path, file: str, value: str) -> Iterator[None]:
    """Write `value` into `file` of every job's group below, behind jobd's back."""
    ended = threading.Event()

    def lift() -> None:
        while not ended.wait(0.02):
            for path in group.glob(f"jobd-*/jobs/*/{file}"):
                with suppress(OSError):  # it goes as it is written
                    path.write_text(value)

    thread = threading.Thread(target=lift)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_limit_that_does_not_hold_is_a_failure(mount: Path, tmp_path: Path) -> None:
    groups = groups_of(mount)
    with lifting(mount, "cpu.max", "max"):
        found, code = examine(home=tmp_path)
    assert code == 1
    failed = {name for name, check in found.items() if check["level"] == "failed"}
    assert failed == {"--cpus"}
    assert found["--cpus"]["measured"]["cpus"] > 0.25
    assert found["--cpus"]["remedy"]
    assert groups_of(mount) == groups
