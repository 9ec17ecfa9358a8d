"""The limits of a job: what may be asked for, its rules, and its form on disk.

`None` means that a limit is not set, which differs from every number; `UNLIMITED` means that there
is to be none, whatever a default says. Memory is in bytes, as the kernel's files have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum, unique
from typing import Final

from .errors import JobError, Reason, invalid
from .quantities import format_count, format_cpus, format_size, parse_cpuset

UNLIMITED: Final = (1 << 63) - 1
"""Larger than every limit that can be asked for, so that ceilings compare as they should."""
PAGE_BYTES: Final = 4096
MAX_BYTES: Final = 1 << 60
MAX_IO_DEVICES: Final = 64
DEFAULT_WEIGHT: Final = 100
"""What the kernel gives to a group without a weight of its own."""


@unique
class Controller(StrEnum):
    """A cgroup v2 controller."""

    CPU = "cpu"
    CPUSET = "cpuset"
    IO = "io"
    MEMORY = "memory"
    PIDS = "pids"


@dataclass(frozen=True, slots=True)
class Kind:
    """One limit that is a number: its flag, its controller and file, its range, how it is read."""

    flag: str
    controller: Controller
    file: str
    lowest: int
    highest: int
    format: Callable[[int], str]
    may_be_unlimited: bool = True


KINDS: Final[Mapping[str, Kind]] = {
    # The kernel takes no quota below 1 ms (cgroup-v2.rst), so 0.01 CPUs of a period of 100 ms.
    "cpu_millis": Kind("--cpus", Controller.CPU, "cpu.max", 10, 8_192_000, format_cpus),
    "cpu_weight": Kind(
        "--cpu-weight",
        Controller.CPU,
        "cpu.weight",
        1,
        10_000,
        format_count,
        may_be_unlimited=False,
    ),
    "memory_bytes": Kind(
        "--memory", Controller.MEMORY, "memory.max", PAGE_BYTES, MAX_BYTES, format_size
    ),
    "memory_high_bytes": Kind(
        "--memory-high", Controller.MEMORY, "memory.high", PAGE_BYTES, MAX_BYTES, format_size
    ),
    "memory_swap_bytes": Kind(
        "--memory-swap", Controller.MEMORY, "memory.swap.max", PAGE_BYTES, MAX_BYTES, format_size
    ),
    # The most that Linux has on 64-bit machines (PID_MAX_LIMIT).
    "pids": Kind("--pids", Controller.PIDS, "pids.max", 1, 1 << 22, format_count),
    "io_weight": Kind(
        "--io-weight", Controller.IO, "io.weight", 1, 10_000, format_count, may_be_unlimited=False
    ),
}
"""The limits that are one number, by the name of their field in `Limits`."""

IO_RATES: Final[Mapping[str, tuple[str, str, int]]] = {
    "read_bps": ("--io-read-bps", "rbps", MAX_BYTES),
    "write_bps": ("--io-write-bps", "wbps", MAX_BYTES),
    "read_iops": ("--io-read-iops", "riops", (1 << 32) - 2),
    "write_iops": ("--io-write-iops", "wiops", (1 << 32) - 2),
}
"""Fields of `IoLimit`: flag, key in io.max, and the highest rate."""


@dataclass(frozen=True, slots=True)
class IoLimit:
    """The most that a job may read and write each second on one block device.

    `path` names the device itself or any file on it.
    """

    path: str
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job may use; every field may be None, not set."""

    cpu_millis: int | None = None
    """Thousandths of a CPU: 1500 is one and a half."""
    cpu_weight: int | None = None
    """Its share where CPUs are short, against 100 for a job without one."""
    cpuset: str | None = None
    """The CPUs that it may run on, as `0-3,6`; empty: all."""
    memory_bytes: int | None = None
    """Above it, something of the job is killed. Alone, it also forbids swap."""
    memory_high_bytes: int | None = None
    """Above it, the job is slowed."""
    memory_swap_bytes: int | None = None
    """Memory and swap together, as docker's --memory-swap; needs `memory_bytes`."""
    pids: int | None = None
    """Processes and threads at once."""
    io_weight: int | None = None
    """Its share where a disk is busy, against 100 for a job without one."""
    io: tuple[IoLimit, ...] = ()
    oom_group: bool | None = None
    """Whether running out of memory ends the whole job instead of one process; not set: yes."""

    @property
    def swap_bytes(self) -> int | None:
        """What may be swapped (memory.swap.max); None: nothing is said about it."""
        if self.memory_bytes in (None, UNLIMITED):
            return self.memory_bytes
        if self.memory_swap_bytes is None:
            return 0
        if self.memory_swap_bytes == UNLIMITED:
            return UNLIMITED
        return self.memory_swap_bytes - (self.memory_bytes or 0)


