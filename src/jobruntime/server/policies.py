"""The policy in force: read at the start, and again on request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import fields, replace

from jobruntime.model.admission import Terms
from jobruntime.model.errors import JobError
from jobruntime.model.policy import Policy, RoleRules
from jobruntime.model.spec import JobSpec
from jobruntime.worker import Worker, resolve_limits

from .config import Config
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
        """Log which roles cannot start a job on this host as the policy is."""
        for rules in self.current.roles:
            terms = Terms(
                rules.name,
                self.current.source,
                account=rules.user,
                isolation=rules.isolation,
                default_limits=rules.default_limits,
                ceiling=rules.ceiling,
                rlimits=rules.rlimits,
                quota=rules.quota,
            )
            try:
                await worker.plan(JobSpec(argv=("true",)), owner="", terms=terms)
            except JobError as error:
                _logger.warning("role %s cannot start jobs: %s", rules.name, error)


def _read(config: Config) -> Policy:
    policy = read_policy_of(config)
    return replace(policy, roles=tuple(_on_disks(rules, policy) for rules in policy.roles))


def _on_disks(rules: RoleRules, policy: Policy) -> RoleRules:
    """Return the role with the disks of the paths in its limits: a job's keeper opens none."""
    table = f"role.{rules.name}.limits"
    return replace(
        rules,
        default_limits=resolve_limits(rules.default_limits, f"{table}.default", policy.source),
        ceiling=resolve_limits(rules.ceiling, f"{table}.ceiling", policy.source),
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
