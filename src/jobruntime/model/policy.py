"""Who may do what: roles, the verbs that each has, and within which bounds. The rest is denied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from .access import ABOUT_ONESELF, Principal, Role, Scope, Verb
from .isolation import Isolation
from .limits import NO_LIMITS, Limits
from .log_policy import NO_POLICY, LogPolicy
from .quota import NO_QUOTA, Quota
from .rlimits import NO_RLIMITS, Rlimits

ROLE_NAMES: Final = "use 1 to 32 letters, digits, '.', '_' or '-', a letter or digit first"
_ROLE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


@dataclass(frozen=True, slots=True)
class RoleRules:
    """What one role may do, and the bounds of what it starts. By default nothing is bounded."""

    name: str
    verbs: Mapping[Verb, Scope]
    commands: tuple[str, ...] | None = None
    """Programs that may be started: absolute paths, or directories with a `/` at the end, which
    stand for all below them. None: every program."""
    users: tuple[str, ...] = ()
    """Accounts of the host that a start may ask for."""
    user: str | None = None
    """The account of every start; None: the owner's own uid."""
    isolation: Isolation | None = None
    isolation_forced: bool = False
    """A start cannot ask for another isolation; else `isolation` is only the default."""
    default_limits: Limits = NO_LIMITS
    ceiling: Limits = NO_LIMITS
    default_log: LogPolicy = NO_POLICY
    log_ceiling_bytes: int | None = None
    rlimits: Rlimits = field(default_factory=lambda: NO_RLIMITS)
    """Soft and hard limit by the name of setrlimit(2) in lower case (`nofile`); -1 is none."""
    quota: Quota = NO_QUOTA
    """What one owner may have of it at once."""


@dataclass(frozen=True, slots=True)
class Policy:
    """All roles, in the order in which they are asked."""

    roles: tuple[RoleRules, ...]
    source: str = "the built-in policy"
    """The file's name, for sentences."""
    known: frozenset[str] = field(init=False)
    """The names of all roles."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", frozenset(rules.name for rules in self.roles))

    def rules_of(self, principal: Principal) -> list[RoleRules]:
        """Return the rules of the principal's roles, in the policy's order."""
        return [rules for rules in self.roles if rules.name in principal.roles]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a verb is allowed, whose jobs it reaches, and the rule that decided."""

    allowed: bool
    scope: Scope | None
    """None where it is denied."""
    rule: str
    """`role user: stop own`, in the form in which it is logged and told."""
    role: str | None = None


SEED_VERBS: Final[Mapping[str, Mapping[Verb, Scope]]] = MappingProxyType(
    {
        Role.ADMIN: MappingProxyType(
            {verb: Scope.ANY for verb in Verb if verb not in ABOUT_ONESELF}
        ),
        Role.USER: MappingProxyType(
            {verb: Scope.OWN for verb in Verb if verb not in ABOUT_ONESELF}
        ),
    }
)
"""The design's table: an admin may do anything with any job, a user with his own."""

DEFAULT_POLICY: Final = Policy(tuple(RoleRules(name, verbs) for name, verbs in SEED_VERBS.items()))


def is_role_name(text: str) -> bool:
    """Return whether a role can have this name."""
    return _ROLE_NAME.fullmatch(text) is not None


def decide(policy: Policy, principal: Principal, verb: Verb | None) -> Decision:
    """Return whether any of the principal's roles gives `verb`, in the widest scope that one does.

    None is a method without a verb, which nobody may call.
    """
    roles = policy.rules_of(principal)
    if verb in ABOUT_ONESELF and roles:
        return Decision(allowed=True, scope=Scope.OWN, rule=f"everybody: {verb}")
    for scope in (Scope.ANY, Scope.OWN):
        for rules in roles:
            if verb is not None and rules.verbs.get(verb) is scope:
                rule = f"role {rules.name}: {verb} {scope}"
                return Decision(allowed=True, scope=scope, rule=rule, role=rules.name)
    return Decision(allowed=False, scope=None, rule=f"no role allows {verb or 'it'}")


def followers_quota(policy: Policy, principal: Principal) -> tuple[Quota, str]:
    """Return the quota that lets the principal read the most logs at once, and its rule's words.

    Of all his roles that may read logs; no quota where one of them has none.
    """
    most, rule = 0, ""
    for rules in policy.rules_of(principal):
        if Verb.LOGS in rules.verbs:
            if rules.quota.followers is None:
                return NO_QUOTA, ""
            if not rule or rules.quota.followers > most:
                most, rule = rules.quota.followers, f"role {rules.name}'s quota"
    return Quota(followers=most), rule
