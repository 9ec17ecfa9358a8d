"""As root: what one owner's job tries against another's, the server, and the kernel. All in vain.

The attempts are a program of its own (tests/attacks.py). Each is shown to succeed first where
nothing protects: as root outside any job, or as an ordinary user whom nobody forbids privileges.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobruntime.model.frames import segment_name
from tests import attacks
from tests.support import (
    Client,
    Instance,
    environment_of,
    eventually,
    is_alive,
    processes_of,
    status_fields,
)

SECRET = "SECRET=bobs-own"  # noqa: S105 - it is not one
DENIED = {"EPERM", "EACCES"}

# What is tried against bob's job. EPERM: the kernel asks for the same uid; EACCES: a file's mode.
AGAINST_A_JOB = {
    "read_memory_file": "EACCES",
    "write_memory_file": "EACCES",
    "read_memory_call": "EPERM",
    "write_memory_call": "EPERM",
    "trace": "EPERM",
    "take_descriptor": "EPERM",
    "compare_victim": "EPERM",
    "enter_victim": "EPERM",
    "signal_by_pidfd": "EPERM",
    "signal:{pid}": "EPERM",
    "limit_victim": "EPERM",
    "pin_victim": "EPERM",
    "renice_victim": "EPERM",
    "make_it_an_oom_victim": "EACCES",
    "read:/proc/{pid}/environ": "EACCES",
    "read:/proc/{pid}/maps": "EACCES",
    "read:/proc/{pid}/auxv": "EACCES",
    "link:/proc/{pid}/exe": "EACCES",
    "list:/proc/{pid}/fd": "EACCES",
    "list:/proc/{pid}/cwd/": "EACCES",
    "list:/proc/{pid}/root/": "EACCES",
    "list:{home}": "EACCES",
    "read:{home}/secret": "EACCES",
    "write:{home}/secret": "EACCES",
    "create:{home}/planted": "EACCES",
    "make:{home}/../planted": "EACCES",
    "list:{home}/..": "EACCES",
    "list:{record}": "EACCES",
    "read:{record}/spec.json": "EACCES",
    "read:{log}": "EACCES",
    "write:{log}": "EACCES",
}
AGAINST_THE_SERVER = {
    "list:{state}": "EACCES",
    "list:{state}/jobs": "EACCES",
    "read:{state}/owners.json": "EACCES",
    "read:{state}/catalogue.sqlite": "EACCES",
    "write:{state}/catalogue.sqlite": "EACCES",
    "read:{state}/spawner.log": "EACCES",
    "write:{state}/lock": "EACCES",
    "create:{state}/planted": "EACCES",
    "read:{pki}/server.key": "EACCES",
    "read:{pki}/ca.key": "EACCES",
    "read:{pki}/clients/admin.key": "EACCES",
    "write:{config}": "EACCES",
    "list:{runtime}": "EACCES",
    "create:{runtime}/planted": "EACCES",
    "connect:{runtime}/spawner.sock": "EACCES",
    "connect:{runtime}/keepers/{job}": "EACCES",
    "forge_stop": "EACCES",
    **{
        attempt: errno
        for who in ("jobd", "spawner", "zygote", "keeper")
        for attempt, errno in {
            f"read:/proc/{{{who}}}/environ": "EACCES",
            f"open:/proc/{{{who}}}/mem": "EACCES",
            f"write:/proc/{{{who}}}/mem": "EACCES",
            f"read:/proc/{{{who}}}/maps": "EACCES",
            f"list:/proc/{{{who}}}/fd": "EACCES",
            f"list:/proc/{{{who}}}/cwd/": "EACCES",
            f"signal:{{{who}}}": "EPERM",
        }.items()
    },
}
# The proof opens them only. `{job}` is the victim's group, `{own}` the attacker's.
AGAINST_CGROUPS = {
    "write:{cgroup}/jobs/{job}/cgroup.kill": "EACCES",
    "write:{cgroup}/jobs/{job}/cgroup.freeze": "EACCES",
    "write:{cgroup}/jobs/{job}/cgroup.procs": "EACCES",
    "write:{cgroup}/jobs/{own}/cgroup.kill": "EACCES",
    "write:{cgroup}/jobs/{own}/cgroup.freeze": "EACCES",
    "write:{cgroup}/jobs/{own}/cgroup.procs": "EACCES",
    "write:{cgroup}/jobs/cgroup.procs": "EACCES",
    "write:{cgroup}/jobs/cgroup.subtree_control": "EACCES",
    "write:{cgroup}/supervisor/cgroup.procs": "EACCES",
    "write:{cgroup}/../cgroup.procs": "EACCES",
    "make:{cgroup}/jobs/planted": "EACCES",
    "make:{cgroup}/jobs/{own}/planted": "EACCES",
}
AGAINST_THE_KERNEL = {
    "mount": "EPERM",
    "bind_over": "EPERM",
    "remount": "EPERM",
    "unshare_any": "EPERM",
    "change_root": "EPERM",
    "make_device": "EPERM",
    "become_root": "EPERM",
    "become_roots_group": "EPERM",
    "join_groups": "EPERM",
    "give_away": "EPERM",
    "gain_priority": "EACCES",
    "name_host": "EPERM",
    "open_raw_socket": "EPERM",
    "set_clock": "EPERM",
    "load_bpf": "EPERM",
}
BY_PROGRAMS = {
    "run_setuid": "EPERM",
    "run_setgid": "EPERM",
    "run_with_file_capabilities": "EPERM",
}
BY_ITS_OWNER = {"limit_victim"}
"""What root may lack the right to (CAP_SYS_RESOURCE); bob's own jobs prove that it works."""
ALL = AGAINST_A_JOB | AGAINST_THE_SERVER | AGAINST_CGROUPS | AGAINST_THE_KERNEL | BY_PROGRAMS


