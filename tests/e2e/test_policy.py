"""The policy file at work: roles, programs, ceilings, SIGHUP, and what callers are told."""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import (
    DEADLINE_S,
    Client,
    Instance,
    Refusal,
    command_of,
    eventually,
    jobd,
    processes_of,
)

POLICY = """
[roles.user.logs]
ceiling = "2M"

[roles.small]
verbs = "own"
[roles.small.limits.ceiling]
memory = "4G"

[roles.operator]
verbs = { status = "any", logs = "any", stop = "any" }

[roles.batch]
verbs = "own"
commands = ["/bin/sleep", "PLACE/bin/"]
"""
TOOL = '#!/bin/sh\necho "$0 $1"\n'


def write_policy(instance: Instance, text: str) -> None:
    """Put a new policy in its place, whole."""
    place = instance.directory / "policy.toml"
    new = place.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(place)


def reload_policy(instance: Instance, text: str, told: str) -> str:
    """Replace the policy, send SIGHUP, and return the line that the server writes about it."""
    before = len(instance.stderr)
    write_policy(instance, text)
    os.kill(instance.pid, signal.SIGHUP)
    found = eventually(lambda: re.search(told, instance.stderr[before:]), what=told)
    return found[0]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Make a directory with programs that jobs can reach, whoever they run as."""
    with TemporaryDirectory() as directory:  # pytest's own cannot be passed by others
        Path(directory).chmod(0o755)
        yield make_programs(Path(directory))


def make_programs(base: Path) -> Path:
    for name in ("bin/tool", "other/tool"):
        (base / name).parent.mkdir()
        (base / name).write_text(TOOL)
        (base / name).chmod(0o755)
    (base / "link").symlink_to("bin/tool")
    (base / "bin/out").symlink_to("../other/tool")
    return base


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Instance]:
    """An instance with POLICY."""
    instance = Instance(tmp_path_factory.mktemp("policy-instance") / "i", serve=False)
    write_policy(instance, POLICY.replace("PLACE", str(place)))
    with instance:
        instance.start()
        yield instance


def refused_start(client: Client, *argv: str, **fields: object) -> Refusal:
    with client.api() as api:
        return api.refused(lambda: api.start(*argv, **fields))


def explained(client: Client, *words: str) -> dict[str, object]:
    done = client.run("start", "--explain", "-o", "json", *words)
    assert done.stderr == b""
    told: dict[str, object] = json.loads(done.stdout)
    assert done.returncode == (0 if told["allowed"] else 1), done.stderr
    return told


def test_a_role_of_the_file_may_what_its_verbs_say_and_nothing_else(served: Instance) -> None:
    alice, olga = served.issue("alice", "user"), served.issue("olga", "operator")
    job = alice.start("sleep", "600")
    with olga.api() as api:
        assert api.status(job).owner == "alice"
        for call in (
            lambda: api.start("true"),
            lambda: api.pause(job),
            lambda: api.remove(job),
            lambda: api.prune(),
        ):
            refusal = api.refused(call)
            assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
            assert refusal.reason == "PERMISSION_DENIED"
            assert "no role of user 'olga' allows it" in refusal.message
        assert api.stop(job, grace_ms=0).stop_requested.by == "olga"


def test_a_role_that_nobody_knows_is_refused_whatever_is_beside_it(served: Instance) -> None:
    done = jobd(
        *("cert", "issue", "eve", "--role", "user", "--role", "wheel", "--dir", served.directory),
        home=served.directory,
    )
    assert done.returncode == 1
    assert b"with the role wheel" in done.stderr


def test_more_than_the_roles_ceiling_is_refused_by_its_rule(served: Instance) -> None:
    sam, alice = served.issue("sam", "small"), served.issue("alice", "user")
    done = sam.run("start", "--memory", "10G", "true")
    assert (done.returncode, done.stdout) == (1, b"")
    # Before anybody asks whether this host could hold it at all.
    assert done.stderr.decode().startswith(
        "jobc: cannot run a job with --memory 10 GiB: role small's ceiling memory in policy.toml "
        "allows at most 4 GiB; give 4 GiB or less"
    )
    lifted = refused_start(sam, "true", limits=pb.Limits(unlimited=[pb.LIMIT_KIND_MEMORY]))
    assert lifted.reason == "LIMIT_ABOVE_CEILING"
    log = refused_start(alice, "true", log=pb.LogBounds(max_bytes=3 << 20))
    assert "role user's ceiling logs.ceiling in policy.toml" in log.message


def test_an_update_cannot_lift_what_a_start_could_not_have(served: Instance) -> None:
    alice = served.issue("alice", "user")
    admin = served.admin
    with admin.api() as other, alice.api() as api:
        foreign = other.start("sleep", "600", grace_ms=0)
        # A job that is not hers is not there, whatever she asks for.
        for job in (foreign, str(uuid.uuid4())):
            refusal = api.refused(lambda job=job: api.update(job, memory_bytes=10 << 30))  # type: ignore[misc]
            assert refusal.reason == "JOB_NOT_FOUND"
            assert refusal.message == f"cannot find job {job!r}"
        other.stop(foreign, grace_ms=0)
    bella = served.issue("bella", "batch")
    with bella.api() as api, admin.api() as other:
        job = api.start("/bin/sleep", "600", grace_ms=0)
        reload_policy(
            served,
            (served.directory / "policy.toml").read_text()
            + "[roles.batch.limits.ceiling]\npids = 5\n",
            r"reloaded the policy: role batch changed \(ceiling\)",
        )
        refusal = api.refused(lambda: api.update(job, pids=6))
        assert "role batch's ceiling pids in policy.toml allows at most 5" in refusal.message
        other.stop(job, grace_ms=0)
        text = (served.directory / "policy.toml").read_text()
        reload_policy(
            served,
            text.replace("[roles.batch.limits.ceiling]\npids = 5\n", ""),
            r"reloaded the policy: role batch changed \(ceiling\)",
        )


def test_only_the_programs_of_the_rule_can_be_started_however_they_are_named(
    served: Instance, place: Path
) -> None:
    bella = served.issue("bella", "batch")
    with bella.api() as api:
        good: list[tuple[tuple[str, ...], dict[str, object]]] = [
            ((f"{place}/bin/tool", "a"), {}),
            ((f"{place}/link", "a"), {}),
            ((f"{place}/other/../bin/./tool", "a"), {}),
            (("tool", "a"), {"env": {"PATH": f"{place}/bin"}}),
            (("./tool", "a"), {"working_directory": f"{place}/bin"}),
        ]
        for argv, fields in good:
            log = api.logs(api.start(*argv, **fields))
            # A script is told the path that was executed: the one that was checked.
            assert log.stdout.decode() == f"{place}/bin/tool a\n"
        bad: list[tuple[tuple[str, ...], dict[str, object]]] = [
            (("sh", "-c", "id"), {}),
            ((f"{place}/other/tool",), {}),
            ((f"{place}/bin/out",), {}),
            ((f"{place}/bin/../other/tool",), {}),
            (("tool",), {"env": {"PATH": f"{place}/other:{place}/bin"}}),
            (("sleep", "1"), {"env": {"PATH": f"{place}/other"}}),
            (("./tool",), {"working_directory": f"{place}/other"}),
            (("/no/such/program",), {}),
            ((f"{place}/bin/tool",), {"env": {"LD_PRELOAD": "/tmp/evil.so"}}),
        ]
        for argv, fields in bad:
            refusal = api.refused(lambda argv=argv, fields=fields: api.start(*argv, **fields))  # type: ignore[misc]
            assert refusal.code is grpc.StatusCode.PERMISSION_DENIED, argv
            assert "role batch's commands in policy.toml does not allow it" in refusal.message


def test_what_was_checked_is_run_and_argv_stays_as_it_was_given(
    served: Instance, tmp_path: Path
) -> None:
    bella = served.issue("bella", "batch")
    with bella.api() as api:
        job = api.start("sleep", "600", grace_ms=0)
        [pid] = eventually(lambda: processes_of(job), what="its process")
        assert command_of(pid) == ["sleep", "600"]
        assert Path(f"/proc/{pid}/exe").readlink() == Path("/bin/sleep").resolve()
        assert api.status(job).argv == [b"sleep", b"600"]
        api.stop(job, grace_ms=0)


def test_a_retry_with_its_request_id_gives_the_same_job_under_a_rule(served: Instance) -> None:
    bella = served.issue("bella", "batch")
    with bella.api() as api:
        request_id = str(uuid.uuid4())
        jobs = {api.start("sleep", "600", request_id=request_id, grace_ms=0) for _ in range(2)}
        assert len(jobs) == 1
        api.stop(jobs.pop(), grace_ms=0)


def test_can_i_answers_with_the_rule_and_by_its_exit_code(served: Instance) -> None:
    alice, olga = served.issue("alice", "user"), served.issue("olga", "operator")
    job, foreign = alice.start("sleep", "600"), served.admin.start("sleep", "600")
    assert alice.output("can-i", "stop").decode() == (
        "yes (role user: stop own): stop is allowed with jobs of your own\n"
    )
    assert alice.output("can-i", "stop", job).startswith(b"yes (role user: stop own)")
    assert olga.output("can-i", "stop", foreign).startswith(b"yes (role operator: stop any)")
    assert alice.output("can-i", "rm").startswith(b"yes (role user: remove own)")

    no = olga.run("can-i", "-o", "json", "start")
    assert (no.returncode, no.stderr) == (1, b"")
    assert json.loads(no.stdout) == {
        "allowed": False,
        "rule": "no role allows start",
        "why": "no role of user 'olga' allows start",
    }
    wrong = alice.run("can-i", "fly")
    assert wrong.returncode == 1
    assert b"there is no such verb; name one of start, stop" in wrong.stderr
    assert alice.run("can-i", "start", job).returncode == 1
    served.admin.output("stop", "--grace", "0", job)
    served.admin.output("stop", "--grace", "0", foreign)


def test_can_i_tells_nothing_of_a_foreign_job(served: Instance) -> None:
    alice, foreign = served.issue("alice", "user"), served.admin.start("sleep", "600")
    absent = str(uuid.uuid4())
    with alice.api() as api:
        for verb in ("stop", "status", "logs", "stats", "update", "pause", "resume", "remove"):
            for job in (foreign, absent):
                answer = api.stub.CanI(pb.CanIRequest(verb=verb, job=job), timeout=DEADLINE_S)
                assert answer == pb.CanIResponse(
                    allowed=False,
                    rule=f"role user: {verb} own",
                    why=f"cannot find job {job!r}",
                )
    served.admin.output("stop", "--grace", "0", foreign)


def test_whoami_tells_what_the_certificate_says(served: Instance) -> None:
    both = served.issue("berta", "user", "operator")
    told = json.loads(both.output("whoami", "-o", "json"))
    assert (told["name"], told["roles"]) == ("berta", ["operator", "user"])
    assert re.fullmatch(r"([0-9A-F]{2})+", told["serial"])
    assert re.fullmatch(r"127\.0\.0\.1:\d+", told["address"])
    assert re.match(r"\d{4}-\d\d-\d\dT", told["not_after"])
    text = both.output("whoami").decode()
    assert "roles        operator, user\n" in text


def test_explain_tells_what_would_run_and_starts_nothing(served: Instance, place: Path) -> None:
    bella = served.issue("bella", "batch")
    before = served.job_ids()
    told = explained(bella, "--timeout", "1m", "--grace", "2s", f"{place}/link", "--flag")
    assert told["program"] == f"{place}/bin/tool"
    assert (told["role"], told["grace_ms"], told["timeout_ms"]) == ("batch", 2000, 60_000)
    assert told["rules"] == ["role batch: start own", f"role batch: commands {place}/bin/"]
    assert told["log"] == {"max_bytes": None, "on_full": "drop-oldest"}
    text = bella.output("start", "--explain", "/bin/sleep", "1").decode()
    assert re.search(r"^program +/\S*sleep$", text, re.MULTILINE)
    assert re.search(r"^rule +role batch: commands /bin/sleep$", text, re.MULTILINE)

    refused = explained(bella, "sh")
    refusal = refused["refusal"]
    assert isinstance(refusal, dict)
    assert refusal["reason"] == "PERMISSION_DENIED"
    assert "role batch's commands" in refusal["message"]
    absent = explained(bella, "/no/such/file")["refusal"]
    assert isinstance(absent, dict)
    assert absent["message"].replace("/no/such/file", "sh") == refusal["message"]
    assert served.job_ids() == before


def test_explain_tells_the_refusal_of_who_may_start_nothing(served: Instance) -> None:
    olga = served.issue("olga", "operator")
    done = olga.run("start", "--explain", "true")
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"cannot start: no role of user 'olga' allows it" in done.stdout


def test_explain_is_silent_on_what_the_caller_cannot_see(shared: Instance, place: Path) -> None:
    hidden = place / "hidden"
    (hidden / "bin").mkdir(parents=True)
    (hidden / "bin/tool").write_text(TOOL)
    (hidden / "bin/tool").chmod(0o755)
    hidden.chmod(0o700)
    eve = shared.issue("eve", "user")
    there, absent = (explained(eve, f"{hidden}/bin/{name}") for name in ("tool", "none"))
    hidden.chmod(0o755)
    assert explained(eve, f"{hidden}/bin/tool")["program"] == f"{hidden}/bin/tool"
    if os.geteuid() == 0:  # else her jobs run as the server's user, who sees it
        assert there == absent
        assert there["program"] is None


def test_of_several_roles_the_first_that_admits_a_start_decides(served: Instance) -> None:
    both = served.issue("carla", "batch", "user")
    # user comes first in the file, and admits every program.
    assert explained(both, "--log-max", "1M", "sh")["role"] == "user"
    # More log than it allows: batch admits that, but only its programs.
    assert explained(both, "--log-max", "3M", "sleep")["role"] == "batch"
    refusal = explained(both, "--log-max", "3M", "sh")["refusal"]
    assert isinstance(refusal, dict)
    assert "role user's ceiling logs.ceiling" in refusal["message"]


def test_a_role_that_cannot_start_on_this_host_is_told_by_the_server(served: Instance) -> None:
    if "memory" in served.controllers:
        pytest.skip("this host holds every limit of the policy")
    assert "WARNING role small cannot start jobs: " in served.stderr


def test_a_good_policy_holds_from_the_next_call_after_SIGHUP(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    job = alice.start("sleep", "600")
    with alice.api() as api:
        assert api.status(job).job_id == job
        line = reload_policy(
            instance,
            '[roles.user]\nverbs = { stop = "own" }\n',
            r"INFO reloaded the policy: .*\n",
        )
        assert "role user changed (verbs)" in line
        # Over the same connection.
        assert api.refused(lambda: api.status(job)).reason == "PERMISSION_DENIED"
        reload_policy(instance, "", r"INFO reloaded the policy: role user changed")
        assert api.status(job).job_id == job
        reload_policy(instance, "", r"INFO reloaded the policy: nothing has changed")
        api.stop(job, grace_ms=0)


def test_a_bad_policy_is_refused_and_the_old_one_stays(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    reload_policy(instance, "[roles.user]\nverbs = {status = 'own'}", "role user changed")
    for text, cause in (
        ("[roles.user]\nverb = 'any'", "there is no such key"),
        ("[roles", "mend its TOML"),
    ):
        line = reload_policy(instance, text, r"ERROR cannot reload the policy, .*\n")
        assert "the old one stays" in line
        assert str(instance.directory / "policy.toml") in line
        assert cause in line
        with alice.api() as api:
            assert api.refused(lambda: api.start("true")).reason == "PERMISSION_DENIED"
            assert api.refused(lambda: api.status("x")).reason == "JOB_NOT_FOUND"


def test_a_role_that_is_taken_from_the_policy_is_unknown_at_once(instance: Instance) -> None:
    reload_policy(instance, "[roles.night]\nverbs = 'own'", "role night added")
    nina = instance.issue("nina", "night")
    with nina.api() as api:
        api.start("true")
        reload_policy(instance, "", "role night removed")
        refusal = api.refused(lambda: api.start("true"))
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    assert "'night' as a role (O), which is none of admin, user" in refusal.message


def test_a_server_with_a_bad_policy_does_not_start(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "bad", serve=False)
    policy = instance.directory / "policy.toml"

    def refusal() -> str:
        done = jobd("serve", "--config", instance.config_path, home=tmp_path)
        assert done.returncode == 1
        return done.stderr.decode()

    policy.chmod(0o666)
    assert f"cannot read the policy {policy}: group or others can write it; chmod" in refusal()
    policy.unlink()
    assert "no such file" in refusal()


def test_policy_check_tells_what_each_role_may_and_what_is_wrong(
    tmp_path: Path, place: Path
) -> None:
    instance = Instance(tmp_path / "checked", serve=False)

    def check(*args: str | Path) -> tuple[int, str, str]:
        done = jobd("policy", "check", *args, home=tmp_path)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    code, text, warnings = check("--config", instance.config_path)
    assert (code, warnings) == (0, "")
    assert text.startswith("role admin\n  with anybody's jobs: start, stop, status")
    write_policy(instance, POLICY.replace("PLACE", str(place)))
    (place / "bin").chmod(0o777)
    code, text, warnings = check(instance.directory / "policy.toml")
    (place / "bin").chmod(0o755)
    assert code == 0
    assert f"  may start only   /bin/sleep, {place}/bin/\n" in text
    assert f"role batch's commands: {place}/bin/ can be changed through {place}/bin" in warnings
    write_policy(instance, "[roles.user]\nverbs = { fly = 'own' }")
    code, text, error = check("--config", instance.config_path)
    assert (code, text) == (1, "")
    assert error.startswith(
        f"jobd: cannot use the key roles.user.verbs.fly in {instance.directory}/policy.toml: "
    )
    assert "give some of start, stop" in error
    assert check(tmp_path / "nothing")[0] == 1
    assert check()[0] == 2


def test_what_this_server_cannot_hold_is_refused_and_never_ignored(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    account = "cannot start the job as user 'nobody'"
    reload_policy(instance, "[roles.user]\nuser = 'nobody'", "the policy: role user changed")
    refusal = refused_start(alice, "true")
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "USER_UNAVAILABLE",
    )
    assert account in refusal.message
    instance.wait_stderr(f"WARNING role user cannot start jobs: {account}")
    # A quota of what this host does not count would be none.
    if "memory" not in instance.controllers:
        text = "[roles.user.quotas]\nmemory = '1G'"
        reload_policy(instance, text, "the policy: role user changed")
        instance.wait_stderr(
            "WARNING role user cannot start jobs: cannot run the job with --memory"
        )
        assert refused_start(alice, "true").reason == "LIMIT_ABOVE_CEILING"
        limits = pb.Limits(memory_bytes=1 << 20)
        assert refused_start(alice, "true", limits=limits).reason == "LIMIT_NOT_ENFORCEABLE"


def test_a_path_without_a_disk_is_refused_by_its_key(instance: Instance) -> None:
    text = "[roles.user.limits.ceiling]\nio_read_bps = ['/no/such/disk:1M']"
    line = reload_policy(instance, text, r"ERROR cannot reload the policy, .*\n")
    place = instance.directory / "policy.toml"
    assert f"the key roles.user.limits.ceiling.io_read_bps of {place}: no disk can be" in line
