"""The part of the configuration that says as whom jobs run: `[jobs]`."""

from __future__ import annotations

from dataclasses import dataclass

from jobruntime.model.errors import JobError
from jobruntime.model.rlimits import DEFAULT_RLIMITS, Rlimits, parse_rlimits

from .config_table import Table, as_key


@dataclass(frozen=True, slots=True)
class UserConfig:
    """Accounts of the host that jobs may be given at all, and every job's resource limits."""

    accounts: tuple[str, ...]
    rlimits: Rlimits


def users_of(jobs: Table) -> UserConfig:
    """Return what the table says; raises JobError (CONFIG_INVALID)."""
    return UserConfig(jobs.texts("accounts") or (), _rlimits_of(jobs))


def _rlimits_of(jobs: Table) -> Rlimits:
    table = jobs.table("rlimits")
    found = dict(DEFAULT_RLIMITS)
    for name, value in table.entries().items():
        try:
            found |= parse_rlimits({name: value})
        except JobError as error:
            raise as_key(table, name, error) from error
    return found
