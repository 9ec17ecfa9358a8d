"""Under a real systemd: where jobs live, that limits hold there, and what restarts leave alone.

Run by `make test-systemd`, in a guest that boots a Debian of its own.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import ssl
import stat
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
        if not become:
            # Above what a service has by itself: only who has CAP_SYS_RESOURCE can give it.
            with self.config.open("a") as config:
                config.write('[jobs.rlimits]\nmemlock = "unlimited"\n')

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

    def output(self, *words: str) -> str:
        """Return what a job of these words prints, to whichever stream."""
        return self.jobc("logs", "--raw", self.jobc("start", *words))

    def served_serial(self) -> str:
        """Return the serial number of the certificate that the server shows."""
        client = self.directory / "pki/clients/ann"
        context = ssl.create_default_context(cafile=str(self.directory / "pki/ca.crt"))
        context.load_cert_chain(f"{client}.crt", f"{client}.key")
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as tls,
        ):
            shown = tls.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])

    def server_pid(self) -> int:
        """Return the process that serves: the child of the unit's main process."""
        main = run("systemctl", "show", "--property=MainPID", "--value", "jobd.service")
        found = run("pgrep", "--parent", main, "--full", "jobruntime.server.child")
        return int(found)

    def group_of(self, job: str) -> Path:
        """Return the cgroup in which the job says that it is."""
        printed = self.output("cat", "/proc/self/cgroup")
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
    except BaseException:
        print(logged(name))  # the place it stands in is gone with the guest
        raise
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


def packaged_for(service: Service) -> str:
    """Return the packaged unit of the system, running this service."""
    packaged_command = "/opt/jobruntime/.venv/bin/jobd serve --config /etc/jobd/jobd.toml"
    return packaged("jobd.service", {packaged_command: service.command})


def process_status(pid: int | str) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def logged(unit_name: str) -> str:
    """Return what the unit has logged."""
    return run("journalctl", "--unit", unit_name, "--output=cat", "--no-pager", "--lines=60")


def is_gone(path: Path) -> Callable[[], bool]:
    return lambda: not path.exists()


def test_jobs_of_the_packaged_service_live_in_a_scope_that_outlives_it(directory: Path) -> None:
    service = Service(directory / "i")
    with unit("jobd.service", packaged_for(service)):
        job = service.jobc("start", "--memory", "32M", "--cpus", "0.5", "sleep", "1000")
        group = service.group_of(job)
        assert re.fullmatch(r"jobd-[0-9a-f]{12}\.scope", group.parents[1].name), group
        service.assert_limits_hold()
        processes = (group / "cgroup.procs").read_text()
        assert processes.strip()

        server = service.server_pid()
        run("systemctl", "restart", "jobd.service")
        assert service.server_pid() != server
        assert service.jobc("status", job) == "running"
        assert (group / "cgroup.procs").read_text() == processes
        assert (group / "memory.max").read_text() == f"{32 << 20}\n"
        service.jobc("update", "--memory", "24M", job)
        assert (group / "memory.max").read_text() == f"{24 << 20}\n"
        run("systemctl", "stop", "jobd.service")
        assert (group / "cgroup.procs").read_text() == processes
        run("systemctl", "start", "jobd.service")
        assert service.jobc("status", job) == "running"
        service.assert_limits_hold()
        service.jobc("stop", job)
        assert service.status(job)["state"] == "terminated"
    scope = group.parents[1]
    eventually(is_gone(scope), DEADLINE_S, "the end of the scope")


