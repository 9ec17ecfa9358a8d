"""What a role gives to the jobs that it starts: account, isolation, resource limits, quotas."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.e2e.test_policy import explained, reload_policy, write_policy
from tests.support import (
    DEADLINE_S,
    IS_ROOT,
    MIB,
    Api,
    Client,
    Instance,
    Refusal,
    eventually,
    jobd,
    refusal_of,
)

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root gives jobs other users")
NAME, OTHER = (
    user.pw_name for user in [u for u in pwd.getpwall() if 0 < u.pw_uid < 1000 != u.pw_gid][:2]
)
JOBS = f"""
accounts = ["{NAME}"]
[jobs.rlimits]
nofile = 700
nproc = [3000, 4000]
"""
POLICY = f"""
[roles.user.quotas]
jobs = 5

[roles.forced]
verbs = "own"
user = "{NAME}"

[roles.choose]
verbs = "own"
users = ["{NAME}", "{OTHER}"]
rlimits = {{ nofile = [100, 200], fsize = "1M" }}

[roles.shut]
verbs = "own"
isolation = "no-network"
isolation_forced = true

[roles.loop]
verbs = "own"
isolation = "loopback"

[roles.readers]
verbs = "own"
[roles.readers.quotas]
followers = 2

[roles.slow]
verbs = "own"
[roles.slow.quotas]
starts_per_second = 0.01
"""


def with_accounts(text: str) -> str:
    """Add JOBS to what `jobd init` has written."""
    head, rlimits = JOBS.strip().split("\n", 1)
    assert "\n[cgroup]\n" in text
    text = text.replace("\n[jobs]\n", f"\n[jobs]\n{head}\n", 1)
    return text.replace("\n[cgroup]\n", f"\n{rlimits}\n[cgroup]\n", 1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance with POLICY and JOBS."""
    directory = tmp_path_factory.mktemp("terms") / "instance"
    instance = Instance(directory, serve=False, edit=with_accounts)
    write_policy(instance, POLICY)
    with instance:
        instance.start()
        yield instance


def said(client: Client, script: str, **fields: object) -> str:
    """Return what a job's script writes, which must not fail."""
    with client.api() as api:
        log = api.logs(api.start("sh", "-c", script, **fields))
    assert log.end is not None
    assert (log.stderr, log.end.status.outcome) == (b"", pb.Outcome(exit_code=0))
    return log.stdout.decode()


def refused(client: Client, **fields: object) -> Refusal:
    with client.api() as api:
        return api.refused(lambda: api.start("true", **fields))


# ---------------------------------------------------------------- accounts


@needs_root
def test_a_forced_account_is_every_jobs_and_no_other_can_be_asked_for(served: Instance) -> None:
    fred, account = served.issue("fred", "forced"), pwd.getpwnam(NAME)
    who = f"{account.pw_uid} {account.pw_gid} {account.pw_gid}\n"
    script = "echo $(id -u) $(id -g) $(id -G)"
    assert said(fred, script) == said(fred, script, user=NAME) == who
    refusal = refused(fred, user=OTHER)
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
    assert f"cannot run a job as {OTHER!r}: role forced's user in policy.toml" in refusal.message
    told = explained(fred, "true")
    assert (told["account"], told["uid"]) == (NAME, account.pw_uid)
    assert f"role forced: user {NAME}" in told["rules"]  # type: ignore[operator]


@needs_root
def test_an_account_is_had_where_it_is_asked_for_and_allowed(served: Instance) -> None:
    cora, ulla = served.issue("cora", "choose"), served.issue("ulla", "user")
    uid = pwd.getpwnam(NAME).pw_uid
    assert said(cora, "id -u", user=NAME) == f"{uid}\n"
    own = int(said(cora, "id -u"))
    assert own in range(served.config.uid_first, served.config.uid_first + served.config.uid_count)
    assert explained(cora, "--user", NAME, "true")["uid"] == uid
    assert explained(cora, "true")["uid"] == own
    for name in ("root", "no-such-account"):
        refusal = refused(cora, user=name)
        assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
        assert "role choose's users in policy.toml does not allow it" in refusal.message
    assert refused(ulla, user=NAME).code is grpc.StatusCode.PERMISSION_DENIED
    # Allowed by the role, and none that jobd.toml has.
    assert refused(cora, user=OTHER).reason == "USER_UNAVAILABLE"


