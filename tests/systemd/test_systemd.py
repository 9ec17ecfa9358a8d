"""Under a real systemd: where jobs live, that limits hold there, and what restarts leave alone.

Run by `make test-systemd`, in a guest that boots a Debian of its own.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support import eventually

pytestmark = pytest.mark.systemd

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
SYSTEM_UNITS: Final = Path("/etc/systemd/system")
CGROUPS: Final = Path("/sys/fs/cgroup")
USER: Final = "carol"
DEADLINE_S: Final = 90.0  # the guest has one slow CPU


@pytest.fixture(scope="module", autouse=True)
def guest() -> None:
    """Refuse to touch the users, units and directories of a host that somebody uses."""
    assert Path("/run/bed").is_dir(), "these tests change the system: `make test-systemd` runs them"


def run(*words: str | Path, env: dict[str, str] | None = None, check: bool = True) -> str:
    """Return what the command prints; with `check` it must succeed."""
    done = subprocess.run(
        words,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Service:
    """A jobd that systemd runs, and its administrator."""

    def __init__(self, directory: Path, *, become: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.become = become
        self.config = directory / "jobd.toml"
        self.port = 20_000 + os.getpid() % 10_000
        listen = f"127.0.0.1:{self.port}"
        run(*become, BIN / "jobd", "init", "--dir", directory, "--listen", listen, "--admin", "ann")
        text = self.config.read_text().split("[limits", 1)[0]
        self.config.write_text(text)

    @property
    def command(self) -> str:
        """What the unit executes."""
        return f"{BIN}/jobd serve --config {self.config}"

    def jobc(self, *words: str) -> str:
        """Return what jobc prints, called by the administrator."""
        client = self.directory / "pki/clients/ann"
        env = {
            "JOBC_ADDR": f"127.0.0.1:{self.port}",
            "JOBC_CA": str(self.directory / "pki/ca.crt"),
            "JOBC_CERT": f"{client}.crt",
            "JOBC_KEY": f"{client}.key",
        }
        return run(BIN / "jobc", "--connect-timeout", "60s", *words, env=env)

    def is_listening(self) -> bool:
        """Return whether the server takes connections."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def status(self, job: str) -> dict[str, object]:
        """Return `jobc status -o json`."""
        value: dict[str, object] = json.loads(self.jobc("status", "-o", "json", job))
        return value

    def group_of(self, job: str) -> Path:
        """Return the cgroup in which the job says that it is."""
        printed = self.jobc("logs", "--raw", self.jobc("start", "cat", "/proc/self/cgroup"))
        assert printed.startswith("0::/"), printed
        return CGROUPS / Path(printed.removeprefix("0::/")).parent / job

    def assert_limits_hold(self) -> None:
        """A hog is killed at its limit and told so; its neighbour lives."""
        neighbour = self.jobc("start", "--pids", "10", "sleep", "1000")
        hog = self.jobc("start", "--memory", "16M", "tail", "/dev/zero")
        eventually(lambda: self.status(hog)["state"] == "terminated", DEADLINE_S, "the hog's end")
        told = self.status(hog)
        assert told["cause"] == "oom", told
        assert self.jobc("status", neighbour) == "running"
        self.jobc("stop", neighbour)


@contextmanager
def unit(name: str, text: str) -> Iterator[None]:
    """Have a system unit of this text, started."""
    path = SYSTEM_UNITS / name
    path.write_text(text)
    run("systemctl", "daemon-reload")
    try:
        run("systemctl", "start", name)
        yield
    finally:
        run("systemctl", "stop", name, check=False)
        path.unlink()


@pytest.fixture
def directory(request: pytest.FixtureRequest) -> Path:
    """A place that every user can reach."""
    place = Path("/srv") / re.sub(r"\W", "_", request.node.name)[:20]
    place.mkdir(mode=0o755)
    return place


