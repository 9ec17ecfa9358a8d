"""The policy file that `jobd init` writes, and a policy as `jobd policy check` tells it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from jobruntime.model.access import Scope, Verb
from jobruntime.model.limits import IO_RATES, KINDS, UNLIMITED, Limits
from jobruntime.model.policy import Policy, RoleRules
from jobruntime.model.quota import Quota

POLICY_TEXT: Final = """\
# Who may do what on this server: docs/policy.md. Read at the start and again on SIGHUP; see
# `jobd policy check`. Nobody but its owner may be able to write this file.
# All that is not said here is the built-in table: an admin may do anything with any job, a user
# with his own.

# A role is what a certificate names in O. Roles of one caller are asked in the order of this file.
# [roles.user]
# verbs = { start = "own", stop = "own", status = "own", logs = "own", renew = "own" }
# The programs that may be started; a directory ends with "/" and stands for all below it.
# commands = ["/usr/bin/rsync", "/srv/jobs/bin/"]
# The account that jobs run as, or those that a start may ask for; else a uid of the owner's own.
# user = "batch"
# users = ["batch", "backup"]
# isolation = "no-network"
# isolation_forced = true
# rlimits = { nofile = 1024, core = 0, fsize = "10G" }
# Besides jobd.toml's: of two ceilings the lower one holds.
# [roles.user.limits.default]
# memory = "1G"
# [roles.user.limits.ceiling]
# memory = "4G"
# [roles.user.logs]
# max = "100M"
# ceiling = "1G"
# What one owner may have at once.
# [roles.user.quotas]
# jobs = 20
# cpu = "8"
# memory = "16G"
# log_bytes = "50G"
# followers = 100
# starts_per_second = 10

# A role of your own needs its verbs; whatever is not among them is denied.
# [roles.operator]
# verbs = { status = "any", logs = "any", stats = "any", stop = "any", renew = "own" }

# For every role that does not say otherwise.
# [quotas]
# jobs = 1000
"""


def format_policy(policy: Policy) -> str:
    """Return what each role may do, a paragraph for each."""
    return "\n".join("\n".join(_role_lines(rules)) for rules in policy.roles) + "\n"


def _role_lines(rules: RoleRules) -> Iterator[str]:
    yield f"role {rules.name}"
    yield from _verb_lines(rules)
    if rules.commands is not None:
        yield f"  may start only   {', '.join(rules.commands) or 'nothing'}"
    if rules.user is not None:
        yield f"  runs as          {rules.user}"
    if rules.users:
        yield f"  may run as       {', '.join(rules.users)}"
    if rules.isolation is not None:
        yield f"  isolation        {rules.isolation}{' (forced)' if rules.isolation_forced else ''}"
    for what, limits in (("default", rules.default_limits), ("ceiling", rules.ceiling)):
        if words := ", ".join(_limit_words(limits)):
            yield f"  limits, {what}  {words}"
    yield from _log_lines(rules)
    if rules.rlimits:
        yield f"  rlimits          {', '.join(map(_rlimit_words, rules.rlimits.items()))}"
    if words := ", ".join(_quota_words(rules.quota)):
        yield f"  quotas           {words}"


def _verb_lines(rules: RoleRules) -> Iterator[str]:
    for scope, whose in ((Scope.ANY, "with anybody's jobs"), (Scope.OWN, "with his own jobs")):
        if verbs := [verb for verb in Verb if rules.verbs.get(verb) is scope]:
            yield f"  {whose:<19}: {', '.join(verbs)}"
    if not rules.verbs:
        yield "  may do nothing"


def _log_lines(rules: RoleRules) -> Iterator[str]:
    words = [f"max {rules.default_log.max_bytes} bytes"] if rules.default_log.max_bytes else []
    words += [f"full {rules.default_log.on_full}"] if rules.default_log.on_full else []
    words += [f"ceiling {rules.log_ceiling_bytes} bytes"] if rules.log_ceiling_bytes else []
    if words:
        yield f"  logs             {', '.join(words)}"


def _limit_words(limits: Limits) -> Iterator[str]:
    for name, kind in KINDS.items():
        value: int | None = getattr(limits, name)
        if value is not None:
            key = kind.flag.removeprefix("--").replace("-", "_")
            yield f"{key} {'max' if value == UNLIMITED else kind.format(value)}"
    if limits.cpuset is not None:
        yield f"cpuset {limits.cpuset or 'max'}"
    for limit in limits.io:
        for name in IO_RATES:
            rate: int | None = getattr(limit, name)
            if rate is not None:
                yield f"io_{name} {limit.path}:{'max' if rate == UNLIMITED else rate}"
    if limits.oom_group is not None:
        yield f"oom_group {str(limits.oom_group).lower()}"


def _rlimit_words(item: tuple[str, tuple[int, int]]) -> str:
    name, bounds = item
    soft, hard = ("max" if bound < 0 else str(bound) for bound in bounds)
    return f"{name} {soft}" if soft == hard else f"{name} {soft} (at most {hard})"


def _quota_words(quota: Quota) -> Iterator[str]:
    for item in fields(Quota):
        value = getattr(quota, item.name)
        if value is not None:
            yield f"{item.name} {value}"