@needs_root
def test_accounts_that_jobs_cannot_have_are_told_before_anybody_asks(
    served: Instance, tmp_path: Path
) -> None:
    missing = f"{OTHER!r} is none of `accounts` in [jobs] of jobd.toml"
    told = f"WARNING no job can have an account: role choose's users: {missing}; "
    served.wait_stderr(re.escape(told))

    def check() -> tuple[int, str]:
        done = jobd("policy", "check", "--config", served.config_path, home=tmp_path)
        return done.returncode, done.stderr.decode()

    code, told = check()
    assert code == 0
    assert f"jobd: warning: role choose's users: {missing}; add it there" in told
    place = served.directory / "policy.toml"
    for name, cause in ((OTHER, missing), ("no-such", "this host has no account 'no-such'")):
        broken = POLICY.replace(f'user = "{NAME}"', f'user = "{name}"')
        reload_policy(served, broken, "WARNING role forced cannot start jobs: .*")
        code, told = check()
        assert code == 1
        assert f"jobd: role forced's user: {cause}; " in told
        found = json.loads(
            jobd("doctor", "-o", "json", "--config", served.config_path, home=tmp_path).stdout
        )
        [line] = [check for check in found["checks"] if check["name"] == "policy"]
        assert (line["level"], line["found"]) == ("failed", f"role forced's user: {cause}")
    reload_policy(served, POLICY, "reloaded the policy: role forced changed")
    assert place.read_text() == POLICY


# ---------------------------------------------------------------- isolation


def hostname_of(client: Client, **fields: object) -> tuple[bool, set[str]]:
    """Return whether a job has a host name of its own, and the interfaces that it sees."""
    name, *interfaces = said(
        client, "uname -n; cut -d: -f1 -s /proc/net/dev | grep -v '|'", **fields
    ).split()
    return name != os.uname().nodename, set(interfaces)


@pytest.mark.parametrize("way", [None, pb.ISOLATION_NO_NETWORK])
def test_a_forced_isolation_is_every_jobs(served: Instance, way: pb.Isolation | None) -> None:
    sid = served.issue("sid", "shut")
    assert hostname_of(sid, isolate=way) == (True, {"lo"})
    with sid.api() as api:
        job = api.start("true", isolate=way)
        assert api.status(job).isolation == pb.ISOLATION_NO_NETWORK
    assert explained(sid, "true")["isolation"] == "no-network"


@pytest.mark.parametrize(
    "way", [pb.ISOLATION_NONE, pb.ISOLATION_HOST_NETWORK, pb.ISOLATION_LOOPBACK]
)
def test_a_forced_isolation_cannot_be_changed(served: Instance, way: pb.Isolation) -> None:
    refusal = refused(served.issue("sid", "shut"), isolate=way)
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
    assert "role shut's isolation_forced in policy.toml does not allow it" in refusal.message


def test_a_default_isolation_is_of_those_who_ask_for_none(served: Instance) -> None:
    lola = served.issue("lola", "loop")
    ping = "exec 3<>/dev/udp/127.0.0.1/9 && echo up"
    with lola.api() as api:
        assert api.status(api.start("true")).isolation == pb.ISOLATION_LOOPBACK
        log = api.logs(api.start("bash", "-c", ping))
        assert log.stdout == b"up\n"
    assert hostname_of(lola, isolate=pb.ISOLATION_NONE)[0] is False
    assert hostname_of(lola, isolate=pb.ISOLATION_NO_NETWORK)[0] is True
    for flags, way in (((), "loopback"), (("--isolate=none",), "none"), (("--isolate",), "no-net")):
        assert str(explained(lola, *flags, "true")["isolation"]).startswith(way)


