"""policy.toml: what is in it is taken, and whatever could mislead is refused by file and key."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from jobruntime.model.access import ABOUT_ONESELF, Scope, Verb
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.isolation import Isolation
from jobruntime.model.limits import Limits
from jobruntime.model.log_policy import LogFull, LogPolicy
from jobruntime.model.policy import DEFAULT_POLICY, Policy, RoleRules
from jobruntime.model.quota import NO_QUOTA, Quota
from jobruntime.server.config import parse_config
from jobruntime.server.policies import changes
from jobruntime.server.policy_file import parse_policy, read_policy, read_policy_of
from jobruntime.server.policy_text import POLICY_TEXT, format_policy

PATH = Path("/etc/jobd/policy.toml")
DOC = (Path(__file__).parents[2] / "docs/policy.md").read_text()
IS_ROOT = os.geteuid() == 0

WHOLE = """
[roles.batch]
verbs = { start = "own", status = "any", update = "own" }
commands = ["/usr/bin/rsync", "/srv/bin/"]
users = ["backup", "www-data"]
isolation = "no-network"
isolation_forced = true
rlimits = { nofile = 1024, core = 0, fsize = "1G", nproc = [100, "max"] }
[roles.batch.limits.default]
memory = "1G"
[roles.batch.limits.ceiling]
memory = "4G"
cpus = 2
[roles.batch.logs]
max = "10M"
full = "block"
ceiling = "1G"
[roles.batch.quotas]
jobs = 5
cpu = 1.5

[roles.forced]
verbs = "any"
user = "nobody"