NO_LIMITS: Final = Limits()
"""Nothing is set."""


def check_limits(limits: Limits) -> None:
    """Refuse a value that no host could take; raises JobError (INVALID_ARGUMENT)."""
    for name, kind in KINDS.items():
        value: int | None = getattr(limits, name)
        if value is None or (value == UNLIMITED and kind.may_be_unlimited):
            continue
        if not kind.lowest <= value <= kind.highest:
            raise invalid(
                f"cannot limit a job to {kind.flag} {kind.format(value)}",
                f"give {kind.format(kind.lowest)} to {kind.format(kind.highest)}",
            )
    if limits.cpuset:
        parse_cpuset(limits.cpuset)
    _check_io(limits.io)


def check_together(limits: Limits) -> None:
    """Refuse limits that contradict each other, defaults included; raises JobError."""
    memory, swap, high = limits.memory_bytes, limits.memory_swap_bytes, limits.memory_high_bytes
    if swap is not None and memory in (None, UNLIMITED):
        raise invalid(
            "cannot limit memory and swap together (--memory-swap) without a limit of memory",
            "give --memory too",
        )
    if swap is not None and memory is not None and swap < memory:
        raise invalid(
            f"cannot limit memory and swap together to {format_size(swap)}: "
            f"--memory alone is {format_size(memory)}",
            "--memory-swap is the total of both: the same as --memory forbids swap",
        )
    if (
        None not in (high, memory)
        and memory != UNLIMITED
        and UNLIMITED > (high or 0) >= (memory or 0)
    ):
        raise invalid(
            f"cannot slow a job at {format_size(high or 0)}: its limit of memory is "
            f"{format_size(memory or 0)}, so that would never happen",
            "give a --memory-high below --memory",
        )


def merge_limits(base: Limits, over: Limits) -> Limits:
    """Return `base` with everything that `over` sets in its place, of I/O each rate of a path."""
    given = {
        field.name: value
        for field in fields(over)
        if field.name != "io" and (value := getattr(over, field.name)) is not None
    }
    # A total that was chosen for another limit of memory means nothing for the new one.
    if over.memory_bytes is not None and over.memory_swap_bytes is None:
        given["memory_swap_bytes"] = None
    return replace(base, io=join_rates((*base.io, *over.io)), **given)


def join_rates(rates: Iterable[IoLimit]) -> tuple[IoLimit, ...]:
    """Return one entry for each path; of a rate that is given twice the last counts."""
    found: dict[str, IoLimit] = {}
    for rate in rates:
        given = {name: value for name in IO_RATES if (value := getattr(rate, name)) is not None}
        found[rate.path] = replace(found.get(rate.path, IoLimit(rate.path)), **given)
    return tuple(found.values())


def _server(_: str) -> str:
    return "this server"