def test_a_retry_finds_its_job_also_when_the_roles_isolation_is_another_one(
    served: Instance,
) -> None:
    lola = served.issue("lola", "loop")
    with lola.api() as api:
        job = api.start("true", request_id="retry-1")
        text = POLICY.replace('isolation = "loopback"', 'isolation = "no-network"')
        reload_policy(served, text, "role loop changed")
        assert api.start("true", request_id="retry-1") == job
        again = api.refused(
            lambda: api.start("true", request_id="retry-1", isolate=pb.ISOLATION_NONE)
        )
        assert again.reason == "REQUEST_ID_REUSED"
    reload_policy(served, POLICY, "role loop changed")


# ---------------------------------------------------------------- resource limits


@needs_root
def test_a_roles_resource_limits_come_before_the_configurations(served: Instance) -> None:
    script = "ulimit -Sn; ulimit -Hn; ulimit -Sf; ulimit -Su; ulimit -Hu; ulimit -Sc"
    with served.issue("cora", "choose").api() as api:
        log = api.logs(api.start("bash", "-c", script))
    assert log.stdout.split() == [b"100", b"200", b"1024", b"3000", b"4000", b"0"]
    with served.issue("ulla", "user").api() as api:
        log = api.logs(api.start("bash", "-c", script))
    assert log.stdout.split() == [b"700", b"700", b"unlimited", b"3000", b"4000", b"0"]
    told = explained(served.issue("cora", "choose"), "true")
    assert told["resource_limits"] == {
        "core": [0, 0],
        "nofile": [100, 200],
        "nproc": [3000, 4000],
        "fsize": [MIB, MIB],
    }
    text = served.issue("cora", "choose").output("start", "--explain", "true").decode()
    assert "nproc 3000 (at most 4000)" in text


# ---------------------------------------------------------------- quotas


def test_of_200_starts_at_once_as_many_run_as_the_roles_quota_has(served: Instance) -> None:
    clients = [served.issue("quinn", "user") for _ in range(4)]
    with ExitStack() as stack:
        apis = [stack.enter_context(client.api()) for client in clients]
        request = pb.StartRequest(argv=["sleep", "600"], grace_ms=0)
        calls = [
            apis[n % len(apis)].stub.Start.future(request, timeout=DEADLINE_S) for n in range(200)
        ]
        errors = [call.exception() for call in calls]
        jobs = [
            call.result().job_id for call, error in zip(calls, errors, strict=True) if not error
        ]
        told = Counter(refusal_of(error) for error in errors if error)
        assert len(set(jobs)) == 5
        [(refusal, count)] = told.items()
        assert (refusal.code, count) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 195)
        message = "cannot start a job: role user's quota jobs = 5 is used up, 5 run or start"
        assert refusal.message == message
        # Explain tells the same, and of a role without it nothing of that.
        why = explained(clients[0], "true")["refusal"]
        assert isinstance(why, dict)
        assert (why["reason"], why["message"]) == ("RESOURCE_EXHAUSTED", message)
        assert explained(served.issue("other", "user"), "true")["quota"] == {
            "jobs": 5,
            "cpu_millis": None,
            "memory_bytes": None,
            "log_bytes": None,
            "followers": None,
            "starts_per_second": None,
        }
        for job in jobs:
            apis[0].stop(job)
        assert apis[0].wait(apis[0].start("true")).outcome == pb.Outcome(exit_code=0)


def test_a_quota_of_followers_names_its_role(served: Instance) -> None:
    rita = served.issue("rita", "readers")
    with rita.api() as api:
        job = api.start("sh", "-c", "echo here; exec sleep 600", grace_ms=0)
        streams = [api.stream(job) for _ in range(2)]
        for stream in streams:
            next(stream)
        refusal = api.refused(lambda: api.logs(job))
        assert refusal.reason == "RESOURCE_EXHAUSTED"
        assert refusal.message == (
            "cannot read one more log: role readers's quota followers = 2 is used up, 2 are read "
            "at once"
        )
        streams[0].cancel()  # type: ignore[attr-defined]
        eventually(lambda: can_read(api, job), what="room for one more")
        api.stop(job)


