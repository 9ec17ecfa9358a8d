"""The table [audit] of `jobd.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Final

from .config_table import Table

DEFAULT_MAX_BYTES: Final = 64 << 20
DEFAULT_KEEP: Final = 30
DEFAULT_SYNC_MS: Final = 1000
_LEAST_BYTES: Final = 64 << 10


@unique
class Argv(StrEnum):
    """What of a started job's command is written."""

    FULL = "full"
    PROGRAM = "program"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Where the record of calls is, and how it is kept.

    A file that has `max_bytes` or is `age_ms` old is followed by a new one; `keep` old ones stay.
    `sync_ms` is how long a line may wait for the disk; 0: each answer waits for its line.
    """

    path: Path
    max_bytes: int = DEFAULT_MAX_BYTES
    age_ms: int | None = None
    keep: int = DEFAULT_KEEP
    argv: Argv = Argv.PROGRAM
    sync_ms: int = DEFAULT_SYNC_MS


def audit_of(table: Table, state_dir: Path) -> AuditConfig:
    """Return what [audit] says; raises JobError (CONFIG_INVALID)."""
    path = table.path("path", str(state_dir / "audit" / "audit.jsonl"))
    most, keep, sync_ms = table.size_bytes("max"), table.count("keep"), table.duration_ms("sync")
    if most is not None and most < _LEAST_BYTES:
        raise table.bad("max", f"it is less than {_LEAST_BYTES} bytes", "give more")
    age_ms = table.duration_ms("age")
    if age_ms == 0:
        raise table.bad("age", "it is 0", "give more, or leave it out")
    return AuditConfig(
        path=path,
        max_bytes=DEFAULT_MAX_BYTES if most is None else most,
        age_ms=age_ms,
        keep=DEFAULT_KEEP if keep is None else keep,
        argv=_argv(table),
        sync_ms=DEFAULT_SYNC_MS if sync_ms is None else sync_ms,
    )


def _argv(table: Table) -> Argv:
    text = table.text("argv", Argv.PROGRAM)
    try:
        return Argv(text)
    except ValueError as error:
        known = ", ".join(f'"{argv}"' for argv in Argv)
        raise table.bad("argv", "there is no such choice", f"give one of {known}") from error
