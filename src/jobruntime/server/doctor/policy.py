"""The check of an instance's policy: that it can be read, and that its roles can start jobs."""

from __future__ import annotations

from jobruntime.model.errors import JobError
from jobruntime.server.config import Config
from jobruntime.server.policy_accounts import missing_accounts
from jobruntime.server.policy_check import weak_commands
from jobruntime.server.policy_file import read_policy_of

from .report import Check, Level, failed_with, good, lacking

_NAME = "policy"


def check_policy(config: Config) -> Check:
    """Check it as `jobd policy check` does; of several faults the first is told."""
    try:
        policy = read_policy_of(config)
    except JobError as error:
        return failed_with(_NAME, error)
    missing = sorted(
        missing_accounts(policy, config.users.accounts), key=lambda one: not one.is_forced
    )
    for one in missing:
        level = Level.FAILED if one.is_forced else Level.WARNING
        return Check(_NAME, level, one.cause, one.remedy)
    for warning in weak_commands(policy):
        return lacking(_NAME, warning, f"see jobd policy check --config {config.path}")
    roles = ", ".join(rules.name for rules in policy.roles)
    source = "the built-in one" if config.policy is None else str(config.policy)
    return good(_NAME, f"{source}; roles: {roles}", roles=len(policy.roles))
