"""As root: what is privileged of a server, and what whoever takes over the rest gains. Nothing."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from jobruntime.model.frames import segment_name
from jobruntime.model.io_rates import NO_IO, encode_io_order
from jobruntime.model.spec import JobSpec, encode_spec
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from jobruntime.server.config import server_uid_of
from tests.conftest import MakeInstance
from tests.support import (
    BIN,
    Client,
    Instance,
    eventually,
    is_alive,
    jobd,
    processes_of,
    status_fields,
)

JOB_ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture(scope="module", autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        # Where all is meant to be tested, a test that cannot run has failed.
        assert not os.environ.get("CI"), "these tests need root"
        pytest.skip("without root nothing is privileged")


def server_uid(instance: Instance) -> int:
    return server_uid_of(instance.config.state_dir)


def as_user(uid: int, work: Callable[[], object]) -> str:
    """Do `work` in a process of this user's without groups; return what came of it, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            text = repr(work())
        except BaseException as error:  # noqa: BLE001 - the process ends here
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def test_the_serving_process_has_no_privilege_and_no_way_to_gain_one(instance: Instance) -> None:
    fields = status_fields(instance.pid)
    uid = str(server_uid(instance))

    assert fields["Uid"].split() == fields["Gid"].split() == [uid] * 4
    assert fields["Groups"] == ""
    assert fields["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    # Not dumpable: the kernel gives what tells of it to root.
    assert os.stat(f"/proc/{instance.pid}/mem").st_uid == 0
    assert f"serving as uid {uid}, without privileges" in instance.stderr
    assert status_fields(instance.monitor_pid)["Uid"].split() == ["0"] * 4


def test_the_monitor_is_of_the_standard_library_alone(instance: Instance) -> None:
    assert status_fields(instance.monitor_pid)["Threads"] == "1"
    maps = Path(f"/proc/{instance.monitor_pid}/maps").read_text()
    assert "site-packages" not in maps
    code = "import sys, jobruntime.server.monitor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    modules = set(done.stdout.decode().split())
    assert not modules & {"asyncio", "concurrent", "cryptography", "google", "grpc", "sqlite3"}


def test_the_servers_user_reads_no_key_of_the_ca_no_home_and_no_cgroup(
    shared: Instance, tmp_path: Path
) -> None:
    uid = server_uid(shared)
    pki = shared.directory / "pki"
    job = shared.admin.start("sleep", "600")
    open_to_him = os.open(pki, os.O_PATH)  # whatever is above it

    def read(name: str) -> Callable[[], object]:
        return lambda: os.read(os.open(name, os.O_RDONLY, dir_fd=open_to_him), 10)

    try:
        assert as_user(uid, read("server.key")) == repr(b"-----BEGIN")
        assert as_user(uid, read("ca.crt")) == repr(b"-----BEGIN")
        assert "PermissionError" in as_user(uid, read("ca.key"))
        assert "PermissionError" in as_user(uid, read("clients/admin.key"))
        home = os.open(shared.work_dir / job, os.O_PATH)
        assert "PermissionError" in as_user(uid, lambda: os.listdir(f"/proc/self/fd/{home}"))
        os.close(home)
        [pid] = processes_of(job)
        assert "PermissionError" in as_user(uid, lambda: os.kill(pid, 0))
        assert os.read(os.open(pki / "ca.key", os.O_RDONLY), 10) == b"-----BEGIN"
        if shared.cgroup_root is not None:
            group = f"{shared.cgroup_root}/jobs/{job}"
            assert "PermissionError" in as_user(uid, lambda: os.listdir(group))
            jobs = as_user(uid, lambda: os.listdir(f"{shared.cgroup_root}/jobs"))
            assert job in jobs
    finally:
        os.close(open_to_him)
        shared.admin.stop(job, "--grace", "0s")


def test_a_job_reads_its_own_groups_files_and_nobody_elses(
    shared: Instance, alice: Client, bob: Client
) -> None:
    if shared.cgroup_root is None:
        pytest.skip("no cgroup v2 here that could be written")
    other = bob.start("sleep", "600")
    jobs = f"{shared.cgroup_root}/jobs"
    assert Path(jobs, other, "cgroup.events").read_text()
    script = (
        f"cat {jobs}/$JOB_ID/cgroup.events && ! cat {jobs}/{other}/cgroup.events && ! ls {jobs}"
    )
    job = alice.start("sh", "-c", script)
    stdout, stderr = alice.logs_raw(job)
    assert alice.status(job) == "finished (exit code: 0)", stderr
    assert b"populated 1" in stdout
    assert stderr.count(b"Permission denied") == 2
    bob.stop(other, "--grace", "0s")


# ---------------------------------------------------------------- the server's death


def test_a_killed_monitor_takes_the_server_with_it_and_no_job(instance: Instance) -> None:
    job = instance.admin.start("sleep", "600")
    payload, server = processes_of(job), instance.pid

    os.kill(instance.monitor_pid, signal.SIGKILL)
    # At once: the next one waits for the end of the old server.
    instance._gone()
    instance.start()

    assert not is_alive(server)
    assert instance.pid != server
    assert processes_of(job) == payload
    assert instance.admin.status(job) == "running"


def test_stop_waits_for_server_and_monitor(instance: Instance) -> None:
    server, monitor = instance.pid, instance.monitor_pid
    done = jobd("stop", "--config", instance.config_path, home=instance.directory)
    assert done.returncode == 0
    assert not is_alive(server)
    assert not is_alive(monitor)
    instance._gone()
    assert not instance.runtime_dir.exists()


def test_a_monitor_ends_as_its_server_does(instance: Instance) -> None:
    os.kill(instance.pid, signal.SIGKILL)
    assert instance._gone() == 128 + signal.SIGKILL


# ---------------------------------------------------------------- a server that was taken over


def packet(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(path))
    return sock


def give_order(
    runtime: Path, message: dict[str, object], directory: str, argv: tuple[str, ...] = ("id",)
) -> dict[str, object]:
    """Give the spawner an order as the server does; return its answer."""
    spec = os.memfd_create("spec", os.MFD_ALLOW_SEALING)
    os.write(
        spec, json.dumps(encode_spec(JobSpec(argv=argv)) | {"io": encode_io_order(NO_IO)}).encode()
    )
    fcntl.fcntl(spec, fcntl.F_ADD_SEALS, 15)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    fds = array.array("i", [theirs.fileno(), os.open(directory, os.O_RDONLY), spec])
    with closing(packet(runtime / "spawner.sock")) as spawner:
        assert b"hello" in spawner.recv(4096)
        spawner.sendmsg(
            [json.dumps(message).encode()],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())],
        )
        theirs.close()
        answer: dict[str, object] = json.loads(ours.recv(65536))
    return answer


