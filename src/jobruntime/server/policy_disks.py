"""The policy with the disks of the paths in its limits: a job's keeper opens none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jobruntime.model.errors import JobError
from jobruntime.model.io_rates import devices_of
from jobruntime.model.policy import Policy, RoleRules
from jobruntime.worker.operator_limits import NO_DISKS, resolve_limits

from .config import Config
from .policy_file import read_policy_of


def read_policy_on_disks(config: Config, known: Mapping[str, str] = NO_DISKS) -> Policy:
    """Return the policy that `config` names; those disks that are `known` are not looked up.

    Raises JobError (CONFIG_INVALID) that names file and key.
    """
    policy = read_policy_of(config)
    file = str(config.policy)
    return replace(policy, roles=tuple(_on_disks(rules, file, known) for rules in policy.roles))


def disks_of_policy(config: Config) -> dict[str, str]:
    """Return the disk of each path in the policy; none where it cannot be used, which serve tells.

    For root, who sees paths that the server's user does not.
    """
    try:
        roles = read_policy_on_disks(config).roles
    except JobError:
        return {}
    tables = (limits for rules in roles for limits in (rules.default_limits, rules.ceiling))
    return devices_of(rate for limits in tables for rate in limits.io)


def _on_disks(rules: RoleRules, file: str, known: Mapping[str, str]) -> RoleRules:
    table = f"roles.{rules.name}.limits"
    return replace(
        rules,
        default_limits=resolve_limits(rules.default_limits, f"{table}.default", file, known),
        ceiling=resolve_limits(rules.ceiling, f"{table}.ceiling", file, known),
    )