def can_read(api: Api, job: str) -> bool:
    try:
        api.logs(job, follow=False)
    except grpc.RpcError:
        return False
    return True


def test_starts_come_at_the_roles_rate(served: Instance) -> None:
    slim = served.issue("slim", "slow")
    with slim.api() as api:
        api.start("true")
        refusal = api.refused(lambda: api.start("true"))
    assert refusal.reason == "RESOURCE_EXHAUSTED"
    assert "role slow's quota starts per second = 0.01 is used up" in refusal.message


# ---------------------------------------------------------------- shared jobs


def test_what_a_share_allows_can_i_tells_and_nothing_else(served: Instance) -> None:
    anna, ben = served.issue("anna", "choose"), served.issue("ben", "readers")
    with anna.api() as api, ben.api() as other:
        share = [pb.Share(user="ben", verbs=["logs"])]
        job = api.start("sleep", "600", share=share, grace_ms=0)
        for verb in ("status", "logs"):
            answer = other.stub.CanI(pb.CanIRequest(verb=verb, job=job), timeout=DEADLINE_S)
            assert (answer.allowed, answer.why) == (
                True,
                f"anna shares this job with you for {verb}",
            )
        absent = "8d7b3b6d-0000-4a53-8d7b-3b6d5f0a2c11"
        for verb in ("stop", "stats", "update", "pause", "resume", "remove"):
            answers = [
                other.stub.CanI(pb.CanIRequest(verb=verb, job=name), timeout=DEADLINE_S)
                for name in (job, absent)
            ]
            assert [answer.allowed for answer in answers] == [False, False]
            assert answers[0].why.replace(job, absent) == answers[1].why
        api.stop(job)


def test_a_shared_job_is_for_an_update_one_that_is_not_there(served: Instance) -> None:
    anna, ulla = served.issue("anna", "choose"), served.issue("ulla", "user")
    with anna.api() as api, ulla.api() as other:  # her role has a quota, so that it is asked
        share = [pb.Share(user="ulla", verbs=["status"])]
        job = api.start("sleep", "600", share=share, grace_ms=0)
        assert other.status(job).job_id == job
        refusal = other.refused(lambda: other.update(job, pids=7))
        assert (refusal.reason, refusal.message) == (
            "JOB_NOT_FOUND",
            f"cannot find job {job!r}",
        )
        api.stop(job)


def test_explain_tells_of_shares_and_refuses_what_a_start_would(served: Instance) -> None:
    anna = served.issue("anna", "choose")
    told = explained(anna, "--share", "ben:logs", "true")
    assert told["shares"] == [{"user": "ben", "verbs": ["status", "logs"]}]
    text = anna.output("start", "--explain", "--share", "ben:logs", "true").decode()
    assert "shared with        ben:status,logs\n" in text


# ---------------------------------------------------------------- the record


def test_the_audit_has_what_was_asked_for_and_what_the_policy_made_of_it(served: Instance) -> None:
    lola = served.issue("lola", "loop")
    with lola.api() as api:
        share = [pb.Share(user="ben", verbs=["status", "logs"])]
        job = api.start("true", isolate=pb.ISOLATION_NO_NETWORK, share=share)
        plain = api.start("true")
    lines = [json.loads(line) for line in served.config.audit.path.read_text().splitlines()]
    [asked], [given] = ([x for x in lines if x.get("job_id") == j] for j in (job, plain))
    assert asked["isolate"] == "ISOLATION_NO_NETWORK"
    assert asked["share"] == [{"user": "ben", "verbs": ["status", "logs"]}]
    assert asked["rules"] == ["role loop: start own"]
    assert "isolate" not in given
    assert given["rules"] == ["role loop: start own", "role loop: isolation loopback"]
    if IS_ROOT:
        with served.issue("cora", "choose").api() as api:
            job = api.start("true", user=NAME)
        lines = [json.loads(line) for line in served.config.audit.path.read_text().splitlines()]
        [line] = [line for line in lines if line.get("job_id") == job]
        assert line["user"] == NAME
        assert line["rules"] == ["role choose: start own", f"role choose: users {NAME}"]