def test_what_the_packaged_service_may_reaches_as_far_as_it_should(directory: Path) -> None:
    service = Service(directory / "i")
    text = packaged_for(service)
    with unit("jobd.service", text):
        main = run("systemctl", "show", "--property=MainPID", "--value", "jobd.service")
        monitor = process_status(main)
        server = process_status(service.server_pid())
        granted = re.findall(r"^CapabilityBoundingSet=(.*)", text, re.MULTILINE)
        assert int(monitor["CapBnd"], 16).bit_count() == len(" ".join(granted).split()) == 12
        assert monitor["NoNewPrivs"] == "1"
        assert "0" not in server["Uid"].split() + server["Gid"].split()
        assert server["Groups"] == ""
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(server[name], 16) == 0, name
        assert_listens_as(int(server["Uid"].split()[0]), service.port)

        # Jobs are held by none of it: neither devices nor their resource limits, nor system calls.
        device = directory / "device"
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 11))  # as /dev/kmsg
        run("sysctl", "--write", "kernel.dmesg_restrict=0")
        device.chmod(0o666)
        opening = f": <{device} && echo opened"
        enter = "echo 0 >/sys/fs/cgroup/system.slice/jobd.service/cgroup.procs"
        assert "opened" not in run("sh", "-c", f"{enter} && {opening}", check=False)
        assert run("sh", "-c", opening) == service.output("sh", "-c", opening) == "opened"
        assert service.output("sh", "-c", "ulimit -l") == "unlimited"
        assert process_status(main)["Seccomp"] == "0"
        assert "Seccomp:\t0" in service.output("cat", "/proc/self/status")
        where = "readlink /proc/self/ns/mnt"
        assert service.output("sh", "-c", where) == run("sh", "-c", where)

        # What needs most of the capabilities: a view and a network of its own, and removing it.
        talk = "import socket as s; a = s.create_server(('127.0.0.1', 0)); "
        talk += "s.create_connection(a.getsockname()); print('loopback')"
        isolated = service.jobc("start", "--isolate=loopback", "/usr/bin/python3", "-c", talk)
        assert service.jobc("logs", "--raw", isolated) == "loopback"
        service.jobc("rm", isolated)

        # Where one of monitor and server dies, systemd starts both again, and no job is lost.
        job, old = service.jobc("start", "--isolate", "sleep", "1000"), service.server_pid()
        os.kill(old, signal.SIGKILL)
        eventually(lambda: "NRestarts=1" in restarts(), DEADLINE_S, "the restart")
        eventually(service.is_listening, DEADLINE_S, "the server")
        assert service.jobc("status", job) == "running"
        assert service.server_pid() != old
        service.jobc("stop", job)
        assert service.status(job)["state"] == "terminated"


def restarts() -> str:
    """Return how often systemd has started the service again by itself."""
    return run("systemctl", "show", "--property=NRestarts", "jobd.service")


def assert_listens_as(uid: int, port: int) -> None:
    """The socket that listens at the port belongs to this user."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    owners = [int(row[7]) for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
    assert owners == [uid]


def test_a_reload_takes_a_new_certificate_and_no_broken_policy(directory: Path) -> None:
    service = Service(directory / "i")
    policy = directory / "i/policy.toml"
    with unit("jobd.service", packaged_for(service)):
        server, old = service.server_pid(), service.served_serial()
        renew = (BIN / "jobd", "cert", "renew", "server", "--dir", directory / "i")
        run(*renew)
        eventually(lambda: service.served_serial() != old, DEADLINE_S, "what it takes by itself")
        old = service.served_serial()
        (directory / "i/pki/server.key").unlink()  # the next one is root's, as another tool's is
        run(*renew)
        assert service.served_serial() == old
        policy.write_text('[roles.admin]\nverbs = { start = "any", logs = "any" }\n')
        run("systemctl", "reload", "jobd.service")
        eventually(lambda: service.served_serial() != old, DEADLINE_S, "the new certificate")
        job = service.jobc("start", "sleep", "1000")
        assert "no role of user 'ann' allows it" in status_refusal(service, job)

        policy.write_text('[roles.admin]\nverbs = "everything"\n')
        run("systemctl", "reload", "jobd.service")
        told = "cannot reload the policy, the old one stays"
        eventually(lambda: told in logged("jobd.service"), DEADLINE_S, "the refusal of the policy")
        assert "no role of user 'ann' allows it" in status_refusal(service, job)

        policy.write_text('[roles.admin]\nverbs = "any"\n')
        run("systemctl", "reload", "jobd.service")
        eventually(lambda: not status_refusal(service, job), DEADLINE_S, "the last policy")
        assert service.server_pid() == server
        service.jobc("stop", job)


def status_refusal(service: Service, job: str) -> str:
    """Return how the administrator's `jobc status` is refused; empty if it is not."""
    try:
        service.jobc("status", job)
    except AssertionError as error:
        return str(error)
    return ""


def test_a_delegated_service_has_its_jobs_in_its_own_group(directory: Path) -> None:
    service = Service(directory / "i")
    text = f"""
[Service]
Type=notify
NotifyAccess=all
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
    units = Path(entry.pw_dir, ".config/systemd/user")
    run(*become, "mkdir", "-p", units)
    packaged_command = "%h/jobruntime/.venv/bin/jobd serve --config %h/jobs/jobd.toml"
    text = packaged("jobd-user.service", {packaged_command: service.command})
    (units / "jobd.service").write_text(text)
    run(*become, "systemctl", "--user", "daemon-reload")
    run(*become, "systemctl", "--user", "start", "jobd")
    job = service.jobc("start", "--memory", "32M", "sleep", "1000")
    group = service.group_of(job)
    assert f"user@{entry.pw_uid}.service" in group.parts
    assert group.parents[1].name.endswith(".scope")
    service.assert_limits_hold()
    run(*become, "systemctl", "--user", "restart", "jobd")
    assert service.jobc("status", job) == "running"
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
