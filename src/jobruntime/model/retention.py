"""How long jobs that have ended are kept, and which of them go first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .durations import format_duration
from .quantities import format_size

DEFAULT_SPARE_MS: Final = 3_600_000
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """The operator's rules. A job goes where any of them says so; None: there is no such rule."""

    age_ms: int | None = None
    """One that ended longer ago."""
    count: int | None = None
    """The oldest above so many."""
    size_bytes: int | None = None
    """The oldest, where all of them together have more."""
    spare_ms: int = DEFAULT_SPARE_MS
    """None that ended less than so long ago, whatever the rules and the disk say."""


KEEP_ALL: Final = Retention()


@dataclass(frozen=True, slots=True)
class Kept:
    """The jobs that have ended and are there, all together."""

    count: int
    size_bytes: int


def newest_to_go_ns(rules: Retention, now_ns: int) -> int:
    """Return when the job must have ended that the rules may remove (UTC ns), at the latest."""
    return now_ns - rules.spare_ms * _NS_PER_MS


def why_remove(
    rules: Retention, ended_at_ns: int, kept: Kept, short_bytes: int, now_ns: int
) -> str | None:
    """Return why the oldest job that is not spared has to go, in words; None: it stays.

    `short_bytes` is how much the disk has less than it is to keep free. Where the oldest stays,
    so do all others.
    """
    if rules.age_ms is not None and ended_at_ns <= now_ns - rules.age_ms * _NS_PER_MS:
        return f"it ended {format_duration(rules.age_ms) if rules.age_ms else '0s'} ago or earlier"
    if rules.count is not None and kept.count > rules.count:
        return f"{kept.count} jobs that ended are more than {rules.count}"
    if rules.size_bytes is not None and kept.size_bytes > rules.size_bytes:
        have, most = format_size(kept.size_bytes), format_size(rules.size_bytes)
        return f"the jobs that ended have {have}, more than {most}"
    if short_bytes > 0:
        return f"the free disk is {format_size(short_bytes)} below the reserve"
    return None