def packaged(name: str, replacements: dict[str, str]) -> str:
    """Return a unit of packaging/, for this place."""
    text = (ROOT / "packaging" / name).read_text()
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


def is_gone(path: Path) -> Callable[[], bool]:
    return lambda: not path.exists()


def test_jobs_of_the_packaged_service_live_in_a_scope_that_outlives_it(directory: Path) -> None:
    service = Service(directory / "i")
    text = packaged(
        "jobd.service",
        {"/opt/jobruntime/.venv/bin/jobd serve --config /etc/jobd/jobd.toml": service.command},
    )
    with unit("jobd.service", text):
        job = service.jobc("start", "--memory", "32M", "--cpus", "0.5", "sleep", "1000")
        group = service.group_of(job)
        assert re.fullmatch(r"jobd-[0-9a-f]{12}\.scope", group.parents[1].name), group
        assert (group / "memory.max").read_text() == f"{32 << 20}\n"
        service.assert_limits_hold()

        run("systemctl", "restart", "jobd.service")
        assert service.jobc("status", job) == "running"
        run("systemctl", "stop", "jobd.service")
        assert (group / "cgroup.procs").read_text().strip()
        run("systemctl", "start", "jobd.service")
        assert service.jobc("status", job) == "running"
        service.assert_limits_hold()
        service.jobc("stop", job)
    scope = group.parents[1]
    eventually(is_gone(scope), DEADLINE_S, "the end of the scope")


def test_a_delegated_service_has_its_jobs_in_its_own_group(directory: Path) -> None:
    service = Service(directory / "i")
    text = f"""
[Service]
Type=notify
Delegate=yes
KillMode=process
ExecStart={service.command}
"""
    with unit("delegated.service", text):
        job = service.jobc("start", "sleep", "1000")
        group = service.group_of(job)
        assert group.parents[1] == CGROUPS / "system.slice/delegated.service"
        assert run("systemctl", "is-active", "delegated.service") == "active"
        service.assert_limits_hold()
        assert run("systemctl", "is-active", "delegated.service") == "active"  # OOMPolicy
        service.jobc("stop", job)


def test_a_user_without_root_has_limits_through_his_own_systemd(directory: Path) -> None:
    for place in (*Path(sys.base_prefix).parents, *ROOT.parents):
        place.chmod(0o755)  # of the guest's own copy: the user must get to the interpreter
    run("useradd", "--create-home", USER)
    run("loginctl", "enable-linger", USER)
    entry = pwd.getpwnam(USER)
    os.chown(directory, entry.pw_uid, entry.pw_gid)
    runtime = f"/run/user/{entry.pw_uid}"
    eventually(Path(runtime, "systemd/private").exists, DEADLINE_S, "the user's systemd")
    become = (
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--inh-caps=-all"),
        *("env", f"HOME={entry.pw_dir}", f"XDG_RUNTIME_DIR={runtime}", "USER=" + USER),
    )
    service = Service(directory / "i", become=become)
    start = (*become, "systemd-run", "--user", "--quiet", "--unit=jobd", "--property=Type=notify")
    run(*start, *service.command.split())
    job = service.jobc("start", "--memory", "32M", "sleep", "1000")
    group = service.group_of(job)
    assert f"user@{entry.pw_uid}.service" in group.parts
    assert group.parents[1].name.endswith(".scope")
    service.assert_limits_hold()
    run(*become, "systemctl", "--user", "stop", "jobd")
    assert (group / "cgroup.procs").read_text().strip()

    # From a shell, whose group is not within the user's systemd: what is moved into the scope must
    # take the way through it.
    with subprocess.Popen([*become, *service.command.split()]) as server:
        try:
            eventually(service.is_listening, DEADLINE_S, "the server from a shell")
            assert service.jobc("status", job) == "running"
            service.assert_limits_hold()
            service.jobc("stop", job)
        finally:
            server.terminate()
    eventually(is_gone(group.parents[1]), DEADLINE_S, "the end of the scope")
