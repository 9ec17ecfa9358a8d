"""Durations as people write them: `500ms`, `90s`, `2m`, `1h30m`."""

from __future__ import annotations

import re

from .errors import JobError, invalid

MAX_MS = 100 * 365 * 24 * 3600 * 1000
"""The longest duration that is accepted, in milliseconds: 100 years, far below any overflow."""

_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds that `text` names; a number must carry its unit, except `0`.

    Raises JobError (INVALID_ARGUMENT) for anything else, and for more than `MAX_MS`.
    """
    if text == "0":
        return 0
    if not _WHOLE.fullmatch(text):
        raise _bad(text)
    total = sum(float(number) * _UNIT_MS[unit] for number, unit in _PART.findall(text))
    if total > MAX_MS:
        raise _bad(text)
    return round(total)


def format_duration(duration_ms: int) -> str:
    """Return the shortest text that `parse_duration_ms` reads back as `duration_ms`."""
    if duration_ms == 0:
        return "0"
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, duration_ms = divmod(duration_ms, _UNIT_MS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _bad(text: str) -> JobError:
    return invalid(f"cannot read the duration {text!r}", "write it as 500ms, 90s, 2m or 1h30m")
