"""Times and spans of time as jobc prints them."""

from __future__ import annotations

from time import gmtime, strftime
from typing import Final

_NS: Final = 1_000_000_000


def time_text(at_ns: int) -> str:
    """Return UTC nanoseconds since 1970 as RFC 3339, all of them."""
    seconds, nanos = divmod(at_ns, _NS)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{nanos:09d}Z"


def span_text(span_ns: int) -> str:
    """Return a span of time to read, rounded down: `310ms`, `4.21s`, `2h3m4s`."""
    if span_ns < _NS:
        return f"{span_ns // 1_000_000}ms"
    if span_ns < 60 * _NS:
        return f"{span_ns // 10_000_000 / 100:.2f}s"
    from jobruntime.model.durations import format_duration

    return format_duration(span_ns // _NS * 1000)
