"""The limits of a job: what may be asked for, its rules, and its form on disk.

`None` means that a limit is not set, which differs from every number; `UNLIMITED` means that there
is to be none, whatever a default says. Memory is in bytes, as the kernel's files have it.
"""

from __future__ import annotations

import re
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
SERVER: Final = "this server"
"""Whose ceiling it is that the operator sets for all."""
_DEVICE: Final = re.compile(r"[0-9]{1,9}:[0-9]{1,9}")


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
    device: str | None = None
    """`MAJOR:MINOR` of the disk, once the path was followed to it; never part of a request."""


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


def check_together(limits: Limits, asked: Limits | None = None) -> None:
    """Refuse limits that contradict each other, defaults included; raises JobError.

    A --memory-high that only a default, a ceiling or an earlier time has set is no contradiction to
    the --memory that is `asked` for (None: everything in `limits` is): it has no effect.
    """
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
    is_asked = asked is None or asked.memory_high_bytes is not None
    if (
        is_asked
        and None not in (high, memory)
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
        given = {
            name: value
            for name in (*IO_RATES, "device")
            if (value := getattr(rate, name)) is not None
        }
        found[rate.path] = replace(found.get(rate.path, IoLimit(rate.path)), **given)
    return tuple(found.values())


def _server(_: str) -> str:
    return SERVER


def check_ceiling(
    limits: Limits,
    ceiling: Limits,
    rule: Callable[[str], str] = _server,
    *,
    what: str = "run a job with",
) -> Limits:
    """Return `limits`, bounded by the operator's `ceiling` where they say nothing.

    Not of I/O rates, see io_rates.py. Raises JobError (LIMIT_ABOVE_CEILING) where more is asked
    for: `what` was to be done, and `rule` says who allows no more, given the limit's name in the
    configuration.
    """
    bounded: dict[str, int] = {}
    for name, kind in KINDS.items():
        most: int | None = getattr(ceiling, name)
        asked: int | None = getattr(limits, name)
        if most is None:
            continue
        if asked is not None and asked > most:
            shown = f"{what} {kind.flag} {_shown(kind, asked)}"
            raise above_ceiling(shown, kind.format(most), rule(_key(kind.flag)))
        # A job that says nothing has no limit, or the weight 100; of swap it has none. Where its
        # memory ends at or below the ceiling of --memory-high, it never comes to that one.
        if name == "memory_high_bytes" and (limits.memory_bytes or UNLIMITED) <= most:
            continue
        if asked is None and name != "memory_swap_bytes":
            bounded[name] = most if kind.may_be_unlimited else min(most, DEFAULT_WEIGHT)
    return replace(
        limits,
        cpuset=_bounded_cpuset(limits.cpuset, ceiling.cpuset, rule, what),
        **bounded,  # type: ignore[arg-type] # all of these fields are numbers
    )


def _bounded_cpuset(
    asked: str | None, most: str | None, rule: Callable[[str], str], what: str
) -> str | None:
    if not most or asked is None:
        return asked if asked is not None else most
    if asked == "" or not parse_cpuset(asked) <= parse_cpuset(most):
        raise above_ceiling(f"{what} --cpuset {asked or 'max'}", most, rule("cpuset"))
    return asked


def _key(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _shown(kind: Kind, value: int) -> str:
    return "max" if value == UNLIMITED else kind.format(value)


def above_ceiling(what: str, most: str, whose: str = SERVER) -> JobError:
    """Return the refusal of what is above a ceiling, and whose that is."""
    return JobError(
        Reason.LIMIT_ABOVE_CEILING,
        f"cannot {what}: {whose} allows at most {most}",
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
        raw["io"] = encode_rates(limits.io)
    return raw


def encode_rates(rates: Iterable[IoLimit]) -> list[list[object]]:
    """Return I/O limits as JSON-ready values; `parse_rates` is the inverse."""
    return [
        [
            rate.path,
            *(getattr(rate, name) for name in IO_RATES),
            *(() if rate.device is None else (rate.device,)),  # an older keeper knows of none
        ]
        for rate in rates
    ]


def parse_rates(raw: object) -> tuple[IoLimit, ...]:
    """Return what `encode_rates` wrote; raises ValueError or TypeError for anything else."""
    if not isinstance(raw, list):
        raise ValueError("not rates of I/O")
    rates = tuple(IoLimit(*entry) for entry in raw)
    for rate in rates:
        if rate.device is not None and not _DEVICE.fullmatch(rate.device):
            raise ValueError(f"not a device: {rate.device!r}")
    return rates


def parse_limits(raw: object) -> Limits:
    """Return what `encode_limits` wrote; raises ValueError or TypeError for anything else."""
    if not isinstance(raw, dict):
        raise ValueError("not limits")
    values = dict(raw)
    if "io" in values:
        values["io"] = parse_rates(values["io"])
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
