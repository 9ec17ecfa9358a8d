"""How much of a job's output is kept, and what happens where there is no more room for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, unique
from typing import Final

from .errors import JobError, Reason, invalid
from .frames import BLOCK_BYTES

MIN_LOG_BYTES: Final = BLOCK_BYTES
MAX_LOG_BYTES: Final = 1 << 60


@unique
class LogFull(StrEnum):
    """What is done with output once the log has its size, or the disk has no room."""

    DROP_OLDEST = "drop-oldest"
    """The oldest of the log makes room. Where the disk itself is full, as STOP_RECORDING."""
    STOP_RECORDING = "stop-recording"
    """What comes is dropped: for good where the log has its size, else until there is room."""
    BLOCK = "block"
    """The job waits in its next write, as if nobody read its pipe, until there is room."""


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """Bounds of one job's log; None: not said."""

    max_bytes: int | None = None
    on_full: LogFull | None = None


NO_POLICY: Final = LogPolicy()


def check_log_policy(policy: LogPolicy) -> None:
    """Refuse a size that no log can have; raises JobError (INVALID_ARGUMENT)."""
    size = policy.max_bytes
    if size is not None and not MIN_LOG_BYTES <= size <= MAX_LOG_BYTES:
        raise invalid(
            f"cannot keep a log within {size} bytes", f"give {MIN_LOG_BYTES} (1M) to 1024P"
        )


def resolve_log_policy(default: LogPolicy, asked: LogPolicy, ceiling: int | None) -> LogPolicy:
    """Return what holds for a job that asks for `asked`: every field but an endless size is set.

    Raises JobError (LIMIT_ABOVE_CEILING).
    """
    size = default.max_bytes if asked.max_bytes is None else asked.max_bytes
    if ceiling is not None:
        if asked.max_bytes is not None and asked.max_bytes > ceiling:
            raise JobError(
                Reason.LIMIT_ABOVE_CEILING,
                f"cannot keep a log of {asked.max_bytes} bytes: the most here is {ceiling}",
                "ask for less, or the operator for a higher `ceiling` in [logs]",
            )
        size = ceiling if size is None else min(size, ceiling)
    return replace(
        asked, max_bytes=size, on_full=asked.on_full or default.on_full or LogFull.DROP_OLDEST
    )


def encode_log_policy(policy: LogPolicy) -> list[object]:
    """Return `policy` as JSON-ready values; `parse_log_policy` is the inverse."""
    return [policy.max_bytes, None if policy.on_full is None else policy.on_full.value]


def parse_log_policy(raw: object) -> LogPolicy:
    """Return what `encode_log_policy` wrote; raises ValueError for anything else."""
    match raw:
        case None:  # what an older version wrote
            return NO_POLICY
        case [int() | None as size, str() | None as full]:
            return LogPolicy(size, None if full is None else LogFull(full))
        case _:
            raise ValueError(f"not the bounds of a log: {raw!r}")
