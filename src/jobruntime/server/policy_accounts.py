"""Accounts that a policy names and jobs cannot have here: told before anybody asks for one."""

from __future__ import annotations

import pwd
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from jobruntime.model.policy import Policy, RoleRules


@dataclass(frozen=True, slots=True)
class MissingAccount:
    """An account that a role names in vain."""

    role: str
    is_forced: bool
    """It is the role's `user`, so that the role can start nothing; else one of its `users`."""
    cause: str
    """`role batch's user: this host has no account 'batch'`."""
    remedy: str


def missing_accounts(policy: Policy, accounts: Collection[str]) -> Iterator[MissingAccount]:
    """Yield what the policy names of accounts that are not among `accounts` of [jobs], or absent.

    Whether a server without root can use any of them is not asked.
    """
    for rules in policy.roles:
        yield from _of_role(rules, accounts)


def _of_role(rules: RoleRules, accounts: Collection[str]) -> Iterator[MissingAccount]:
    forced = () if rules.user is None else (rules.user,)
    for name in (*forced, *rules.users):
        key = "user" if name == rules.user else "users"
        if not _exists(name):
            cause, remedy = f"this host has no account {name!r}", "make it, or take it out"
        elif name not in accounts:
            cause = f"{name!r} is none of `accounts` in [jobs] of jobd.toml"
            remedy = "add it there, or take it out here"
        else:
            continue
        yield MissingAccount(
            rules.name, key == "user", f"role {rules.name}'s {key}: {cause}", remedy
        )


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True
