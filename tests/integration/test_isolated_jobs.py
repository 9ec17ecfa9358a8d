"""Isolated jobs: what they see, what they cannot do, each first seen to work without isolation."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import (
    IS_ROOT,
    RUN_S,
    Client,
    Instance,
    MakeInstance,
    all_pids,
    command_of,
    eventually,
    is_alive,
    processes_of,
    public_directory,
    status_fields,
)

KINDS = ("pid", "mnt", "ipc", "uts", "net")
WAYS = ("no-network", "loopback", "host-network")


@pytest.fixture(scope="module")
def ann(shared: Instance) -> Client:
    """A user of the shared instance whose jobs are bare."""
    return shared.issue("ann", "user")


def said(client: Client, script: str, **fields: object) -> list[str]:
    """Return the lines that a job's script writes, which must not fail."""
    with client.api() as api:
        log = api.logs(api.start("sh", "-c", script, **fields))
    assert log.end is not None
    assert (log.stderr, log.end.status.outcome) == (b"", pb.Outcome(exit_code=0))
    return log.stdout.decode().splitlines()


def holders() -> dict[str, set[int]]:
    """Return the processes that hold views on this host, by their jobs."""
    found: dict[str, set[int]] = {}
    for pid in all_pids():
        name, _, job = next(iter(command_of(pid)), "").partition(":")
        if name == "jobd-view" and is_alive(pid):
            found.setdefault(job, set()).add(pid)
    return found


# ---------------------------------------------------------------- the view


def test_an_isolated_job_sees_its_own_processes_only(ann: Client) -> None:
    script = "ps -e -o comm=; echo $$"
    assert "jobd-spawner" in said(ann, script)
    *names, own = said(ann.isolated("no-network"), script)
    # The first holds the namespaces and reaps, the second sleeps; then come the job's own.
    assert names == ["bwrap", "cat", "sh", "ps"]
    assert own == "3"


def test_process_1_tells_nothing_of_the_server(ann: Client) -> None:
    script = "tr '\\0' ' ' </proc/1/cmdline; echo; cat /proc/1/environ 2>/dev/null; :"
    told = said(ann.isolated("no-network"), script)
    assert str(ann.instance.state_dir) not in "".join(told)
    assert told[0].startswith("jobd-view:")


def test_an_isolated_job_has_a_host_name_of_its_own(ann: Client) -> None:
    assert said(ann, "uname -n") == [os.uname().nodename]
    isolated = ann.isolated("no-network")
    with isolated.api() as api:
        job = api.start("uname", "-n")
        assert api.logs(job).stdout.decode() == f"{job[:8]}\n"
    assert os.uname().nodename != job[:8]


def test_each_kind_of_namespace_is_the_jobs_own(ann: Client) -> None:
    script = f"for kind in {' '.join(KINDS)}; do readlink /proc/self/ns/$kind; done"
    bare = said(ann, script)
    assert bare == [
        os.readlink(f"/proc/self/ns/{kind}") for kind in ["pid", "mnt", "ipc", "uts", "net"]
    ]
    for way in WAYS:
        isolated = said(ann.isolated(way), script)
        same = {one for one, other in zip(bare, isolated, strict=True) if one == other}
        assert same == ({bare[4]} if way == "host-network" else set())


def up(lines: list[str]) -> set[str]:
    """Return the interfaces that are up, of lines "NAME FLAGS" with the flags as hex."""
    return {name for name, flags in map(str.split, lines) if int(flags, 16) & 1}


def test_the_network_is_none_a_loopback_or_the_hosts(ann: Client) -> None:
    # Perl, because every job's user can run it: SIOCGIFFLAGS of each that /proc names.
    script = (
        'perl -MSocket -e \'socket(S, AF_INET, SOCK_DGRAM, 0) or die; open F, "/proc/net/dev"; '
        'while (<F>) { next unless /^\\s*(\\S+):/; my $r = pack "a40", $1; '
        'ioctl(S, 0x8913, $r) or die; printf "%s %x\\n", $1, unpack "x16 S", $r }\''
    )
    host = up(said(ann, script))
    assert "lo" in host
    assert up(said(ann.isolated("host-network"), script)) == host
    assert up(said(ann.isolated("loopback"), script)) == {"lo"}
    assert up(said(ann.isolated("no-network"), script)) == set()


