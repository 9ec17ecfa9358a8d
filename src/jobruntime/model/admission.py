"""Whether a policy admits a start or a change of limits, and on which terms.

A caller with several roles is judged under each that has the verb, in the policy's order: the first
that admits the request as a whole decides, and its terms hold, no other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .access import Principal, Scope, Verb
from .errors import JobError, Reason
from .isolation import Isolation
from .limits import NO_LIMITS, Limits, check_ceiling
from .log_policy import NO_POLICY, LogPolicy
from .policy import Policy, RoleRules
from .quota import NO_QUOTA, Quota
from .rlimits import NO_RLIMITS, Rlimits

_LOADER_VARIABLES: Final = ("LD_", "GLIBC_TUNABLES")


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms the policy admits a start or an update; what is not said is not bounded."""

    role: str = ""
    """The role that admitted it; empty where no policy was asked."""
    source: str = ""
    """The policy's file, for sentences."""
    executable: str | None = None
    """The path that was checked, to be executed whatever argv[0] says; None: argv[0]."""
    account: str | None = None
    """The account of the host to run as; None: the owner's own uid."""
    isolation: Isolation | None = None
    default_limits: Limits = NO_LIMITS
    ceiling: Limits = NO_LIMITS
    default_log: LogPolicy = NO_POLICY
    log_ceiling_bytes: int | None = None
    rlimits: Rlimits = field(default_factory=lambda: NO_RLIMITS)
    quota: Quota = NO_QUOTA
    rules: tuple[str, ...] = ()
    """What decided, in the order in which it was asked."""

    def rule(self, key: str) -> str:
        """Return the words for the role's ceiling of `key`."""
        return f"role {self.role}'s ceiling {key} in {self.source}"

    @property
    def quota_rule(self) -> str:
        """The words for the role's quota, before its key."""
        return f"role {self.role}'s quota" if self.role else ""


NO_TERMS: Final = Terms()
"""Those of whoever uses the worker without a policy."""


@dataclass(frozen=True, slots=True)
class StartAsked:
    """What a policy looks at in a request for a start."""

    program: str
    """argv[0], for sentences."""
    found: str | None = None
    """The file that it stands for, absolute and without links; None: there is none to be seen."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Every entry of the roles' `commands` that exists, without links."""
    variables: tuple[str, ...] = ()
    """The names in its environment."""
    limits: Limits = NO_LIMITS
    log: LogPolicy = NO_POLICY
    user: str | None = None
    isolation: Isolation | None = None


def admit_start(policy: Policy, principal: Principal, asked: StartAsked) -> Terms:
    """Return the terms of a start; raises the JobError of the first role that may start jobs.

    That is PERMISSION_DENIED or LIMIT_ABOVE_CEILING.
    """
    roles = [rules for rules in policy.rules_of(principal) if Verb.START in rules.verbs]
    return _first(roles, principal, Verb.START, lambda rules: _start_terms(policy, rules, asked))


def admit_update(policy: Policy, principal: Principal, *, changes: Limits, is_own: bool) -> Terms:
    """Return the terms of a change of limits of a job; the errors of `admit_start`."""
    reaching = (Scope.OWN, Scope.ANY) if is_own else (Scope.ANY,)
    roles = [r for r in policy.rules_of(principal) if r.verbs.get(Verb.UPDATE) in reaching]
    return _first(
        roles, principal, Verb.UPDATE, lambda r: _update_terms(policy, r, changes, is_own=is_own)
    )


def denied(principal: Principal, verb: Verb | None) -> JobError:
    """Return the refusal of a verb that no role of the principal has."""
    return JobError(
        Reason.PERMISSION_DENIED,
        f"cannot {verb or 'do that'}: no role of user {principal.name!r} allows it",
        "ask the operator for a certificate with a role that does",
    )


def find_place(commands: Sequence[str], asked: StartAsked) -> str | None:
    """Return the first of the role's `commands` that allows the program, or None."""
    for entry in commands:
        place = asked.places.get(entry)
        if place is None or asked.found is None:
            continue
        below = place.rstrip("/") + "/"
        if asked.found == place or (entry.endswith("/") and asked.found.startswith(below)):
            return entry
    return None


def _first(
    roles: Sequence[RoleRules],
    principal: Principal,
    verb: Verb,
    judge: Callable[[RoleRules], Terms],
) -> Terms:
    first: JobError | None = None
    for rules in roles:
        try:
            return judge(rules)
        except JobError as error:
            first = first or error
    raise first or denied(principal, verb)


