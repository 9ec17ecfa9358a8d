"""The policy in force: read at the start, and again on request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import fields, replace

from jobruntime.model.admission import Terms
from jobruntime.model.errors import JobError
from jobruntime.model.limits import Limits, merge_limits
from jobruntime.model.policy import Policy, RoleRules
from jobruntime.model.spec import JobSpec
from jobruntime.worker import Worker, resolve_limits

from .config import Config
from .policy_accounts import missing_accounts
from .policy_file import read_policy_of

_logger = logging.getLogger("jobd")


class Policies:
    """Holds the policy; a call is judged by the one that held when it came."""

    def __init__(self, config: Config) -> None:
        """Read the policy that `config` names; raises JobError (CONFIG_INVALID)."""
        self._config = config
        self.current: Policy = _read(config)

    async def reload(self, worker: Worker) -> str:
        """Read the file again and return what has changed; raises JobError with nothing changed."""
        if self._config.policy is None:
            return "the configuration names no file"
        new = await asyncio.to_thread(_read, self._config)
        changed = "; ".join(changes(self.current, new))
        self.current = new
        await self.warn(worker)
        return changed or "nothing has changed"

    async def warn(self, worker: Worker) -> None:
        """Log which roles cannot start a job on this host as the policy is, or not as all users."""
        for rules in self.current.roles:
            terms = _likely_terms(rules, self.current.source)
            try:
                await worker.plan(JobSpec(argv=("true",)), owner="", terms=terms)
            except JobError as error:
                _logger.warning("role %s cannot start jobs: %s", rules.name, error)
        for one in missing_accounts(self.current, self._config.users.accounts):
            if not one.is_forced:  # told above
                _logger.warning("no job can have an account: %s; %s", one.cause, one.remedy)


def _likely_terms(rules: RoleRules, source: str) -> Terms:
    """Return the terms of a start that asks for no more than it must.

    Of a quota of CPUs or memory each job needs a limit, which the host then must be able to hold.
    """
    needed = Limits(cpu_millis=rules.quota.cpu_millis, memory_bytes=rules.quota.memory_bytes)
    return Terms(
        rules.name,
        source,
        account=rules.user,
        isolation=rules.isolation,
        default_limits=merge_limits(needed, rules.default_limits),
        ceiling=rules.ceiling,
    )


def _read(config: Config) -> Policy:
    policy = read_policy_of(config)
    return replace(policy, roles=tuple(_on_disks(rules, config) for rules in policy.roles))


def _on_disks(rules: RoleRules, config: Config) -> RoleRules:
    """Return the role with the disks of the paths in its limits: a job's keeper opens none."""
    table, file = f"roles.{rules.name}.limits", str(config.policy)
    return replace(
        rules,
        default_limits=resolve_limits(rules.default_limits, f"{table}.default", file),
        ceiling=resolve_limits(rules.ceiling, f"{table}.ceiling", file),
    )


def changes(old: Policy, new: Policy) -> Iterator[str]:
    """Yield what differs between two policies, role by role."""
    before = {rules.name: rules for rules in old.roles}
    after = {rules.name: rules for rules in new.roles}
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"role {name} removed"
        elif name not in before:
            yield f"role {name} added"
        elif keys := _differences(before[name], after[name]):
            yield f"role {name} changed ({', '.join(keys)})"
    if list(before) != list(after) and before.keys() == after.keys():
        yield "another order of the roles"


def _differences(one: RoleRules, other: RoleRules) -> list[str]:
    names = (field.name for field in fields(RoleRules))
    return [name for name in names if getattr(one, name) != getattr(other, name)]
