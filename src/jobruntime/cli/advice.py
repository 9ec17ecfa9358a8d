"""What a job's counters call for, in plain lines."""

from __future__ import annotations

from typing import Final

from jobruntime.model.limits import UNLIMITED, Limits
from jobruntime.model.quantities import format_count, format_cpus, format_size
from jobruntime.model.usage import Oom, OomScope, Usage

NEAR_PERCENT: Final = 90
"""From this part of its limit on a job's peak of memory is worth a word."""
THROTTLED_PERCENT: Final = 10
"""From this part of its periods on a job's waiting for CPU time is."""

_UNITS: Final = {name: 1024**power for power, name in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))}


def advise(usage: Usage | None, limits: Limits, oom: Oom | None = None) -> list[str]:
    """Return a line for each limit that the job has come to feel; empty where all is well."""
    usage = usage or Usage()
    lines = [
        _of_oom(limits, oom) or _of_memory(usage, limits),
        _of_memory_high(usage, limits),
        _of_cpu(usage, limits),
        _of_pids(usage, limits),
    ]
    return [line for line in lines if line]


def format_part(part_bytes: int, whole_bytes: int) -> str:
    """Return `1.97 of 2 GiB`: both in the unit of the whole."""
    whole = format_size(whole_bytes)
    unit = _UNITS.get(whole.rpartition(" ")[2])
    if unit is None:
        return f"{format_size(part_bytes)} of {whole}"
    return f"{f'{part_bytes / unit:.2f}'.rstrip('0').rstrip('.')} of {whole}"


def _of_oom(limits: Limits, oom: Oom | None) -> str:
    if oom is None:
        return ""
    if oom.scope is OomScope.ABOVE:
        return (
            "out of memory above it: fewer jobs at once, or a --memory for each of them, leave it "
            "more"
        )
    limit = _set(limits.memory_bytes)  # the present one, which need not be the one it reached
    size = "" if limit is None else f" from {format_size(limit)}"
    return f"out of memory at its limit: --memory raises it{size}"


def _of_memory(usage: Usage, limits: Limits) -> str:
    peak, limit = usage.memory_peak_bytes, _set(limits.memory_bytes)
    if peak is None or limit is None or peak * 100 < limit * NEAR_PERCENT:
        return ""
    met = usage.memory_max_events or 0
    text = f"peak {format_part(peak, limit)}"
    if met:
        # Every time the kernel found something to free, mostly page cache; else there is an OOM.
        return (
            f"{text}: it met the limit {_times(met)} and had to free memory first, which is slow; "
            "--memory raises it"
        )
    return f"{text}: with more it is killed; --memory raises it"


def _of_memory_high(usage: Usage, limits: Limits) -> str:
    events = usage.memory_high_events or 0
    if not events:
        return ""
    limit = _set(limits.memory_high_bytes)
    size = "its limit" if limit is None else format_size(limit)
    return f"slowed {_times(events)} above {size}: --memory-high raises that"


def _of_cpu(usage: Usage, limits: Limits) -> str:
    percent = throttled_percent(usage)
    if percent is None or percent < THROTTLED_PERCENT:
        return ""
    limit = _set(limits.cpu_millis)
    had = "the CPU time that it had" if limit is None else f"{format_cpus(limit)} CPUs"
    return f"throttled {percent:.0f} % of the time: it wants more than {had}; --cpus raises it"


def _of_pids(usage: Usage, limits: Limits) -> str:
    refused = usage.pids_refused or 0
    if not refused:
        return ""
    limit = _set(limits.pids)
    forks = "1 fork" if refused == 1 else f"{refused} forks"
    if limit is None:
        # Kernels before 6.11 count here what the limit of all jobs together has refused.
        return f"{forks} failed at a limit of processes and threads above it, or gone by now"
    return (
        f"{forks} failed at its limit of {format_count(limit)} processes and threads; "
        "--pids raises it"
    )


def throttled_percent(usage: Usage) -> float | None:
    """Return in how many of its periods the job had to wait for CPU time; None: not counted."""
    periods, throttled = usage.cpu_periods, usage.cpu_throttled_periods
    return None if not periods or throttled is None else 100 * throttled / periods


def _set(limit: int | None) -> int | None:
    return None if limit == UNLIMITED else limit


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