def _update_terms(policy: Policy, rules: RoleRules, changes: Limits, *, is_own: bool) -> Terms:
    rule = f"role {rules.name}: {Verb.UPDATE} {rules.verbs[Verb.UPDATE]}"
    # A quota is its owner's: whoever changes another's job is not held to his own.
    quota = rules.quota if is_own else NO_QUOTA
    terms = Terms(rules.name, policy.source, ceiling=rules.ceiling, quota=quota, rules=(rule,))
    check_ceiling(changes, rules.ceiling, terms.rule)
    return terms


def _start_terms(policy: Policy, rules: RoleRules, asked: StartAsked) -> Terms:
    told = [f"role {rules.name}: {Verb.START} {rules.verbs[Verb.START]}"]
    executable = _executable(policy, rules, asked, told)
    account = _account(policy, rules, asked, told)
    isolation = _isolation(policy, rules, asked, told)
    terms = Terms(
        role=rules.name,
        source=policy.source,
        executable=executable,
        account=account,
        isolation=isolation,
        default_limits=rules.default_limits,
        ceiling=rules.ceiling,
        default_log=rules.default_log,
        log_ceiling_bytes=rules.log_ceiling_bytes,
        rlimits=rules.rlimits,
        quota=rules.quota,
        rules=tuple(told),
    )
    check_ceiling(asked.limits, rules.ceiling, terms.rule)
    check_log_ceiling(asked.log, terms)
    return terms


def check_log_ceiling(asked: LogPolicy, terms: Terms) -> None:
    """Refuse a log that is larger than the role allows; raises JobError (LIMIT_ABOVE_CEILING)."""
    most, size = terms.log_ceiling_bytes, asked.max_bytes
    if most is not None and size is not None and size > most:
        raise JobError(
            Reason.LIMIT_ABOVE_CEILING,
            f"cannot keep a log of {size} bytes: {terms.rule('logs.ceiling')} "
            f"allows at most {most}",
            f"give {most} or less, or none",
        )


def _executable(policy: Policy, rules: RoleRules, asked: StartAsked, told: list[str]) -> str | None:
    if rules.commands is None:
        return None
    place = find_place(rules.commands, asked)
    if place is None:
        # The same whether it exists: the server sees more of the host than the caller may.
        known = ", ".join(rules.commands) or "none at all"
        raise _refused(
            policy,
            rules,
            f"cannot start {asked.program[:256]!r}",
            "commands",
            f"name a program by its path; this role may start {known}",
        )
    for name in asked.variables:
        if name.startswith(_LOADER_VARIABLES):
            # What the dynamic loader is told to load would run in the place of the program.
            raise _refused(
                policy,
                rules,
                f"cannot start {asked.program[:256]!r} with the variable {name[:64]!r}",
                "commands",
                "leave out what begins with LD_, and GLIBC_TUNABLES",
            )
    told.append(f"role {rules.name}: commands {place}")
    return asked.found


def _account(policy: Policy, rules: RoleRules, asked: StartAsked, told: list[str]) -> str | None:
    if rules.user is not None:
        if asked.user not in (None, rules.user):
            what, remedy = (
                f"cannot run a job as {asked.user!r}",
                f"leave it out, or give {rules.user}",
            )
            raise _refused(policy, rules, what, "user", remedy)
        told.append(f"role {rules.name}: user {rules.user}")
        return rules.user
    if asked.user is None:
        return None
    if asked.user not in rules.users:
        known = f"give one of {', '.join(rules.users)}, or none" if rules.users else "leave it out"
        raise _refused(policy, rules, f"cannot run a job as {asked.user!r}", "users", known)
    told.append(f"role {rules.name}: users {asked.user}")
    return asked.user


def _isolation(
    policy: Policy, rules: RoleRules, asked: StartAsked, told: list[str]
) -> Isolation | None:
    least, wanted = rules.isolation, asked.isolation
    if rules.isolation_forced and least and wanted and wanted.strictness < least.strictness:
        what = f"cannot run a job with the isolation {str(asked.isolation)!r}"
        remedy = f"leave it out, or give {rules.isolation} or what keeps away more"
        raise _refused(policy, rules, what, "isolation_forced", remedy)
    if rules.isolation is not None and asked.isolation in (None, rules.isolation):
        told.append(f"role {rules.name}: isolation {rules.isolation}")
    return asked.isolation or rules.isolation


def _refused(policy: Policy, rules: RoleRules, what: str, key: str, remedy: str) -> JobError:
    return JobError(
        Reason.PERMISSION_DENIED,
        f"{what}: role {rules.name}'s {key} in {policy.source} does not allow it",
        f"{remedy}; or ask the operator",
    )
