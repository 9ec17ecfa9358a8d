"""What a job has used, as jobc tells it: rows to read, a line for each sample, and JSON.

What the server's host does not count is `-` or null, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Final

from jobruntime.model.limits import UNLIMITED, Limits
from jobruntime.model.quantities import format_cpus, format_size
from jobruntime.model.state import State
from jobruntime.model.usage import Usage

from .advice import throttled_percent
from .times import span_text

NOT_COUNTED: Final = "-"
_NO_LIMIT: Final = "max"
_COLUMNS: Final = (
    ("TIME", 8),
    ("CPU %", 7),
    ("THROTTLED %", 11),
    ("MEMORY / MAX", 21),
    ("MEM %", 6),
    ("PIDS / MAX", 13),
    ("READ/s", 10),
    ("WRITE/s", 10),
)
_NS: Final = 1_000_000_000


def usage_json(usage: Usage | None) -> dict[str, int | None]:
    """Return every field of the API's Usage, null where nothing was counted."""
    if usage is None:
        return dict.fromkeys(field.name for field in fields(Usage))
    return {field.name: getattr(usage, field.name) for field in fields(usage)}


def usage_rows(usage: Usage | None, limits: Limits, state: State) -> list[tuple[str, str]]:
    """Return names and texts of what was counted, beside the limits that it may reach."""
    time = NOT_COUNTED if usage is None else span_text(usage.wall_ns)
    used = usage or Usage()
    ended = state is State.TERMINATED
    high = _bound("high", limits.memory_high_bytes, format_size)
    refused = [f"refused: {used.pids_refused}"] if used.pids_refused else []
    return [
        ("Time", time),
        ("CPU", _cpu(used, limits)),
        (
            "Memory",
            _level(
                None if ended else _size(used.memory_bytes),
                _size(used.memory_peak_bytes),
                _bound("max", limits.memory_bytes, format_size) + high,
            ),
        ),
        (
            "Swap",
            _level(
                None if ended else _size(used.swap_bytes),
                _size(used.swap_peak_bytes),
                _bound("max", limits.swap_bytes, format_size),
            ),
        ),
        (
            "Pids",
            _level(
                None if ended else _count(used.pids),
                _count(used.pids_peak),
                _bound("max", limits.pids, str) + refused,
            ),
        ),
        ("I/O", _io(used)),
    ]


def header() -> str:
    """Return the head of the table of samples."""
    return _line([name for name, _ in _COLUMNS], "STATE")


def sample_line(before: Usage | None, usage: Usage | None, limits: Limits, state: State) -> str:
    """Return the line of one sample; rates and percentages are of the time since `before`."""
    time = NOT_COUNTED if usage is None else span_text(usage.wall_ns)
    usage = usage or Usage()
    since = usage if before is None else _difference(before, usage)
    memory, pids = usage.memory_bytes, usage.pids
    cells = [
        time,
        # Without a sample before there is no rate: its average would hide what goes on now.
        _number(None if before is None else cpu_percent(since), "{:.1f}"),
        _number(None if before is None else throttled_percent(since), "{:.1f}"),
        f"{_size(memory)} / {_most(limits.memory_bytes, format_size)}",
        _number(_percent(memory, limits.memory_bytes), "{:.1f}"),
        f"{_count(pids)} / {_most(limits.pids, str)}",
        _rate(None if before is None else since.io_read_bytes, since.wall_ns),
        _rate(None if before is None else since.io_write_bytes, since.wall_ns),
    ]
    return _line(cells, str(state))


def cpu_percent(usage: Usage) -> float | None:
    """Return the CPU time as percent of the wall time: 150 is one and a half CPUs."""
    if usage.cpu_us is None or usage.wall_ns <= 0:
        return None
    return 100 * usage.cpu_us * 1000 / usage.wall_ns


def _difference(before: Usage, now: Usage) -> Usage:
    """Return what came in between; nothing where a counter is not there both times."""
    values = {}
    for field in fields(Usage):
        old, new = getattr(before, field.name), getattr(now, field.name)
        if old is not None and new is not None:
            values[field.name] = max(0, new - old)
    return Usage(**values)


def _line(cells: list[str], last: str) -> str:
    widths = [width for _, width in _COLUMNS]
    aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([*aligned, last])


def _cpu(usage: Usage, limits: Limits) -> str:
    details = [f"max: {format_cpus(limit)} CPUs"] if (limit := _given(limits.cpu_millis)) else []
    if usage.cpu_us is None:
        return _with_details(NOT_COUNTED, details)
    average = cpu_percent(usage)
    share = "" if average is None else f", {average:.1f} % of a CPU on average"
    throttled = throttled_percent(usage)
    if throttled is not None:
        waited = _cpu_time(usage.cpu_throttled_us)
        details.append(f"throttled: {throttled:.0f} % of the time, {waited}")
    user, system = _cpu_time(usage.cpu_user_us), _cpu_time(usage.cpu_system_us)
    return _with_details(
        _cpu_time(usage.cpu_us) + share, [f"user: {user}", f"system: {system}", *details]
    )


def _level(now: str | None, peak: str, details: list[str]) -> str:
    """Return what is in use now; of a job that has ended the most that ever was."""
    if now is None:
        return _with_details(peak if peak == NOT_COUNTED else f"peak {peak}", details)
    if now == peak == NOT_COUNTED:
        return _with_details(now, details)
    return _with_details(now, [*details, f"peak: {peak}"])


def _io(usage: Usage) -> str:
    counted = (usage.io_read_bytes, usage.io_write_bytes, usage.io_reads, usage.io_writes)
    if all(counter is None for counter in counted):
        return NOT_COUNTED
    return (
        f"read {_size(usage.io_read_bytes)} in {_count(usage.io_reads)} operations, "
        f"written {_size(usage.io_write_bytes)} in {_count(usage.io_writes)}"
    )


def _with_details(value: str, details: list[str]) -> str:
    return f"{value} ({', '.join(details)})" if details else value


def _bound(name: str, limit: int | None, form: Callable[[int], str]) -> list[str]:
    return [] if (given := _given(limit)) is None else [f"{name}: {form(given)}"]


def _given(limit: int | None) -> int | None:
    return None if limit == UNLIMITED else limit


def _most(limit: int | None, form: Callable[[int], str]) -> str:
    return _NO_LIMIT if (given := _given(limit)) is None else form(given)


def _percent(part: int | None, whole: int | None) -> float | None:
    given = _given(whole)
    return None if part is None or not given else 100 * part / given


def _rate(part: int | None, wall_ns: int) -> str:
    if part is None or wall_ns <= 0:
        return NOT_COUNTED
    return format_size(part * _NS // wall_ns)


def _number(value: float | None, form: str) -> str:
    return NOT_COUNTED if value is None else form.format(value)


def _size(size_bytes: int | None) -> str:
    return NOT_COUNTED if size_bytes is None else format_size(size_bytes)


def _count(count: int | None) -> str:
    return NOT_COUNTED if count is None else str(count)


def _cpu_time(cpu_us: int | None) -> str:
    return NOT_COUNTED if cpu_us is None else span_text(cpu_us * 1000)
