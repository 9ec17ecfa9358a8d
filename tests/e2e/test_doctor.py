"""`jobd doctor` on the host as it is: says what is missing, touches nothing, leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobruntime.linux import cgroup
from jobruntime.model.limits import Controller
from jobruntime.server.config import instance_tag
from jobruntime.worker.trial_leftovers import clear_leftovers
from tests.support import (
    BIN,
    DEADLINE_S,
    RUN_S,
    Instance,
    all_pids,
    command_of,
    eventually,
    is_alive,
    status_fields,
)

TRIALS = {"a job", "stop and kill", "pause and resume", "all jobs together", "--cpus", "--cpuset"}
TRIALS |= {"--cpu-weight", "--memory", "--memory-high", "--memory-swap", "--oom-group", "--pids"}
TRIALS |= {f"--io-{way}-{what}" for way in ("read", "write") for what in ("bps", "iops")}
TRIALS |= {"--io-weight"}

Found = dict[str, dict[str, Any]]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where doctors of this test have their temporary directories; jobs can pass it."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def popen(scratch: Path, *args: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(scratch), "TMPDIR": str(scratch)}
    return subprocess.Popen(
        [BIN / "jobd", "doctor", *args],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def examine(scratch: Path, *args: str | Path, code: int = 0) -> Found:
    """Return what a doctor found, by name; it must have left nothing behind."""
    with popen(scratch, "-o", "json", *args) as doctor:
        stdout, stderr = doctor.communicate(timeout=RUN_S)
    assert (doctor.returncode, stderr) == (code, "")
    told = json.loads(stdout)
    assert told["ok"] is (code == 0)
    found: Found = {check["name"]: check for check in told["checks"]}
    assert len(found) == len(told["checks"])
    for check in found.values():
        assert set(check) == {"name", "level", "found", "remedy", "measured"}
        assert check["found"]
        assert bool(check["remedy"]) is (check["level"] != "ok"), check
    assert_nothing_left(scratch, found)
    return found


def assert_nothing_left(scratch: Path, found: Found) -> None:
    assert not list(scratch.iterdir())
    if root := found["cgroup"]["measured"].get("root"):
        eventually(lambda: not Path(root).exists(), what="the end of its cgroup")
    uid = str(found["a job"]["measured"]["uid"])
    if uid != str(os.geteuid()):
        assert not [pid for pid in all_pids() if is_alive(pid) and uid_of(pid) == uid]


def uid_of(pid: int) -> str:
    return status_fields(pid).get("Uid", "-").split()[0]


def missing_controllers() -> set[str]:
    hierarchy = cgroup.find_hierarchy()
    if hierarchy is None:
        return {*Controller}
    offered = Path(hierarchy.mount, "cgroup.controllers").read_text().split()
    return {*Controller} - set(offered)


def test_it_says_of_every_limit_whether_it_is_to_be_had_here_and_what_mends_it(
    scratch: Path,
) -> None:
    found = examine(scratch)
    assert set(found) >= TRIALS
    for controller in missing_controllers():
        check = found[f"controller {controller}"]
        assert check["level"] == "warning"
        assert controller in check["found"]
    if "memory" in missing_controllers():
        check = found["--memory"]
        assert check["level"] == "warning"
        assert check["found"].startswith("not here: ")
        assert check["remedy"] == found["controller memory"]["remedy"]
    assert found["a job"]["level"] == found["stop and kill"]["level"] == "ok"
    assert "configuration" not in found


def test_a_running_server_its_jobs_and_its_places_are_left_alone(
    instance: Instance, scratch: Path
) -> None:
    job = instance.admin.start("sleep", "600")
    before = instance.processes() | {instance.pid}
    places = {instance.work_dir, instance.state_dir, instance.runtime_dir}
    names = {place: sorted(os.listdir(place)) for place in places}
    found = examine(scratch, "--config", instance.config_path)
    assert str(instance.monitor_pid) in found["server"]["found"]
    assert found["configured limits"]["level"] == "ok"
    assert instance.processes() | {instance.pid} == before
    assert {place: sorted(os.listdir(place)) for place in places} == names
    assert instance.admin.status(job) == "running"
    if os.geteuid() == 0:
        uids = range(instance.config.uid_first, instance.config.uid_first + 65_536)
        assert int(found["a job"]["measured"]["uid"]) == uids[-1]


def test_configured_limits_that_the_host_cannot_hold_are_a_failure(
    instance: Instance, scratch: Path
) -> None:
    if "memory" not in missing_controllers():
        pytest.skip("this host can hold jobs to limits of memory")
    config = instance.directory / "limited.toml"
    text = instance.config_path.read_text()
    config.write_text(text + '\n[limits.default]\nmemory = "64M"\n')
    check = examine(scratch, "--config", config, code=1)["configured limits"]
    assert check["level"] == "failed"
    assert "--memory" in check["found"]


@pytest.mark.parametrize(
    ("table", "line", "told"),
    [
        ("default", 'io_read_bps = ["/no/such/disk:1M"]', "the key limits.default.io_read_bps of "),
        ("all", 'memory_swap = "64M"', "[limits.all] of the configuration: "),
    ],
)
def test_configured_limits_that_could_never_hold_are_a_failure(
    instance: Instance, scratch: Path, table: str, line: str, told: str
) -> None:
    if table == "all" and "memory" in missing_controllers():
        pytest.skip("this host has no limits of memory, and says that first")
    config = instance.directory / "limited.toml"
    text = instance.config_path.read_text()
    config.write_text(f"{text}\n[limits.{table}]\n{line}\n")
    check = examine(scratch, "--config", config, code=1)["configured limits"]
    assert check["level"] == "failed"
    assert check["found"].startswith(f"cannot use {told}")


def test_without_cgroups_it_says_so_and_tries_what_can_be_tried(
    instance: Instance, scratch: Path
) -> None:
    text = instance.config_path.read_text()
    instance.config_path.write_text(text.replace('root = "auto"', 'root = "none"'))
    found = examine(scratch, "--config", instance.config_path)
    assert "as configured" in found["cgroup"]["found"]
    assert "tracked as subreaper" in found["a job"]["found"]
    assert found["pause and resume"]["level"] == "warning"


def test_a_configuration_that_cannot_be_read_is_a_failure_and_the_host_is_examined(
    scratch: Path,
) -> None:
    found = examine(scratch, "--config", scratch / "none.toml", code=1)
    assert found["configuration"]["level"] == "failed"
    assert set(found) >= TRIALS


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ended_by_a_signal_it_leaves_nothing(scratch: Path, signo: signal.Signals) -> None:
    with popen(scratch) as doctor:
        assert doctor.stdout is not None
        assert any(line == "trial jobs\n" for line in doctor.stdout)
        doctor.send_signal(signo)
        rest, stderr = doctor.communicate(timeout=DEADLINE_S)
    assert doctor.returncode == -signo, rest
    assert stderr == ""
    assert not list(scratch.iterdir())


def test_what_a_killed_one_has_left_is_removed_by_the_next(scratch: Path) -> None:
    with popen(scratch) as doctor:
        assert doctor.stdout is not None
        assert any(line == "trial jobs\n" for line in doctor.stdout)
        doctor.kill()
    [own] = scratch.iterdir()
    record = json.loads((own / "trial.json").read_text())
    tag = instance_tag(own / "state")
    spawners = {pid for pid in all_pids() if str(own) in " ".join(command_of(pid))}
    assert spawners

    with popen(scratch) as running:
        assert running.stdout is not None
        assert any(line == "trial jobs\n" for line in running.stdout)
        [others] = scratch.iterdir()
        assert others != own
        asyncio.run(clear_leftovers(str(scratch), "a third"))
        assert list(scratch.iterdir()) == [others]
        running.terminate()
        running.communicate(timeout=RUN_S)

    assert not list(scratch.iterdir())
    assert not Path(record["work_dir"]).exists()
    eventually(lambda: not any(map(is_alive, spawners)), what="the end of its spawner")
    hierarchy = cgroup.find_hierarchy()
    assert hierarchy is None or not list(Path(hierarchy.mount).glob(f"jobd-{tag}"))


def test_a_directory_of_somebody_elses_is_not_believed(scratch: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    trap = scratch / "jobd-doctor-trap"
    trap.mkdir()
    record = {"runtime_dir": f"{trap}/run", "work_dir": str(victim), "cgroup_root": "none"}
    (trap / "trial.json").write_text(json.dumps(record | {"uid_first": None}))
    trap.chmod(0o777)

    asyncio.run(clear_leftovers(str(scratch), "a test"))
    assert victim.exists()

    trap.chmod(0o700)  # that this was why: now it is as the user's own
    asyncio.run(clear_leftovers(str(scratch), "a test"))
    assert not victim.exists()


def test_it_ends_in_silence_when_nobody_reads_it_any_more(scratch: Path) -> None:
    with popen(scratch) as doctor:
        assert doctor.stdout is not None
        assert doctor.stderr is not None
        assert doctor.stdout.readline() == "this host\n"
        doctor.stdout.close()
        assert doctor.stderr.read() == ""
        assert doctor.wait(DEADLINE_S) == 1
    assert not list(scratch.iterdir())


def test_a_wrong_flag_is_a_usage_error(scratch: Path) -> None:
    with popen(scratch, "-o", "xml") as doctor:
        _, stderr = doctor.communicate(timeout=DEADLINE_S)
    assert doctor.returncode == 2
    assert "choose from" in stderr
