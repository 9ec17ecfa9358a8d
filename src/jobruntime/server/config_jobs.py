"""The part of the configuration that says as whom jobs run: `[jobs]`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

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
    rlimits = {**DEFAULT_RLIMITS, **rlimits_of(jobs.table("rlimits"))}
    return UserConfig(jobs.texts("accounts") or (), MappingProxyType(rlimits))


def rlimits_of(table: Table) -> Rlimits:
    """Return the resource limits in a table; raises JobError (CONFIG_INVALID)."""
    found: dict[str, tuple[int, int]] = {}
    for name, value in table.entries().items():
        try:
            found |= parse_rlimits({name: value})
        except JobError as error:
            raise as_key(table, name, error) from error
    return MappingProxyType(found)
