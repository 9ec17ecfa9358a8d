"""Who may do what, against a plain model of it; and on which terms a start is admitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.access import ABOUT_ONESELF, Principal, Scope, Verb
from jobruntime.model.admission import StartAsked, admit_start, admit_update, find_place
from jobruntime.model.ceilings import cut_to_ceiling, join_ceilings
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.isolation import Isolation
from jobruntime.model.limits import (
    NO_LIMITS,
    UNLIMITED,
    IoLimit,
    Limits,
    check_ceiling,
    check_together,
    merge_limits,
)
from jobruntime.model.log_policy import LogPolicy
from jobruntime.model.policy import DEFAULT_POLICY, Policy, RoleRules, decide, followers_quota
from jobruntime.model.quota import NO_QUOTA, Quota

NAMES = ("admin", "user", "operator", "batch")
GRANTED = [verb for verb in Verb if verb not in ABOUT_ONESELF]
VERBS = st.dictionaries(st.sampled_from(GRANTED), st.sampled_from(Scope))
SIZES = st.one_of(st.none(), st.sampled_from([4096, 1 << 20, 1 << 30, UNLIMITED]))
PLACES = ("/bin/a", "/bin/", "/opt/x", "/opt/")
RULES = st.builds(
    RoleRules,
    name=st.just(""),
    verbs=VERBS,
    commands=st.one_of(st.none(), st.lists(st.sampled_from(PLACES), unique=True).map(tuple)),
    users=st.lists(st.sampled_from(["a", "b"]), unique=True).map(tuple),
    isolation=st.sampled_from(Isolation),
    isolation_forced=st.booleans(),
    ceiling=st.builds(Limits, memory_bytes=SIZES),
    log_ceiling_bytes=SIZES,
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return Policy(tuple(replace(draw(RULES), name=name) for name in names), "policy.toml")


PRINCIPALS = st.builds(
    Principal, name=st.sampled_from(["alice", "admin"]), roles=st.frozensets(st.sampled_from(NAMES))
)
STARTS = st.builds(
    StartAsked,
    program=st.just("a"),
    found=st.sampled_from([None, "/bin/a", "/bin/b", "/opt/x", "/opt/y/z", "/bina"]),
    places=st.just({place: place.rstrip("/") for place in PLACES}),
    variables=st.sampled_from([(), ("A",), ("A", "LD_PRELOAD")]),
    limits=st.builds(Limits, memory_bytes=SIZES),
    log=st.builds(LogPolicy, max_bytes=SIZES),
    user=st.sampled_from([None, "a", "b", "root"]),
    isolation=st.sampled_from([None, *Isolation]),
)


@given(policies(), PRINCIPALS, st.sampled_from(GRANTED))
def test_a_verb_reaches_as_far_as_the_widest_of_the_callers_roles(
    policy: Policy, principal: Principal, verb: Verb
) -> None:
    table: Mapping[str, Mapping[Verb, Scope]] = {r.name: r.verbs for r in policy.roles}
    scopes = {table[role][verb] for role in principal.roles if verb in table.get(role, {})}
    expected = Scope.ANY if Scope.ANY in scopes else Scope.OWN if scopes else None
    decision = decide(policy, principal, verb)
    assert (decision.allowed, decision.scope) == (expected is not None, expected)
    if expected is not None:
        assert decision.role in principal.roles
        assert decision.rule == f"role {decision.role}: {verb} {expected}"


@given(policies(), PRINCIPALS)
def test_everybody_with_a_role_may_ask_about_himself_and_nobody_else(
    policy: Policy, principal: Principal
) -> None:
    has_role = any(rules.name in principal.roles for rules in policy.roles)
    for verb in ABOUT_ONESELF:
        assert decide(policy, principal, verb).allowed is has_role
    assert not decide(policy, principal, None).allowed


REASONS = (Reason.PERMISSION_DENIED, Reason.LIMIT_ABOVE_CEILING)


def admitted(policy: Policy, principal: Principal, asked: StartAsked) -> str | None:
    try:
        return admit_start(policy, principal, asked).role
    except JobError as error:
        return None if error.reason in REASONS and error.remedy else f"wrong: {error!r}"


def admits(rules: RoleRules, asked: StartAsked) -> bool:
    """Say in plain words whether one role admits the start."""

    def is_within(value: int | None, most: int | None) -> bool:
        return value is None or most is None or value <= most

    def is_allowed(program: str) -> bool:
        return any(
            program == entry.rstrip("/") or (entry.endswith("/") and program.startswith(entry))
            for entry in rules.commands or ()
        )

    program = rules.commands is None or (
        asked.found is not None and is_allowed(asked.found) and "LD_PRELOAD" not in asked.variables
    )
    return (
        Verb.START in rules.verbs
        and program
        and asked.user in (None, *rules.users)
        and not (
            rules.isolation_forced
            and rules.isolation is not None
            and asked.isolation is not None
            and list(Isolation).index(asked.isolation) < list(Isolation).index(rules.isolation)
        )
        and is_within(asked.limits.memory_bytes, rules.ceiling.memory_bytes)
        and is_within(asked.log.max_bytes, rules.log_ceiling_bytes)
    )


@given(policies(), PRINCIPALS, STARTS)
def test_the_first_role_that_admits_a_start_as_a_whole_decides(
    policy: Policy, principal: Principal, asked: StartAsked
) -> None:
    fitting = [r.name for r in policy.roles if r.name in principal.roles and admits(r, asked)]
    assert admitted(policy, principal, asked) == (fitting[0] if fitting else None)


@given(policies(), PRINCIPALS, STARTS, st.data())
def test_widening_a_role_never_narrows_what_is_allowed(
    policy: Policy, principal: Principal, asked: StartAsked, data: st.DataObject
) -> None:
    def widened(rules: RoleRules, key: str) -> RoleRules:
        match key:
            case "verbs":
                more = dict.fromkeys(data.draw(st.sets(st.sampled_from(GRANTED))), Scope.ANY)
                return replace(rules, verbs={**rules.verbs, **more})
            case "commands":
                return replace(rules, commands=rules.commands and (*rules.commands, "/opt/"))
            case "any command":
                return replace(rules, commands=None)
            case "users":
                return replace(rules, users=("a", "b"))
            case "isolation":
                return replace(rules, isolation_forced=False)
            case _:
                return replace(rules, ceiling=NO_LIMITS, log_ceiling_bytes=None)

    keys = ["verbs", "commands", "any command", "users", "isolation", "ceilings"]
    wider = list(policy.roles)
    for place in range(len(wider)):
        for key in sorted(data.draw(st.sets(st.sampled_from(keys)))):
            wider[place] = widened(wider[place], key)
    new = Policy(tuple(wider), "policy.toml")

    for verb in Verb:
        before, after = decide(policy, principal, verb), decide(new, principal, verb)
        assert after.allowed >= before.allowed
        assert after.scope is Scope.ANY or before.scope is not Scope.ANY
    if admitted(policy, principal, asked) is not None:
        assert admitted(new, principal, asked) is not None


def test_the_built_in_policy_bounds_nothing_and_lets_nobody_choose_an_account() -> None:
    alice = Principal("alice", frozenset({"user"}))
    asked = StartAsked("sh", limits=Limits(memory_bytes=UNLIMITED))
    terms = admit_start(DEFAULT_POLICY, alice, asked)
    assert (terms.role, terms.executable, terms.ceiling) == ("user", None, NO_LIMITS)
    with pytest.raises(JobError, match="role user's users in the built-in policy"):
        admit_start(DEFAULT_POLICY, alice, replace(asked, user="root"))


USER = RoleRules("user", {Verb.START: Scope.OWN, Verb.UPDATE: Scope.OWN})
ALICE = Principal("alice", frozenset({"user"}))


def refusal(rules: RoleRules, asked: StartAsked) -> JobError:
    with pytest.raises(JobError) as caught:
        admit_start(Policy((rules,), "policy.toml"), ALICE, asked)
    return caught.value


def test_a_refusal_names_the_rule_and_the_remedy() -> None:
    told = {
        "cannot start 'sh': role user's commands in policy.toml do": (
            replace(USER, commands=("/bin/a",)),
            StartAsked("sh", "/bin/sh", {"/bin/a": "/bin/a"}),
        ),
        "cannot run a job as 'root': role user's user in policy.toml": (
            replace(USER, user="nobody"),
            StartAsked("sh", user="root"),
        ),
        "cannot run a job with the isolation 'none': role user's isolation_forced in": (
            replace(USER, isolation=Isolation.NO_NETWORK, isolation_forced=True),
            StartAsked("sh", isolation=Isolation.NONE),
        ),
        "with --memory 10 GiB: role user's ceiling memory in policy.toml allows at most 4 GiB": (
            replace(USER, ceiling=Limits(memory_bytes=4 << 30)),
            StartAsked("sh", limits=Limits(memory_bytes=10 << 30)),
        ),
        "role user's ceiling logs.ceiling in policy.toml allows at most 1048576": (
            replace(USER, log_ceiling_bytes=1 << 20),
            StartAsked("sh", log=LogPolicy(2 << 20)),
        ),
    }
    for text, (rules, asked) in told.items():
        error = refusal(rules, asked)
        assert text in error.message.replace("does not", "do not")
        assert error.remedy


def test_a_program_that_is_not_there_is_refused_in_the_words_for_one_that_is() -> None:
    rules = replace(USER, commands=("/bin/a",))
    there, absent = (StartAsked("x", found, {"/bin/a": "/bin/a"}) for found in ("/bin/x", None))
    assert str(refusal(rules, there)) == str(refusal(rules, absent))


def test_a_directory_stands_for_what_is_below_it_and_not_beside_it() -> None:
    places = {"/opt/": "/opt", "/bin/a": "/usr/bin/a"}
    commands = tuple(places)
    for found, place in {
        "/opt/x": "/opt/",
        "/opt/x/y": "/opt/",
        "/optx": None,
        "/usr/bin/a": "/bin/a",  # what the rule's own links lead to
        "/usr/bin/a/b": None,
        "/bin/a": None,
    }.items():
        assert find_place(commands, StartAsked("x", found, places)) == place


def test_the_terms_tell_what_is_run_as_whom_and_by_which_rules() -> None:
    rules = replace(USER, commands=("/bin/",), users=("backup",), isolation=Isolation.NO_NETWORK)
    asked = StartAsked("a", "/usr/bin/a", {"/bin/": "/usr/bin"}, user="backup")
    terms = admit_start(Policy((rules,), "policy.toml"), ALICE, asked)
    assert (terms.executable, terms.account, terms.isolation) == (
        "/usr/bin/a",
        "backup",
        Isolation.NO_NETWORK,
    )
    assert terms.rules == (
        "role user: start own",
        "role user: commands /bin/",
        "role user: users backup",
        "role user: isolation no-network",
    )
    forced = Policy((replace(rules, users=(), user="www"),), "policy.toml")
    assert admit_start(forced, ALICE, replace(asked, user=None)).account == "www"


def test_only_roles_that_reach_the_job_judge_an_update() -> None:
    operator = RoleRules("operator", {Verb.UPDATE: Scope.ANY}, ceiling=Limits(pids=5))
    policy = Policy((USER, operator), "policy.toml")
    both = Principal("alice", frozenset({"user", "operator"}))
    assert admit_update(policy, both, changes=Limits(pids=9), is_own=True).role == "user"
    with pytest.raises(JobError, match="role operator's ceiling pids"):
        admit_update(policy, both, changes=Limits(pids=9), is_own=False)
    with pytest.raises(JobError, match="no role of user 'alice' allows it"):
        admit_update(policy, ALICE, changes=Limits(pids=9), is_own=False)


def test_of_followers_the_widest_quota_of_the_roles_that_read_logs_holds_and_is_named() -> None:
    one = RoleRules("user", {Verb.LOGS: Scope.OWN}, quota=Quota(jobs=1, followers=9))
    two = RoleRules("batch", {Verb.LOGS: Scope.ANY}, quota=Quota(jobs=5, followers=2))
    free = RoleRules("admin", {Verb.START: Scope.OWN}, quota=NO_QUOTA)
    policy = Policy((two, one, free))
    caller = Principal("alice", frozenset({"user", "batch", "admin"}))
    assert followers_quota(policy, caller) == (Quota(followers=9), "role user's quota")
    free = replace(free, verbs={Verb.LOGS: Scope.OWN})
    assert followers_quota(Policy((two, one, free)), caller) == (NO_QUOTA, "")


LIMITS = st.builds(
    Limits,
    cpu_millis=st.one_of(st.none(), st.sampled_from([100, 2000, UNLIMITED])),
    cpu_weight=st.one_of(st.none(), st.sampled_from([1, 100, 500])),
    cpuset=st.one_of(st.none(), st.sampled_from(["", "0-3", "0", "0,2-3"])),
    memory_bytes=SIZES,
    memory_high_bytes=SIZES,
    pids=st.one_of(st.none(), st.sampled_from([1, 10])),
    io=st.lists(
        st.builds(IoLimit, st.sampled_from(["/a", "/b"]), read_bps=SIZES, write_iops=SIZES),
        unique_by=lambda limit: limit.path,
    ).map(tuple),
)


@given(LIMITS, LIMITS, LIMITS)
def test_of_two_ceilings_the_stricter_one_holds(one: Limits, other: Limits, asked: Limits) -> None:
    def passes(ceiling: Limits) -> bool:
        try:
            check_ceiling(asked, ceiling)
        except JobError:
            return False
        return True

    assert passes(join_ceilings(one, other)) == (passes(one) and passes(other))


@given(LIMITS, LIMITS)
def test_what_nobody_asked_for_is_cut_to_the_ceiling_and_never_refused(
    default: Limits, ceiling: Limits
) -> None:
    bounded = check_ceiling(cut_to_ceiling(default, ceiling), ceiling)
    assert check_ceiling(bounded, ceiling) == bounded
    try:  # where the ceiling itself makes sense, so does the result
        check_together(check_ceiling(NO_LIMITS, ceiling))
        check_together(merge_limits(default, NO_LIMITS))
    except JobError:
        return
    check_together(bounded)


def test_two_ceilings_without_a_common_cpu_are_refused() -> None:
    with pytest.raises(JobError, match="none is in both"):
        join_ceilings(Limits(cpuset="0"), Limits(cpuset="1"))