def test_only_with_the_hosts_network_is_a_server_of_the_host_reached(ann: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"bash -c ': </dev/tcp/127.0.0.1/{port}' 2>&1 || :"
        for client in (ann, ann.isolated("host-network")):
            assert said(client, script) == []
        assert "Connection refused" in said(ann.isolated("loopback"), script)[0]
        assert "unreachable" in said(ann.isolated("no-network"), script)[0]


@pytest.mark.skipif(not IS_ROOT, reason="only root may write there")
def test_homes_and_what_runs_are_hidden(ann: Client) -> None:
    for place in ("/home", "/run"):
        with tempfile.TemporaryDirectory(dir=place, prefix="jobs-") as name:
            Path(name).chmod(0o755)
            assert os.path.basename(name) in said(ann, f"ls -A {place}")
            assert said(ann.isolated("no-network"), f"ls -A {place}") == []


def test_the_instance_is_hidden_and_so_are_the_jobs_of_others(ann: Client) -> None:
    instance = ann.instance
    with ann.api() as api:
        other = api.start("sleep", "600")
        places = {
            "the other job's directory": instance.work_dir / other,
            "the state": instance.state_dir / "catalogue.sqlite",
            "the sockets": instance.runtime_dir / "spawner.sock",
            "the configuration": instance.config_path,
            "the server's key": instance.config.tls.key,
        }
        assert all(place.exists() for place in places.values())
        script = "".join(f'[ ! -e "{place}" ] || echo "{place}"; ' for place in places.values())
        assert said(ann.isolated("no-network"), script) == []
        own = said(ann.isolated("no-network"), f'ls "{instance.work_dir}"; echo $JOB_ID')
        assert len(own) == 2
        assert own[0] == own[1]
        api.stop(other, grace_ms=0)


def test_only_its_own_directory_and_its_private_places_can_be_written(ann: Client) -> None:
    with public_directory() as place:
        if not IS_ROOT:
            pytest.skip("without root the directory lies in the private /tmp")
        place.chmod(0o777)
        script = f"touch {place}/made 2>/dev/null && echo written || echo refused"
        assert said(ann, script) == ["written"]
        (place / "made").unlink()
        assert said(ann.isolated("no-network"), script) == ["refused"]
    script = (
        "for d in / /usr /etc /dev /home /run /sys /proc/sys/kernel; do touch $d/made; done 2>&1"
    )
    lines = said(ann.isolated("no-network"), f"{script} | grep -v 'cannot touch'; :")
    assert lines == []
    script = "for d in /tmp /var/tmp /dev/shm $HOME; do echo yes >$d/made; cat $d/made; done"
    assert said(ann.isolated("no-network"), script) == ["yes"] * 4


def test_tmp_is_the_jobs_own_and_goes_with_it(ann: Client) -> None:
    mark = f"jobs-{os.getpid()}-mark"
    places = [Path(place, mark) for place in ("/tmp", "/var/tmp", "/dev/shm")]
    script = f"for d in /tmp /var/tmp /dev/shm; do >$d/{mark}; done; ls /tmp"
    assert mark in said(ann, script)
    assert all(place.exists() for place in places)
    for place in places:
        place.unlink()
    for _ in range(2):
        assert said(ann.isolated("no-network"), script) == [mark]
    assert not any(place.exists() for place in places)


def test_what_a_job_leaves_in_its_directory_is_there_after_its_end(ann: Client) -> None:
    job = ann.isolated("no-network").start("--", "sh", "-c", "echo kept >file")
    ann.logs_raw(job)
    assert (ann.instance.work_dir / job / "file").read_text() == "kept\n"


def test_dev_has_what_programs_need_and_no_disk(ann: Client) -> None:
    names = set(said(ann.isolated("no-network"), "ls /dev"))
    assert names >= {"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm"}
    assert names <= {"console", "core", "fd", "stderr", "stdin", "stdout"} | {
        *("null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm")
    }
    # A terminal of its own can be had.
    script = "script -qec 'tty' /dev/null </dev/null | tr -d '\\r'"
    assert said(ann.isolated("no-network"), script) == ["/dev/pts/0"]


def test_all_that_is_mounted_is_read_only_but_for_the_jobs_own(ann: Client) -> None:
    isolated = ann.isolated("no-network")
    with isolated.api() as api:
        job = api.start("cat", "/proc/self/mountinfo")
        lines = [line.split() for line in api.logs(job).stdout.decode().splitlines()]
    writable = {fields[4] for fields in lines if "rw" in fields[5].split(",")}
    shown = {fields[4] for fields in lines}
    covered = {place for place in writable if place == "/dev" or place.startswith("/dev/")}
    own = {"/tmp", "/var/tmp", "/dev/shm", "/proc", f"{ann.instance.work_dir}/{job}"}
    assert writable - covered <= own
    assert {"/sys", "/proc/sys", "/"} <= shown - writable


def test_a_hidden_working_directory_is_one_that_is_not_there(ann: Client) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        assert said(ann, "pwd", working_directory=directory) == [directory]
        with ann.isolated("no-network").api() as api:
            refusal = api.refused(lambda: api.start("pwd", working_directory=directory))
    assert refusal.reason == "WORKING_DIRECTORY"
    assert refusal.message == f"cannot start the job in {directory}: No such file or directory"


def test_a_program_is_looked_for_in_the_view(ann: Client) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        program = Path(directory, "greet")
        program.write_text("#!/bin/sh\necho hello\n")
        program.chmod(0o755)
        env = {"PATH": f"{directory}:/usr/bin:/bin"}
        with ann.api() as api:
            assert api.logs(api.start("greet", env=env)).stdout == b"hello\n"
        with ann.isolated("no-network").api() as api:
            assert api.refused(lambda: api.start("greet", env=env)).reason == "PROGRAM_NOT_FOUND"


# ---------------------------------------------------------------- ways out


@dataclass(frozen=True)
class Attempt:
    """Something that works for a bare job of the same user, and what it says then."""

    script: str
    works: str


ATTEMPTS = {
    "see another job of the same owner": Attempt("cat /proc/{pid}/comm", "sleep"),
    "read its environment": Attempt(
        "tr '\\0' '\\n' </proc/{pid}/environ | grep SECRET", "SECRET=x"
    ),
    "signal it": Attempt("kill -CONT {pid} && echo sent", "sent"),
    "trace it": Attempt(
        "perl -e 'exit 1 if syscall({ptrace}, 16, {pid}, 0, 0) < 0; print \"traced\\n\"'", "traced"
    ),
    "be traced": Attempt("perl -e 'print syscall({ptrace}, 0, 0, 0, 0), \"\\n\"'", "0"),
    "make a user namespace": Attempt("unshare --user echo made", "made"),
    "mount": Attempt("unshare --user --map-root-user --mount mount -t tmpfs x /mnt && echo m", "m"),
}


@pytest.fixture(scope="module")
def victim(ann: Client) -> Iterator[int]:
    """A bare job of the same owner, to be reached."""
    job = ann.start("-e", "SECRET=x", "--", "sleep", "600")
    [pid] = eventually(lambda: processes_of(job))
    eventually(lambda: command_of(pid)[:1] == ["sleep"])
    yield pid
    ann.stop(job, "--grace", "0")


@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_a_bare_job_can_do_an_isolated_one_cannot(ann: Client, victim: int, name: str) -> None:
    ptrace = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
    attempt = ATTEMPTS[name]
    script = f"{{ {attempt.script.format(pid=victim, ptrace=ptrace)}; }} 2>/dev/null; :"
    assert said(ann, script) == [attempt.works]
    for way in WAYS:
        assert attempt.works not in said(ann.isolated(way), script)


@pytest.mark.skipif(not IS_ROOT, reason="only root can make such a program")
def test_a_setuid_program_gives_nothing(ann: Client) -> None:
    with public_directory() as place:
        program = place / "root-id"
        shutil.copy(shutil.which("id") or "/usr/bin/id", program)
        program.chmod(0o4755)
        uid = int(said(ann, "id -u")[0])
        direct = subprocess.run(
            [program, "-u"], user=uid, group=uid, extra_groups=[], capture_output=True, check=True
        )
        assert direct.stdout == b"0\n"  # so the program is what it should be
        assert said(ann.isolated("no-network"), f"{program} -u") == [str(uid)]


def test_an_isolated_job_has_no_capability_and_a_filter(ann: Client) -> None:
    with ann.isolated("no-network").api() as api:
        job = api.start("sleep", "600")
        (pid,) = processes_of(job)
        fields = status_fields(pid)
        assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
        for key in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(fields[key], 16) == 0, key
        api.stop(job, grace_ms=0)
    with ann.api() as api:
        job = api.start("sleep", "600")
        (pid,) = processes_of(job)
        assert status_fields(pid)["Seccomp"] == "0"
        api.stop(job, grace_ms=0)


# ---------------------------------------------------------------- what is told, and what is left


def test_the_status_tells_the_isolation(ann: Client) -> None:
    for way in WAYS:
        job = ann.start(f"--isolate={way}", "true")
        assert ann.status_json(job)["isolation"] == way
        assert f"Isolate: {way}" in ann.output("status", "-o", "wide", job).decode()
    job = ann.start("--isolate", "true")
    assert ann.status_json(job)["isolation"] == "no-network"
    for flags in ([], ["--isolate=none"]):
        job = ann.start(*flags, "true")
        assert ann.status_json(job)["isolation"] == "none"
        assert "Isolate" not in ann.output("status", "-o", "wide", job).decode()


def test_an_unknown_way_is_refused_and_never_taken_for_none(ann: Client) -> None:
    done = ann.run("start", "--isolate=somehow", "true")
    assert (done.returncode, done.stdout) == (2, b"")
    with ann.api() as api:
        refusal = api.refused(lambda: api.start("true", isolate=99))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot isolate a job in the way of the number 99" in refusal.message


def test_nothing_holds_a_view_after_its_job(ann: Client) -> None:
    with ann.isolated("loopback").api() as api:
        job = api.start("sh", "-c", "(setsid sleep 600 &); exec sleep 600")
        eventually(lambda: len(processes_of(job)) == 2)
        held = holders()[job]
        assert len(held) == 2  # bubblewrap outside, and as process 1 inside
        # Whoever lives in the view is under the filter: a job of the same uid could take it over.
        (first,) = [pid for pid in held if status_fields(pid)["NSpid"].split()[-1] == "1"]
        inside = [pid for pid in all_pids() if status_fields(pid).get("PPid") == str(first)]
        assert [status_fields(pid)["Seccomp"] for pid in (first, *inside)].count("2") >= 2
        assert {status_fields(pid)["Seccomp"] for pid in (first, *inside)} == {"2"}
        assert api.stop(job).outcome.signal == signal.SIGTERM
        assert job not in holders()
        assert not processes_of(job)


def test_orphans_are_reaped_while_the_job_runs(ann: Client) -> None:
    script = "for i in 1 2 3; do (true & true) ; (sleep 0.1 &); done; sleep 0.5; ps -e -o stat="
    assert not [state for state in said(ann.isolated("no-network"), script) if state[0] == "Z"]


def test_a_killed_keeper_takes_the_view_and_all_in_it_along(make_instance: MakeInstance) -> None:
    instance = make_instance()
    client = instance.issue("zoe", "user").isolated("no-network")
    with client.api() as api:
        job = api.start("sh", "-c", "(setsid sleep 600 &); exec sleep 600")
        pids = eventually(lambda: len(found := processes_of(job)) == 2 and found)
        keeper = instance.keeper_of(job)
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: api.status(job).outcome.WhichOneof("kind") == "lost")
        eventually(lambda: not any(map(is_alive, pids)) and job not in holders())


