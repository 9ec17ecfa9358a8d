"""The tables [logs] and [retention] of `jobd.toml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from jobruntime.model.errors import JobError
from jobruntime.model.log_policy import LogFull, LogPolicy, check_log_policy
from jobruntime.model.retention import DEFAULT_SPARE_MS, Retention

from .config_table import Table, as_key

DEFAULT_FOLLOWERS: Final = 4096
_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,3})?)%")


@dataclass(frozen=True, slots=True)
class LogsConfig:
    """What the operator allows jobs' logs, and their followers."""

    default: LogPolicy
    ceiling_bytes: int | None
    reserve_bytes: int | None
    reserve_percent: float | None
    """Of the disk; at most one of the two is there."""
    followers_per_user: int


def logs_of(table: Table) -> LogsConfig:
    """Return what [logs] says; raises JobError (CONFIG_INVALID)."""
    default, ceiling = role_logs_of(table)
    followers = table.count("followers_per_user")
    reserve_bytes, reserve_percent = _reserve(table)
    return LogsConfig(
        default=default,
        ceiling_bytes=ceiling,
        reserve_bytes=reserve_bytes,
        reserve_percent=reserve_percent,
        followers_per_user=DEFAULT_FOLLOWERS if followers is None else followers,
    )


def role_logs_of(table: Table) -> tuple[LogPolicy, int | None]:
    """Return default and ceiling in a role's table of the policy; raises JobError."""
    most, ceiling = _log_size(table, "max"), _log_size(table, "ceiling")
    if most is not None and ceiling is not None and most > ceiling:
        raise table.bad("max", "it is more than the ceiling", "give less, or a higher ceiling")
    return LogPolicy(most, _full(table)), ceiling


def retention_of(table: Table) -> Retention:
    """Return what [retention] says; raises JobError (CONFIG_INVALID)."""
    age, spare = table.duration_ms("age"), table.duration_ms("spare")
    if age is not None and spare is not None and spare > age:
        raise table.bad("spare", "it is more than the age", "give less, or a higher age")
    if spare is None:
        spare = DEFAULT_SPARE_MS if age is None else min(age, DEFAULT_SPARE_MS)
    return Retention(age, table.count("count"), table.size_bytes("size"), spare)


def _log_size(table: Table, key: str) -> int | None:
    size = table.size_bytes(key)
    try:
        check_log_policy(LogPolicy(size))
    except JobError as error:
        raise as_key(table, key, error) from error
    return size


def _full(table: Table) -> LogFull | None:
    if not table.has("full"):
        return None
    try:
        return LogFull(table.text("full", ""))
    except ValueError as error:
        known = ", ".join(f'"{full}"' for full in LogFull)
        raise table.bad("full", "there is no such policy", f"give one of {known}") from error


def _reserve(table: Table) -> tuple[int | None, float | None]:
    if table.has("reserve") and (found := _PERCENT.fullmatch(table.text("reserve", ""))):
        return None, float(found[1])
    return table.size_bytes("reserve"), None