def start_order(uid: object, job_id: str = JOB_ID) -> dict[str, object]:
    return {"op": "start", "id": job_id, "uid": uid, "gid": uid, "user": "x", "rlimits": []}


@pytest.fixture
def own_directory(shared: Instance) -> Iterator[str]:
    """A directory of the server's user in a place that all can pass."""
    path = f"/var/tmp/jobd-test-{os.getpid()}-{time.monotonic_ns()}"
    os.mkdir(path, 0o700)
    os.chown(path, server_uid(shared), server_uid(shared))
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


def test_the_spawner_runs_nothing_as_a_user_outside_the_range(
    shared: Instance, own_directory: str
) -> None:
    uid, config = server_uid(shared), shared.config
    end = config.uid_first + config.uid_count
    for wrong in (0, 1, uid, config.uid_first - 1, end, -1, None, "0", True, 1 << 32):
        answer = as_user(
            uid,
            lambda wrong=wrong: give_order(shared.runtime_dir, start_order(wrong), own_directory),  # type: ignore[misc]
        )
        assert "'failed'" in answer, (wrong, answer)
        assert "'user'" in answer, (wrong, answer)
        assert os.listdir(own_directory) == []
    # And within it, all else being equal, it does: so it was the uid.
    good = start_order(end - 7)
    answer = as_user(uid, lambda: give_order(shared.runtime_dir, good, own_directory))
    assert "'started'" in answer, answer
    eventually(lambda: os.path.exists(f"{own_directory}/outcome.json"))
    assert b"uid=%d" % (end - 7) in Path(own_directory, segment_name(0)).read_bytes()


@pytest.mark.parametrize(
    "job_id", ["../../etc", "", "x" * 36, JOB_ID + "/..", JOB_ID.upper() + "A"]
)
def test_the_spawner_builds_no_path_of_what_is_no_job_id(
    shared: Instance, own_directory: str, job_id: str
) -> None:
    first = shared.config.uid_first
    order = start_order(first, job_id)
    answer = as_user(
        server_uid(shared), lambda: give_order(shared.runtime_dir, order, own_directory)
    )
    assert "'failed'" in answer
    assert "'order'" in answer