@pytest.fixture(scope="module", autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        # Where all is meant to be tested, a test that cannot run has failed.
        assert not os.environ.get("CI"), "these tests need root"
        pytest.skip("only root can give jobs users of their own")


@dataclass(frozen=True)
class Field:
    """Where the attempts are made: the attacking program, its interpreter, and all places."""

    python: str
    script: Path
    instance: Instance
    places: dict[str, object] = field(default_factory=dict)

    def words(self, tries: Iterable[str], **more: object) -> list[str]:
        """Return the command that makes the attempts."""
        given = {"tries": list(tries), **self.places, **more}
        return [self.python, "-I", str(self.script), json.dumps(given, default=str)]

    def outside(self, tries: Iterable[str], **more: object) -> dict[str, str]:
        """Make the attempts outside any job."""
        with tempfile.TemporaryDirectory(dir=self.script.parent) as mine:
            Path(mine).chmod(0o777)
            given = {"mine": mine, "own": self.places["job"], **more}
            done = subprocess.run(
                self.words(tries, **given), capture_output=True, timeout=60, check=False
            )
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        told: dict[str, str] = json.loads(done.stdout)
        return told

    def inside(self, client: Client, tries: Iterable[str], **more: object) -> dict[str, str]:
        """Make them in a job of the client's."""
        words = self.words(tries, **more)
        # Its own id and directory it learns itself.
        script = (
            'w=$(printf %s "$4" | sed "s|@OWN|$JOB_ID|;s|@MINE|$HOME|"); exec "$1" -I "$3" "$w"'
        )
        words[-1] = json.dumps(json.loads(words[-1]) | {"own": "@OWN", "mine": "@MINE"})
        with client.api() as api:
            log = api.logs(api.start("sh", "-c", script, "sh", *words))
        assert log.stderr == b"", log.stderr.decode()
        told: dict[str, str] = json.loads(log.stdout)
        return told


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that all can pass, so that the way there protects nothing."""
    with tempfile.TemporaryDirectory(prefix="jobd-test-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[Instance]:
    with Instance(place / "instance") as instance:
        instance.directory.chmod(0o755)
        yield instance


@pytest.fixture(scope="module")
def alice(shared: Instance) -> Client:
    return shared.issue("alice", "user")


@pytest.fixture(scope="module")
def bob(shared: Instance) -> Client:
    return shared.issue("bob", "user")


def make_programs(directory: Path) -> None:
    """Make programs that give privileges to whoever executes them."""
    directory.mkdir(mode=0o755)
    for name, source in (("setuid-id", "id"), ("setgid-id", "id"), ("capable-cat", "cat")):
        path = shutil.which(source)
        assert path is not None
        shutil.copyfile(os.path.realpath(path), directory / name)
        (directory / name).chmod(0o755)
    (directory / "setuid-id").chmod(0o755 | stat.S_ISUID)
    (directory / "setgid-id").chmod(0o755 | stat.S_ISGID)
    # struct vfs_cap_data, revision 2, effective, CAP_DAC_OVERRIDE (capability.h)
    value = (0x0200_0001).to_bytes(4, "little") + (1 << 1).to_bytes(4, "little") + bytes(12)
    os.setxattr(directory / "capable-cat", "security.capability", value)


def address_of(pid: int, data: bytes) -> int:
    """Return where the process has `data` on its stack."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = re.search(r"^([0-9a-f]+)-([0-9a-f]+) .*\[stack\]$", maps, re.MULTILINE)
    assert found is not None
    begin, end = (int(word, 16) for word in found.groups())
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(begin)
        at = memory.read(end - begin).find(data)
    assert at >= 0
    return begin + at


@pytest.fixture(scope="module")
def field_(shared: Instance, bob: Client, place: Path) -> Iterator[Field]:
    """A job of bob's with a secret in its memory and in a file that is open to all."""
    make_programs(place / "programs")
    script = place / "attacks.py"
    shutil.copyfile(attacks.__file__, script)
    script.chmod(0o644)
    command = "echo mine >secret; chmod 666 secret; exec sleep 600"
    job = bob.start("-e", SECRET, "--", "sh", "-c", command)
    home = shared.work_dir / job
    [pid] = eventually(lambda: processes_of(job))
    eventually(lambda: (home / "secret").exists() and environment_of(pid).get("SECRET"))
    eventually(lambda: status_fields(pid)["Name"] == "sleep")
    places: dict[str, object] = {
        "job": job,
        "pid": pid,
        "home": home,
        "record": shared.jobs_dir / job,
        "secret": SECRET,
        "at": address_of(pid, SECRET.encode()),
        "log": shared.jobs_dir / job / segment_name(0),
        "state": shared.state_dir,
        "pki": shared.directory / "pki",
        "config": shared.config_path,
        "runtime": shared.runtime_dir,
        "cgroup": shared.cgroup_root,
        "programs": place / "programs",
        "jobd": shared.pid,
        "keeper": shared.keeper_of(job),
        "spawner": shared.spawner_pid(),
        "zygote": shared.zygote_pid(),
    }
    yield Field(attacks.any_users_python(), script, shared, places)
    bob.stop(job, "--grace", "0s")


def offered(instance: Instance, attempts: dict[str, str]) -> dict[str, str]:
    """Return those of the attempts for which this host has what they are made against."""
    if instance.cgroup_root is not None:
        return attempts
    return {name: errno for name, errno in attempts.items() if name not in AGAINST_CGROUPS}


@pytest.mark.parametrize(
    "attempts",
    [AGAINST_A_JOB, AGAINST_THE_SERVER, AGAINST_CGROUPS, AGAINST_THE_KERNEL],
    ids=["a job", "the server", "cgroups", "the kernel"],
)
def test_a_job_fails_at_each_attempt_that_succeeds_where_nothing_protects(
    field_: Field, alice: Client, attempts: dict[str, str]
) -> None:
    wanted = offered(field_.instance, attempts)
    if not wanted:
        pytest.skip("no cgroup v2 here that could be written")
    provable = wanted.keys() - BY_ITS_OWNER
    proof = field_.outside(provable)
    assert proof == dict.fromkeys(provable, "ok"), "it does not work without protection either"

    assert field_.inside(alice, wanted) == wanted

    assert is_alive(int(str(field_.places["pid"])))


def test_programs_that_give_privileges_give_none_to_a_job(field_: Field, alice: Client) -> None:
    proof = field_.outside(BY_PROGRAMS, become=attacks.ORDINARY_UID)
    assert proof == dict.fromkeys(BY_PROGRAMS, "ok"), "they do not give any to an ordinary user"

    assert field_.inside(alice, BY_PROGRAMS) == BY_PROGRAMS


def test_an_admins_job_has_no_more_rights_than_another_users(field_: Field) -> None:
    wanted = offered(field_.instance, ALL)
    assert field_.inside(field_.instance.admin, wanted) == wanted


def test_a_user_namespace_of_its_own_brings_a_job_no_nearer(field_: Field, alice: Client) -> None:
    # Where the kernel lets anybody make one, the job is root in it, with every capability there.
    wanted = offered(field_.instance, AGAINST_A_JOB | AGAINST_THE_SERVER | AGAINST_CGROUPS)

    told = field_.inside(alice, wanted, userns=True)

    if told == {"userns": "EPERM"} or told == {"userns": "ENOSPC"}:
        return
    assert {name: errno for name, errno in told.items() if errno not in DENIED} == {}
    assert told.keys() == wanted.keys()


def test_jobs_of_one_owner_are_within_each_others_reach(field_: Field, bob: Client) -> None:
    # Or the tests above would prove no more than that a job can do nothing at all.
    within = ["read:/proc/{pid}/environ", "list:/proc/{pid}/fd", "signal:{pid}", "signal_by_pidfd"]
    within += ["read:{home}/secret", "create:{home}/planted", "pin_victim", *BY_ITS_OWNER]
    if not _restricts_tracing():
        within += ["trace", "read_memory_call", "write_memory_call", "read_memory_file"]

    assert field_.inside(bob, within) == dict.fromkeys(within, "ok")


def _restricts_tracing() -> bool:
    try:
        return Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() != "0"
    except FileNotFoundError:
        return False


def test_a_spawner_that_jobs_could_connect_to_would_not_listen(
    field_: Field, alice: Client
) -> None:
    runtime, spawner = field_.instance.runtime_dir, field_.instance.spawner_pid()
    assert spawner is not None
    socket_path = runtime / "spawner.sock"
    assert field_.inside(alice, ["forge"]) == {"forge": "EACCES"}
    # With the modes out of the way only the check of the peer's uid is left.
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (runtime, runtime / "keepers")}
    runtime.chmod(0o755)
    socket_path.chmod(0o666)
    for keepers in (runtime / "keepers", runtime / "keepers" / str(field_.places["job"])):
        keepers.chmod(0o777)
    try:
        told = field_.inside(alice, ["forge", "forge_stop"])
        connected = field_.inside(alice, ["connect:{runtime}/spawner.sock"])
    finally:
        for path, mode in modes.items():
            path.chmod(mode)

    assert connected == {"connect:{runtime}/spawner.sock": "ok"}
    assert set(told.values()) <= {"ECONNRESET", "EPIPE"}, told
    assert field_.instance.spawner_pid() == spawner
    # The same words of root's are heard: it retires, and the next start gets another one.
    assert field_.outside(["forge"]) == {"forge": "ok"}
    eventually(lambda: not is_alive(spawner), what="the spawner's end")
    assert field_.inside(alice, ["forge"]) == {"forge": "EACCES"}


