"""The policy in force: read at the start, and again on request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields

from jobruntime.model.admission import Terms
from jobruntime.model.errors import JobError
from jobruntime.model.limits import Limits, merge_limits
from jobruntime.model.policy import Policy, RoleRules
from jobruntime.model.spec import JobSpec
from jobruntime.worker import Worker

from .config import Config
from .policy_accounts import missing_accounts
from .policy_disks import read_policy_on_disks

_logger = logging.getLogger("jobd")


class Policies:
    """Holds the policy; a call is judged by the one that held when it came."""

    def __init__(self, config: Config, disks: Mapping[str, str]) -> None:
        """Read the policy that `config` names; raises JobError (CONFIG_INVALID).

        `disks` are those of paths that this process may not be able to see.
        """
        self._config = config
        self._disks = disks
        self.current: Policy = read_policy_on_disks(config, disks)

    async def reload(self, worker: Worker) -> str:
        """Read the file again and return what has changed; raises JobError with nothing changed."""
        if self._config.policy is None:
            return "the configuration names no file"
        new = await asyncio.to_thread(read_policy_on_disks, self._config, self._disks)
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
