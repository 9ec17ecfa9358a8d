"""What a job has used: counters of its cgroup, live and as the receipt at its end."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum, unique


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has used so far, all of its processes together. None: this host did not count it.

    The sources are the files of cgroup v2 (cgroup-v2.rst); times are in microseconds of CPU.
    """

    wall_ns: int = 0
    """Time since the job's start on the monotonic clock."""
    cpu_us: int | None = None
    cpu_user_us: int | None = None
    cpu_system_us: int | None = None
    cpu_periods: int | None = None
    """Periods of 100 ms in which the job ran under a limit of CPU time."""
    cpu_throttled_periods: int | None = None
    """Those of them at whose end it had to wait."""
    cpu_throttled_us: int | None = None
    memory_bytes: int | None = None
    """In use now; of a job that has ended None."""
    memory_peak_bytes: int | None = None
    swap_bytes: int | None = None
    swap_peak_bytes: int | None = None
    memory_high_events: int | None = None
    """How often the job was slowed because it was above --memory-high."""
    memory_max_events: int | None = None
    """How often it met its limit of memory, of which most ended well."""
    pids: int | None = None
    pids_peak: int | None = None
    pids_refused: int | None = None
    """How often a fork failed because of --pids."""
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    io_reads: int | None = None
    io_writes: int | None = None


@unique
class OomScope(StrEnum):
    """Whose limit of memory was reached."""

    JOB = "job"
    ABOVE = "above"
    """That of all jobs together, of a group above them, or the host's memory itself."""


@dataclass(frozen=True, slots=True)
class Oom:
    """The kernel's out-of-memory killer hit the job."""

    scope: OomScope
    kills: int
    """What the kernel has counted (oom_kill), which may be more than the processes that died."""
    leader: bool
    """It killed the job's first process, and so ended the job."""


def encode_usage(usage: Usage) -> dict[str, int]:
    """Return what was counted as JSON-ready values; `parse_usage` is the inverse."""
    return {
        field.name: value
        for field in fields(usage)
        if (value := getattr(usage, field.name)) is not None
    }


def parse_usage(raw: object) -> Usage:
    """Return what `encode_usage` wrote; raises ValueError or TypeError for anything else.

    Counters of a newer version are left out: a record only ever grows.
    """
    if not isinstance(raw, dict):
        raise ValueError("not a job's usage")
    known = {field.name for field in fields(Usage)}
    return Usage(**{name: int(value) for name, value in raw.items() if name in known})