def test_a_job_shares_no_keys_with_whoever_started_the_server(field_: Field, place: Path) -> None:
    # A service manager gives each service a session keyring, which all that it starts inherits.
    with_key = [field_.python, "-I", str(field_.script), "--with-key"]
    shared_by_uids = [*with_key, *field_.words(["find_key"], become=attacks.ORDINARY_UID)]
    done = subprocess.run(shared_by_uids, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout) == {"find_key": "ok"}, "it is not within reach outside either"

    with Instance(place / "with-key", wrap=tuple(with_key)) as instance:
        told = field_.inside(instance.issue("alice", "user"), ["find_key"])

    assert told == {"find_key": "ENOKEY"}


def fields_of(text: str) -> dict[str, list[str]]:
    """Return the fields of /proc/PID/status that are asked for here."""
    return {name: value.split() for name, value in re.findall(r"(\w+):(.*)", text)}


def capabilities_in(text: str) -> dict[str, int]:
    """Return the sets of capabilities in /proc/PID/status that are not empty."""
    sets = {name: value for name, value in fields_of(text).items() if name.startswith("Cap")}
    assert len(sets) == 5
    return {name: found for name, (word,) in sets.items() if (found := int(word, 16))}


def test_a_job_has_no_capability_in_any_set_and_no_group_of_others(alice: Client) -> None:
    with alice.api() as api:
        text = api.logs(api.start("cat", "/proc/self/status")).stdout.decode()
        user = api.status(api.start("true")).user

    assert capabilities_in(text) == {}
    fields = fields_of(text)
    assert fields["Uid"] == fields["Gid"] == [user] * 4
    assert fields["Groups"] == []
    assert fields["NoNewPrivs"] == ["1"]