[quotas]
jobs = 100
memory = "8G"
log_bytes = "1T"
followers = 7
starts_per_second = 2
"""
SHARED = Quota(100, None, 8 << 30, 1 << 40, 7, 2.0)


def parsed(text: str) -> Policy:
    return parse_policy(text.encode(), PATH)


def rules_of(policy: Policy, name: str) -> RoleRules:
    [rules] = [rules for rules in policy.roles if rules.name == name]
    return rules


def refusal(text: str) -> JobError:
    with pytest.raises(JobError) as caught:
        parsed(text)
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert str(PATH) in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_every_key_is_taken() -> None:
    policy = parsed(WHOLE)
    assert [rules.name for rules in policy.roles] == ["batch", "forced", "admin", "user"]
    assert policy.source == "policy.toml"
    assert rules_of(policy, "batch") == RoleRules(
        name="batch",
        verbs={Verb.START: Scope.OWN, Verb.STATUS: Scope.ANY, Verb.UPDATE: Scope.OWN},
        commands=("/usr/bin/rsync", "/srv/bin/"),
        users=("backup", "www-data"),
        isolation=Isolation.NO_NETWORK,
        isolation_forced=True,
        default_limits=Limits(memory_bytes=1 << 30),
        ceiling=Limits(memory_bytes=4 << 30, cpu_millis=2000),
        default_log=LogPolicy(10 << 20, LogFull.BLOCK),
        log_ceiling_bytes=1 << 30,
        rlimits={
            "nofile": (1024,) * 2,
            "core": (0, 0),
            "fsize": (1 << 30,) * 2,
            "nproc": (100, -1),
        },
        quota=Quota(5, 1500, 8 << 30, 1 << 40, 7, 2.0),
    )
    forced = rules_of(policy, "forced")
    assert (forced.user, forced.commands, forced.quota) == ("nobody", None, SHARED)
    granted = set(Verb) - ABOUT_ONESELF
    assert forced.verbs == dict.fromkeys(granted, Scope.ANY)


@pytest.mark.parametrize("text", ["", "[roles]", "[roles.user]", POLICY_TEXT])
def test_what_is_not_said_is_the_built_in_table(text: str) -> None:
    policy = parsed(text)
    assert {r.name: r for r in policy.roles} == {r.name: r for r in DEFAULT_POLICY.roles}


def test_a_built_in_role_that_the_file_does_not_name_has_the_shared_quota() -> None:
    assert rules_of(parsed(WHOLE), "user").quota == SHARED
    assert rules_of(parsed("[roles.user]\nverbs = 'own'"), "user").quota == NO_QUOTA


def test_a_built_in_role_can_be_taken_everything() -> None:
    assert rules_of(parsed("[roles.user]\nverbs = {}"), "user").verbs == {}


def test_every_line_of_the_comments_of_a_new_file_can_be_used() -> None:
    text = re.sub(r"^# (?=[\[a-z_]+(\.[a-z.]+)*\]?( =|$))", "", POLICY_TEXT, flags=re.MULTILINE)
    assert tomllib.loads(text).keys() == {"roles", "quotas"}
    # One role has either a forced account or some to choose from.
    policy = parsed(re.sub(r"^user = .*\n", "", text, flags=re.MULTILINE))
    assert rules_of(policy, "user").rlimits["core"] == (0, 0)
    assert rules_of(policy, "operator").quota.jobs == 1000


def test_the_example_of_the_documentation_is_a_policy() -> None:
    [example] = re.findall(r"<!-- tested: policy -->\n```toml\n(.*?)```", DOC, re.DOTALL)
    policy = parsed(example)
    assert {"user", "operator", "batch", "admin"} == policy.known
    # Every key of the tables of the reference is in it.
    keys = set(re.findall(r"^\| `([a-z_.]+)` ", DOC, re.MULTILINE))
    assert len(keys) > 10
    for key in keys:
        assert re.search(rf"\b{key.split('.')[-1]}\b", example), key


WRONG = [
    ("rolls = 1", "rolls", "no such key"),
    ("roles = 1", "roles", "not a table"),
    ("[roles.'a b']", "roles.a b", "no name of a role"),
    ("[roles.x]", "roles.x.verbs", "it is missing"),
    ("[roles.x]\nverbs = 'own'\ncolour = 1", "roles.x.colour", "no such key"),
    ("[roles.x]\nverbs = 'all'", "roles.x.verbs", "'all' is no scope"),
    ("[roles.x]\nverbs = ['start']", "roles.x.verbs", "not a table"),
    ("[roles.x]\nverbs = {list = 'own'}", "roles.x.verbs.list", "no such verb"),
    ("[roles.x]\nverbs = {whoami = 'own'}", "roles.x.verbs.whoami", "no such verb"),
    ("[roles.x]\nverbs = {stop = true}", "roles.x.verbs.stop", "True is no scope"),
    ("[roles.x]\nverbs = {stop = ['own']}", "roles.x.verbs.stop", "is no scope"),
    ("[roles.user]\ncommands = 'ls'", "roles.user.commands", "not a list"),
    ("[roles.user]\ncommands = ['ls']", "roles.user.commands", "no absolute path"),
    ("[roles.user]\ncommands = ['']", "roles.user.commands", "not a list of words"),
    ("[roles.user]\ncommands = ['/']", "roles.user.commands", "more than one reads"),
    ("[roles.user]\ncommands = ['/usr/../bin/ls']", "roles.user.commands", "more than one reads"),
    ("[roles.user]\ncommands = ['/a\\u0000']".replace("'", '"'), "roles.user.commands", "absolute"),
    ("[roles.user]\nusers = ['a b']", "roles.user.users", "no account's name"),
    ("[roles.user]\nuser = 'a/b'", "roles.user.user", "no account's name"),
    ("[roles.user]\nuser = 'a'\nusers = ['a']", "roles.user.users", "also `user`"),
    ("[roles.user]\nisolation = 'No Network'", "roles.user.isolation", "no isolation"),
    ("[roles.user]\nisolation_forced = true", "roles.user.isolation_forced", "no isolation"),
    ("[roles.user]\nisolation_forced = 1", "roles.user.isolation_forced", "boolean"),
    ("[roles.user.limits.ceiling]\nmemori = 1", "roles.user.limits.ceiling.memori", "known limits"),
    ("[roles.user.limits.ceiling]\noom_group = true", "limits.ceiling.oom_group", "no ceiling"),
    ("[roles.user.limits.most]\nmemory = '1G'", "roles.user.limits.most", "no such key"),
    ("[roles.user.limits]\ndefault = {memory = '2G'}\nceiling = {memory = '1G'}",
     "roles.user.limits.default", "the role's ceiling allows at most 1 GiB"),
    ("[roles.user.limits.ceiling]\nmemory = '1G'\nmemory_high = '1G'",
     "roles.user.limits.ceiling", "that would never happen"),
    ("[roles.user.logs]\nmax = '2G'\nceiling = '1G'", "roles.user.logs.max", "more than the"),
    ("[roles.user.logs]\nreserve = '2G'", "roles.user.logs.reserve", "no such key"),
    ("[roles.user.rlimits]\nnofiles = 1", "roles.user.rlimits.nofiles", "known are as, core"),
    ("[roles.user.rlimits]\nlocks = 1", "roles.user.rlimits.locks", "known are as, core"),
    ("[roles.user.rlimits]\nnofile = '1G'", "roles.user.rlimits.nofile", "no such value"),
    ("[roles.user.rlimits]\nnofile = -1", "roles.user.rlimits.nofile", "below 0"),
    ("[roles.user.rlimits]\nnofile = true", "roles.user.rlimits.nofile", "no such value"),
    ("[roles.user.rlimits]\nfsize = 'big'", "roles.user.rlimits.fsize", "big"),
    ("[roles.user.rlimits]\nnofile = [1]", "roles.user.rlimits.nofile", "no such value"),
    ("[roles.user.rlimits]\nnofile = [2, 1]", "roles.user.rlimits.nofile", "above its hard one"),
    ("[roles.user.rlimits]\nnofile = ['max', 1]", "roles.user.rlimits.nofile", "above its hard"),
    ("[quotas]\njob = 1", "quotas.job", "no such key"),
    ("[quotas]\njobs = -1", "quotas.jobs", "it is -1"),
    ("[quotas]\njobs = '1'", "quotas.jobs", "not an integer"),
    ("[quotas]\ncpu = true", "quotas.cpu", "no number of CPUs"),
    ("[quotas]\ncpu = 'many'", "quotas.cpu", "many"),
    ("[quotas]\nmemory = 5", "quotas.memory", "not a string"),
    ("[quotas]\nstarts_per_second = 0", "quotas.starts_per_second", "no rate"),
    ("[quotas]\nstarts_per_second = inf", "quotas.starts_per_second", "no rate"),
    ("[quotas]\nstarts_per_second = nan", "quotas.starts_per_second", "no rate"),
    ("[roles.user.quotas]\nfollowers = 1.5", "roles.user.quotas.followers", "not an integer"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "cause"), WRONG, ids=[text[:60] for text, _, _ in WRONG])
def test_what_is_wrong_is_refused_by_file_and_key(text: str, key: str, cause: str) -> None:
    error = refusal(text)
    assert re.search(rf"the key \S*{re.escape(key)} in {PATH}: ", error.message), error.message
    assert cause in str(error)


@pytest.mark.parametrize("data", [b"[roles", b"a = 1\na = 2", b"\xff"])
def test_what_is_no_toml_is_refused(data: bytes) -> None:
    with pytest.raises(JobError, match=f"cannot read the policy {PATH}: ") as caught:
        parse_policy(data, PATH)
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_an_error_of_toml_tells_the_line() -> None:
    assert "line 2" in refusal("[roles.user]\nverbs = own").message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(WHOLE)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_could_write_is_refused(file: Path, mode: int) -> None:
    assert read_policy(file).known == {"batch", "forced", "admin", "user"}
    file.chmod(mode)
    with pytest.raises(JobError, match="group or others can write it; chmod go-w") as caught:
        read_policy(file)
    assert caught.value.reason is Reason.CONFIG_INVALID


@pytest.mark.skipif(not IS_ROOT, reason="needs root: gives a file away")
def test_a_file_of_another_users_is_refused(file: Path) -> None:
    os.chown(file, 12345, 0)
    with pytest.raises(JobError, match="it belongs to uid 12345"):
        read_policy(file)


def test_a_file_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no such file.*restore it"):
        read_policy(tmp_path / "policy.toml")
    with pytest.raises(JobError, match="no regular file"):
        read_policy(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(JobError, match="no regular file"):  # and nobody waits for a writer
        read_policy(tmp_path / "fifo")


def test_a_file_of_any_size_is_not_read(file: Path) -> None:
    file.write_bytes(b"#" * (1 << 21))
    with pytest.raises(JobError, match="more than 1048576 bytes"):
        read_policy(file)


def test_a_configuration_names_its_policy_or_has_the_built_in_one(file: Path) -> None:
    place = file.with_name("jobd.toml")
    assert read_policy_of(parse_config(b"", place)) == DEFAULT_POLICY
    config = parse_config(b'policy = "policy.toml"', place)
    assert config.policy == file
    assert "batch" in read_policy_of(config).known


def test_what_changes_is_told_role_by_role() -> None:
    one = parsed("[roles.user]\n[roles.admin]\n[roles.old]\nverbs = 'own'")
    other = parsed(
        "[roles.user]\ncommands = []\nlimits.ceiling.pids = 5\n[roles.admin]\n"
        "[roles.new]\nverbs = 'own'"
    )
    assert list(changes(one, other)) == [
        "role new added",
        "role old removed",
        "role user changed (commands, ceiling)",
    ]
    assert list(changes(one, one)) == []
    swapped = parsed("[roles.admin]\n[roles.user]\n[roles.old]\nverbs = 'own'")
    assert list(changes(one, swapped)) == ["another order of the roles"]


def test_a_policy_is_told_whole() -> None:
    text = format_policy(parsed(WHOLE))
    for word in (
        "with anybody's jobs: status",
        "with his own jobs  : start, update",
        "/usr/bin/rsync, /srv/bin/",
        "backup, www-data",
        "no-network (forced)",
        "memory 1 GiB",
        "memory 4 GiB",
        "cpus 2",
        "full block",
        "nproc 100 (at most max)",
        "jobs 5",
        "starts_per_second 2.0",
        "runs as          nobody",
    ):
        assert word in text, word
    assert "may do nothing" in format_policy(parsed("[roles.user]\nverbs = {}"))