def check_ceiling(limits: Limits, ceiling: Limits, rule: Callable[[str], str] = _server) -> Limits:
    """Return `limits`, bounded by the operator's `ceiling` where they say nothing.

    Raises JobError (LIMIT_ABOVE_CEILING) where more is asked for; `rule` says who allows no more,
    given the limit's name in the configuration.
    """
    bounded: dict[str, int] = {}
    for name, kind in KINDS.items():
        most: int | None = getattr(ceiling, name)
        asked: int | None = getattr(limits, name)
        if most is None:
            continue
        if asked is not None and asked > most:
            raise _above(kind.flag, _shown(kind, asked), kind.format(most), rule)
        # A job that says nothing has no limit, or the weight 100; of swap it has none. Where its
        # memory ends at or below the ceiling of --memory-high, it never comes to that one.
        if name == "memory_high_bytes" and (limits.memory_bytes or UNLIMITED) <= most:
            continue
        if asked is None and name != "memory_swap_bytes":
            bounded[name] = most if kind.may_be_unlimited else min(most, DEFAULT_WEIGHT)
    return replace(
        limits,
        cpuset=_bounded_cpuset(limits.cpuset, ceiling.cpuset, rule),
        io=_bounded_io(limits.io, ceiling.io, rule),
        **bounded,  # type: ignore[arg-type] # all of these fields are numbers
    )


def _bounded_cpuset(asked: str | None, most: str | None, rule: Callable[[str], str]) -> str | None:
    if not most or asked is None:
        return asked if asked is not None else most
    if asked == "" or not parse_cpuset(asked) <= parse_cpuset(most):
        raise _above("--cpuset", asked or "max", most, rule)
    return asked


def _bounded_io(
    asked: tuple[IoLimit, ...], ceiling: tuple[IoLimit, ...], rule: Callable[[str], str]
) -> tuple[IoLimit, ...]:
    # Two paths on one disk are met where they are resolved: there the stricter rate holds.
    found = {limit.path: limit for limit in asked}
    for most in ceiling:
        own = found.get(most.path, IoLimit(most.path))
        for name, (flag, _, _) in IO_RATES.items():
            rate: int | None = getattr(most, name)
            wanted: int | None = getattr(own, name)
            if rate is not None and wanted is not None and wanted > rate:
                shown = "max" if wanted == UNLIMITED else str(wanted)
                raise _above(flag, f"{most.path}:{shown}", str(rate), rule)
            if rate is not None and wanted is None:
                own = replace(own, **{name: rate})  # type: ignore[arg-type] # these are numbers
        found[most.path] = own
    return tuple(found.values())


def _shown(kind: Kind, value: int) -> str:
    return "max" if value == UNLIMITED else kind.format(value)


def _above(flag: str, asked: str, most: str, rule: Callable[[str], str]) -> JobError:
    key = flag.removeprefix("--").replace("-", "_")
    return JobError(
        Reason.LIMIT_ABOVE_CEILING,
        f"cannot run a job with {flag} {asked}: {rule(key)} allows at most {most}",
        f"give {most} or less",
    )


def encode_limits(limits: Limits) -> dict[str, object]:
    """Return what is set as JSON-ready values; `parse_limits` is the inverse."""
    raw: dict[str, object] = {
        field.name: value
        for field in fields(limits)
        if field.name != "io" and (value := getattr(limits, field.name)) is not None
    }
    if limits.io:
        raw["io"] = [[io.path, *(getattr(io, name) for name in IO_RATES)] for io in limits.io]
    return raw


def parse_limits(raw: object) -> Limits:
    """Return what `encode_limits` wrote; raises ValueError or TypeError for anything else."""
    if not isinstance(raw, dict):
        raise ValueError("not limits")
    values = dict(raw)
    if "io" in values:
        values["io"] = tuple(IoLimit(*entry) for entry in values["io"])
    return Limits(**values)


def _check_io(io: tuple[IoLimit, ...]) -> None:
    if len(io) > MAX_IO_DEVICES:
        raise invalid(f"cannot limit {len(io)} paths", f"give at most {MAX_IO_DEVICES}")
    for limit in io:
        if not limit.path.startswith("/") or "\0" in limit.path:
            raise invalid(
                f"cannot limit the device of {limit.path[:256]!r}",
                "give the absolute path of a block device or of a file on it",
            )
        for name, (flag, _, highest) in IO_RATES.items():
            rate: int | None = getattr(limit, name)
            if rate is not None and rate != UNLIMITED and not 1 <= rate <= highest:
                raise invalid(
                    f"cannot limit a job to {flag} {limit.path}:{rate}", f"give 1 to {highest}"
                )
    if len({limit.path for limit in io}) != len(io):
        raise invalid("cannot limit one path twice", "give all its rates together")