def test_a_server_that_was_started_with_inheritable_capabilities_hands_none_on(
    place: Path,
) -> None:
    wrap = ("setpriv", "--inh-caps", "+chown", "--ambient-caps", "+chown")
    look = ("cat", "/proc/self/status")
    outside = subprocess.run([*wrap, *look], capture_output=True, check=True).stdout.decode()
    assert {"CapInh", "CapAmb"} < capabilities_in(outside).keys()

    with (
        Instance(place / "inheriting", wrap=wrap) as instance,
        instance.issue("alice", "user").api() as api,
    ):
        text = api.logs(api.start(*look)).stdout.decode()

    assert capabilities_in(text) == {}


def test_a_user_that_no_policy_grants_is_refused_and_the_own_one_is_told(alice: Client) -> None:
    for user in ("root", "daemon", "no-such-account"):
        done = alice.run("start", "--user", user, "id")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode() == (
            f"jobc: cannot run a job as {user!r}: role user's users in policy.toml does not allow "
            "it; leave it out; or ask the operator\n"
        )
    with alice.api() as api:
        refusal = api.refused(lambda: api.start("id", user="root"))
        malformed = api.refused(lambda: api.start("id", user="../root"))
    assert (refusal.code.name, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    assert (malformed.code.name, malformed.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")

    job = alice.start("id", "-u")
    uid = alice.logs_raw(job)[0].decode().strip()
    assert alice.status_json(job)["user"] == uid
    assert f"User:    {uid}\n" in alice.output("status", "-o", "wide", job).decode()