def test_the_spawner_makes_files_only_in_a_directory_of_the_servers_own(shared: Instance) -> None:
    order = start_order(shared.config.uid_first)
    before = sorted(os.listdir("/etc"))
    for directory in ("/etc", "/tmp"):
        answer = as_user(
            server_uid(shared),
            lambda directory=directory: give_order(shared.runtime_dir, order, directory),  # type: ignore[misc]
        )
        assert "'failed'" in answer, answer
    assert sorted(os.listdir("/etc")) == before


@pytest.mark.parametrize(
    "name", [segment_name(0), "outcome.json.new", "status.json", "outcome.json", "status.json.new"]
)
def test_a_link_in_a_jobs_directory_leads_root_nowhere(
    shared: Instance, own_directory: str, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "roots"
    target.write_text("untouched")
    os.symlink(target, f"{own_directory}/{name}")
    order = start_order(shared.config.uid_first)
    argv = ("sh", "-c", "echo output; exit 3")

    answer = as_user(
        server_uid(shared), lambda: give_order(shared.runtime_dir, order, own_directory, argv)
    )

    if "'started'" in answer:
        eventually(lambda: not os.path.islink(f"{own_directory}/outcome.json"))
        eventually(lambda: not processes_of(JOB_ID))
    assert target.read_text() == "untouched"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert target.stat().st_uid == 0


def test_jobs_and_others_reach_neither_spawner_nor_keepers(shared: Instance, alice: Client) -> None:
    job = alice.start("sleep", "600")
    runtime = shared.runtime_dir
    [pid] = processes_of(job)
    uid = int(status_fields(pid)["Uid"].split()[0])
    for path in (runtime / "spawner.sock", runtime / "keepers" / job):
        assert as_user(server_uid(shared), lambda path=path: bool(packet(path))) == "True"  # type: ignore[misc]
        for other in (uid, 65_534, server_uid(shared) ^ 1):
            denied = as_user(other, lambda path=path: bool(packet(path)))  # type: ignore[misc]
            assert "PermissionError" in denied
    alice.stop(job, "--grace", "0s")


def test_a_stranger_who_gets_to_the_socket_is_hung_up_on(
    shared: Instance, own_directory: str
) -> None:
    # Through the socket's own inode, with the right to write: what is left is the peer's uid.
    place = shared.runtime_dir / "spawner.sock"
    mode = stat.S_IMODE(place.stat().st_mode)
    directory = os.open(shared.runtime_dir, os.O_PATH)
    shared.runtime_dir.chmod(0o711)
    place.chmod(0o666)
    try:
        stranger = shared.config.uid_first
        said = as_user(stranger, lambda: packet(place).recv(100))
        assert said == "b''"
        assert "hello" in as_user(server_uid(shared), lambda: packet(place).recv(100))
    finally:
        place.chmod(mode)
        shared.runtime_dir.chmod(0o710)
        os.close(directory)


def test_the_monitor_starts_nothing_but_what_it_knows() -> None:
    """Ask a real monitor, in the server's place."""
    script = """
import json, os, socket, sys
from jobruntime.worker.prepared import take_over
handed = take_over(int(sys.argv[1]))
said = []
for message in (
    b'{"op":"shell","seq":7}',
    b'{"op":"spawner","arguments":["--peer-uid","0"],"command":"/bin/sh"}',
    b'{}',
):
    handed.monitor.send(message)
    data, fds, _, _ = socket.recv_fds(handed.monitor, 4096, 4)
    said.append([json.loads(data), len(fds)])
    if fds:
        os.read(fds[0], 16)
print(json.dumps([os.geteuid(), said]), flush=True)
"""
    driver = f"""
import dataclasses, sys
from jobruntime.worker.instance import open_instance
from jobruntime.worker.monitor import Monitor, Program
from jobruntime.worker.settings import Account, Settings
account = Account(0x7fff0001, 0x7fff0001)
settings = Settings(state_dir=sys.argv[1], runtime_dir=sys.argv[1] + ".run", cgroup_root="none",
                    work_dir=sys.argv[1] + ".work", server=account, uid_first=0x70000000)
instance = open_instance(settings)
code = Monitor(instance, account).run(Program(
    command=[sys.executable, "-c", {script!r}], files=[],
    places=[sys.executable, sys.prefix, sys.base_prefix, instance.state_dir,
            *filter(None, sys.path)],
    words={{}}))
sys.exit(code)
"""
    with temporary_place() as place:
        done = subprocess.run(
            [sys.executable, "-c", driver, f"{place}/state"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        uid, said = json.loads(done.stdout)
        assert uid == 0x7FFF0001
        refused = "the monitor knows no such request"
        assert said[0] == [{"failed": refused, "seq": 7}, 0]
        assert said[2] == [{"failed": refused, "seq": None}, 0]
        [started, fds] = said[1]
        assert fds == 1
        command = Path(f"/proc/{started['started']}/cmdline").read_bytes().split(b"\0")
        assert b"keeper/__main__.py" in command[3]
        assert command[command.index(b"--peer-uid") + 1] == b"2147418113"
        os.kill(started["started"], signal.SIGTERM)


@contextmanager
def temporary_place() -> Iterator[str]:
    path = f"/var/tmp/jobd-test-{os.getpid()}-{time.monotonic_ns()}"
    os.mkdir(path, 0o755)
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", path], check=True)


# ---------------------------------------------------------------- places and configuration


def test_a_state_directory_of_roots_is_given_to_the_server_once(
    make_instance: MakeInstance,
) -> None:
    instance = make_instance()
    job = instance.admin.start("echo", "kept")
    assert instance.admin.logs_raw(job)[0] == b"kept\n"
    instance.stop()
    subprocess.run(["chown", "-R", "0:0", instance.state_dir], check=True)  # as before this version

    instance.start()

    uid = server_uid(instance)
    assert f"giving {instance.state_dir}, which was root's, to uid {uid}" in instance.stderr
    assert instance.admin.logs_raw(job)[0] == b"kept\n"
    owners = {path.lstat().st_uid for path in instance.jobs_dir.rglob("*")}
    assert owners == {uid}
    instance.restart()
    assert "which was root's" not in instance.stderr


def test_jobs_that_run_from_before_the_server_was_unprivileged_end_first(
    make_instance: MakeInstance,
) -> None:
    instance = make_instance()
    job = instance.admin.start("sleep", "1000")
    instance.stop()
    subprocess.run(["chown", "-R", "0:0", instance.state_dir], check=True)  # as before this version
    for place in (instance.runtime_dir, instance.runtime_dir / "keepers"):
        os.chown(place, 0, 0)
        place.chmod(0o700)

    serve = (BIN / "jobd", "serve", "--config", instance.config_path)
    refused = subprocess.run(serve, capture_output=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert b"jobs run that an earlier version has started, as root" in refused.stderr
    owners = {path.lstat().st_uid for path in instance.jobs_dir.rglob("*")}
    assert owners == {0}

    end = (BIN / "jobd", "stop", "--jobs", "--config", instance.config_path)
    subprocess.run(end, check=True, timeout=60)
    instance.start()
    assert instance.admin.status(job) == "stopped (signal: 15)"


def test_state_of_somebody_else_is_refused(make_instance: MakeInstance) -> None:
    instance = make_instance()
    instance.stop()
    os.chown(instance.state_dir, 12_345, 12_345)
    done = jobd("serve", "--config", instance.config_path, home=instance.directory)
    os.chown(instance.state_dir, server_uid(instance), server_uid(instance))
    assert done.returncode == 1
    assert b"it belongs to user 12345" in done.stderr
    assert b"chown -R" in done.stderr


def serve_with(instance: Instance, *lines: str) -> bytes:
    """Return what a server says that is refused with these lines on top of its configuration."""
    text = "\n".join(lines) + "\n" + instance.config_path.read_text()
    path = instance.config_path.with_name("other.toml")
    path.write_text(text)
    done = subprocess.run(
        [BIN / "jobd", "serve", "--config", path], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_an_account_that_would_protect_nothing_is_refused(make_instance: MakeInstance) -> None:
    instance = make_instance(serve=False)
    assert b"it is root" in serve_with(instance, 'user = "root"')
    assert b"there is no account 'nobody-at-all'" in serve_with(instance, 'user = "nobody-at-all"')
    assert b"must not be inside the state" in serve_with(instance, 'runtime_dir = "state/run"')


def test_the_account_of_the_configuration_serves(make_instance: MakeInstance) -> None:
    instance = make_instance(edit=lambda text: 'user = "daemon"\n' + text)
    assert status_fields(instance.pid)["Uid"].split() == ["1"] * 4
    job = instance.admin.start("echo", "hi")
    assert instance.admin.logs_raw(job)[0] == b"hi\n"


def test_a_key_that_root_has_renewed_is_given_to_the_server_at_hangup(
    instance: Instance,
) -> None:
    key = instance.config.tls.key
    new = key.with_name("new.key")
    new.write_bytes(key.read_bytes())
    new.chmod(0o600)
    new.rename(key)
    assert key.stat().st_uid == 0
    os.kill(instance.monitor_pid, signal.SIGHUP)
    instance.wait_stderr("reloaded certificates and revocation lists")
    assert key.stat().st_uid == server_uid(instance)
    assert "ERROR" not in instance.stderr


# ---------------------------------------------------------------- what goes through the keeper


def test_a_keeper_that_hangs_costs_its_own_jobs_usage_and_not_the_server(
    instance: Instance,
) -> None:
    with instance.admin.api() as api:
        job, other = api.start("sleep", "600"), api.start("sleep", "600")
        if instance.cgroup_root is None:
            pytest.skip("no cgroup v2 here that could be written")
        assert api.usage(job).wall_ns > 0
        keeper = instance.keeper_of(job)
        assert keeper is not None
        os.kill(keeper, signal.SIGSTOP)
        try:
            request = pb.StatsRequest(job=job)
            refused = api.refused(lambda: list(api.stub.Stats(request, timeout=25)))
            assert refused.code is grpc.StatusCode.UNAVAILABLE
            assert "its keeper does not answer" in refused.message
            assert api.usage(other).wall_ns > 0
        finally:
            os.kill(keeper, signal.SIGCONT)
        assert api.usage(job).wall_ns > 0


def test_certificates_that_only_root_could_read_are_shown_to_the_server(
    make_instance: MakeInstance,
) -> None:
    instance = make_instance(serve=False)
    tls = instance.config.tls
    for path in (tls.ca, tls.cert):
        path.chmod(0o600)  # as under umask 077
    instance.start()
    gid = server_uid(instance)
    for path in (tls.ca, tls.cert):
        about = path.stat()
        assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (0, gid, 0o640)
    assert stat.S_IMODE(tls.key.stat().st_mode) == 0o600
    assert stat.S_IMODE((instance.directory / "pki/ca.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["policy", "crl"])
def test_a_file_whose_replacement_the_server_would_not_see_is_refused(
    make_instance: MakeInstance, tmp_path: Path, key: str
) -> None:
    instance = make_instance(serve=False)
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    name = {"policy": "policy.toml", "crl": "crl.pem"}[key]
    old = {"policy": "policy.toml", "crl": "pki/crl.pem"}[key]
    (closed / name).write_bytes((instance.directory / old).read_bytes())
    text = instance.config_path.read_text()
    assert f'"{old}"' in text
    instance.config_path.write_text(text.replace(f'"{old}"', f'"{closed / name}"'))

    done = jobd("serve", "--config", instance.config_path, home=instance.directory)

    assert done.returncode == 1
    assert b"would not see when it is replaced" in done.stderr
    assert f"chmod o+x {closed}".encode() in done.stderr


def test_a_file_that_the_server_cannot_be_given_is_named(make_instance: MakeInstance) -> None:
    instance = make_instance(serve=False)
    key = instance.config.tls.key
    os.chown(key, 12_345, 12_345)  # somebody else's: not root's to give away
    done = jobd("serve", "--config", instance.config_path, home=instance.directory)
    os.chown(key, 0, 0)
    assert done.returncode == 1
    assert str(key).encode() in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_root_gives_away_nothing_where_the_server_could_have_put_a_link(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance()
    secret = tmp_path / "roots"
    secret.write_bytes(instance.config.tls.key.read_bytes())
    secret.chmod(0o600)
    link = instance.state_dir / "server.key"  # in a directory of the server's, who makes the link
    link.symlink_to(secret)
    text = instance.config_path.read_text()
    instance.config_path.write_text(text.replace('"pki/server.key"', f'"{link}"'))
    instance.terminate()

    done = jobd("serve", "--config", instance.config_path, home=instance.directory)

    assert done.returncode == 1
    about = secret.stat()
    assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (0, 0, 0o600)
