"""Points in time as people write them: RFC 3339, Unix time, or `10m` for that long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from .durations import parse_duration_ms
from .errors import JobError, invalid

_NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_UNIX: Final = 253_402_300_799
"""The last second of the year 9999, where RFC 3339 ends."""
_UNIX = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?")
_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-][0-9]{2}:[0-9]{2}))"
)


def parse_instant_ns(text: str, now_ns: int) -> int:
    """Return the UTC nanoseconds since 1970 that `text` names; a duration counts back from now.

    A bare number is Unix time in seconds. Raises JobError (INVALID_ARGUMENT).
    """
    if found := _UNIX.fullmatch(text):
        seconds = int(found[1])
        if seconds > _MAX_UNIX:
            raise _bad(text)
        return seconds * _NS + _fraction_ns(found[2])
    if found := _RFC_3339.fullmatch(text):
        try:
            at = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[4] or '+00:00'}")
        except ValueError as error:
            raise _bad(text) from error
        return (at - _EPOCH) // timedelta(seconds=1) * _NS + _fraction_ns(found[3])
    try:
        return now_ns - parse_duration_ms(text) * 1_000_000
    except JobError as error:
        raise _bad(text) from error


def _fraction_ns(digits: str | None) -> int:
    return int((digits or "0").ljust(9, "0"))


def _bad(text: str) -> JobError:
    return invalid(
        f"cannot read the time {text[:64]!r}",
        "write it as 2022-01-24T10:00:00Z or with an offset (+01:00), as Unix time in seconds "
        "(1643018400.5), or as 10m for that long ago",
    )