def test_many_isolated_jobs_at_once_get_a_view_each(ann: Client) -> None:
    with ann.isolated("no-network").api() as api:
        jobs = [api.start("sh", "-c", "uname -n; sleep 0.2; ls $HOME/..") for _ in range(20)]
        for job in jobs:
            assert api.logs(job).stdout.decode().split() == [job[:8], job]
    assert not set(jobs) & set(holders())


# ---------------------------------------------------------------- where it cannot be had


@pytest.mark.skipif(not IS_ROOT, reason="only root can take a program from one server alone")
def test_without_bubblewrap_an_isolated_start_is_refused_and_leaves_nothing(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    programs = Path(os.path.realpath(shutil.which("bwrap") or "")).parent
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    layers = f"lowerdir={programs},upperdir={upper},workdir={work}"
    take = f'mount -t overlay o -o {layers} {programs} && rm {programs}/bwrap && exec "$0" "$@"'
    instance = make_instance(wrap=("unshare", "--mount", "sh", "-c", take))
    client = instance.issue("zoe", "user")
    with client.api() as api:

        def refuse() -> None:
            refusal = api.refused(lambda: api.start("true", isolate=pb.ISOLATION_NO_NETWORK))
            assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refusal.reason == "ISOLATION_UNAVAILABLE"
            assert "bubblewrap (bwrap) is not installed on the server's host" in refusal.message

        refuse()
        before = instance.traces()
        for _ in range(3):
            refuse()
        eventually(lambda: instance.traces() == before, what=f"{before} again")
        assert api.wait(api.start("true")).outcome.exit_code == 0
    done = client.run("start", "--isolate", "true")
    assert done.returncode == 1
    assert b"install the package bubblewrap, or start it without --isolate" in done.stderr


WORKER = """
import asyncio, json, os, sys
sys.path.insert(0, sys.argv[1])
from jobruntime.worker import Isolation, JobError, JobSpec, LogBatch, LocalWorker, Settings

async def main():
    secret = sys.argv[2] + "/keys"
    os.mkdir(secret)
    settings = Settings(state_dir=sys.argv[2] + "/state", cgroup_root="none", hidden=(secret,))
    told = []
    async with LocalWorker(settings) as worker:
        for isolation in (Isolation.NONE, Isolation.NO_NETWORK):
            script = f"id -u; ps -e -o comm= | tail -n +3; [ -e {secret} ] && echo seen; exit 7"
            spec = JobSpec(argv=("sh", "-c", script), isolation=isolation)
            try:
                job = await worker.start(spec, owner="me")
            except JobError as error:
                told.append([str(error.reason), error.message, error.remedy])
                continue
            output = b""
            async for event in worker.logs(job):
                if isinstance(event, LogBatch):
                    output += b"".join(entry.data for entry in event.entries)
            told.append([repr((await worker.status(job)).outcome), output.decode()])
        await worker.stop_all(by="test")
        await worker.retire()
    print(json.dumps(told))

if len(sys.argv) > 3:
    from jobruntime.linux.libc import set_no_new_privileges
    from jobruntime.linux.seccomp import install_filter
    set_no_new_privileges()
    install_filter()  # without user namespaces, as some systems are
asyncio.run(main())
"""
NOBODY = 65534


def interpreter() -> str:
    """Return a Python that any user may run; this one may lie in root's home."""
    for path in (sys.executable, "/usr/bin/python3"):
        check = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(check, user=NOBODY if IS_ROOT else None).returncode == 0:
                return path
        except OSError:
            continue
    raise AssertionError("no Python 3.11 that an ordinary user may run")


def as_ordinary_user(*flags: str) -> list[list[str]]:
    """Return what a worker without root tells of a bare and of an isolated job."""
    source = Path(pb.__file__).parents[3]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        shutil.copytree(source, f"{directory}/src", ignore=shutil.ignore_patterns("gen", "*.pyc"))
        Path(directory, "own").mkdir()
        if IS_ROOT:
            Path(directory).chmod(0o755)
            subprocess.run(["chmod", "-R", "a+rX", f"{directory}/src"], check=True)
            os.chown(f"{directory}/own", NOBODY, NOBODY)
        done = subprocess.run(
            [interpreter(), "-c", WORKER, f"{directory}/src", f"{directory}/own", *flags],
            user=NOBODY if IS_ROOT else None,
            group=NOBODY if IS_ROOT else None,
            extra_groups=[] if IS_ROOT else None,
            env={"PATH": os.defpath},
            cwd="/",
            capture_output=True,
            timeout=RUN_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    told: list[list[str]] = json.loads(done.stdout)
    return told


def test_an_ordinary_user_gets_the_same_view_by_a_user_namespace() -> None:
    bare, isolated = as_ordinary_user()
    uid = str(NOBODY if IS_ROOT else os.getuid())
    assert bare[0] == isolated[0] == "Exited(code=7)"
    assert bare[1].splitlines()[0] == uid
    assert bare[1].splitlines()[-1] == "seen"
    assert isolated[1].splitlines() == [uid, "sh", "ps", "tail"]


def test_without_user_namespaces_an_ordinary_user_is_refused_with_the_cause() -> None:
    bare, isolated = as_ordinary_user("--no-user-namespaces")
    assert bare[0] == "Exited(code=7)"
    reason, message, remedy = isolated
    assert reason == "ISOLATION_UNAVAILABLE", isolated
    assert message.startswith("cannot start the job isolated: ")
    assert "namespace" in message
    assert "user namespaces" in remedy


ROOT_WORKER = """
import asyncio, sys
from jobruntime.worker import Isolation, JobSpec, LogBatch, LocalWorker, Settings

SCRIPT = "p=/proc/sys/kernel/printk; { cat $p >$p && echo written; } 2>&1; " \
    "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f 2 | sort -u"

async def main():
    async with LocalWorker(Settings(state_dir=sys.argv[1], cgroup_root="none")) as worker:
        for isolation in (Isolation.NONE, Isolation.NO_NETWORK):
            spec = JobSpec(argv=("sh", "-c", SCRIPT), isolation=isolation)
            async for event in worker.logs(await worker.start(spec, owner="me")):
                if isinstance(event, LogBatch):
                    print(b"".join(entry.data for entry in event.entries).decode(), end="")
            print("--")
        await worker.retire()

asyncio.run(main())
"""


@pytest.mark.skipif(not IS_ROOT, reason="only root's jobs are root's")
def test_roots_own_isolated_job_is_root_without_any_of_its_rights(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROOT_WORKER, tmp_path / "state"],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=True,
    )
    bare, isolated, _ = done.stdout.split("--\n")
    assert bare.startswith("written\n")
    assert "written" not in isolated
    assert isolated.splitlines()[-1] == "0" * 16
    assert isolated.count("0" * 16) == 1
