"""Limits as writes to the files of a cgroup, each read back (cgroup-v2.rst)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from ..model.limits import DEFAULT_WEIGHT, IO_RATES, PAGE_BYTES, UNLIMITED, IoLimit, Limits
from ..model.quantities import parse_cpuset
from . import block

_PERIOD_US: Final = 100_000
_MAX: Final = "max"
_MAX_BFQ_WEIGHT: Final = 1000


DECIDING_FILES: Final = frozenset(
    {
        "cpu.max",
        "io.bfq.weight",
        "io.weight",
        "memory.high",
        "memory.max",
        "memory.oom.group",
        "memory.swap.max",
        "pids.max",
    }
)
"""Files of a group on whose presence `limit_writes` depends."""


class LimitError(Exception):
    """The kernel did not take a limit; errno 0: it took another one than was asked for."""

    def __init__(self, file: str, value: str, code: int) -> None:
        super().__init__(f"{file} = {value}: {os.strerror(code) if code else 'it did not hold'}")
        self.file = file
        self.value = value
        self.code = code


class Write(NamedTuple):
    """A value for one of a group's files."""

    file: str
    value: str


def limit_writes(limits: Limits, files: Container[str]) -> list[Write]:
    """Return the writes that set what is set in `limits`, but for I/O rates.

    `files` are those that a group has here: the weight of I/O goes to the scheduler's own.
    """
    writes: list[Write] = []

    def add(file: str, value: int | str | None) -> None:
        # What is only lifted needs no file to be lifted in.
        if value is not None and (file in files or value not in (UNLIMITED, "")):
            writes.append(Write(file, _MAX if value == UNLIMITED else str(value)))

    # Swap before memory: between the two a job could only have less than it may, never more.
    if "memory.swap.max" in files or limits.memory_swap_bytes is not None:
        add("memory.swap.max", limits.swap_bytes)
    add("memory.high", limits.memory_high_bytes)
    add("memory.max", limits.memory_bytes)
    add("pids.max", limits.pids)
    add("cpu.weight", limits.cpu_weight)
    if limits.cpu_millis is not None and ("cpu.max" in files or limits.cpu_millis != UNLIMITED):
        add("cpu.max", _quota(limits.cpu_millis))
    add("cpuset.cpus", limits.cpuset)
    if limits.io_weight is not None:
        writes += _io_weights(limits.io_weight, files)
    if "memory.oom.group" in files:
        add("memory.oom.group", int(limits.oom_group is not False))
    return writes


def reset_writes(files: Container[str]) -> list[Write]:
    """Return the writes that lift every limit but I/O rates."""
    lifted = Limits(
        cpu_millis=UNLIMITED,
        cpu_weight=DEFAULT_WEIGHT,
        cpuset="",
        io_weight=DEFAULT_WEIGHT,
        memory_bytes=UNLIMITED,
        memory_high_bytes=UNLIMITED,
        pids=UNLIMITED,
        oom_group=False,
    )
    writes = [*limit_writes(lifted, files), Write("memory.swap.max", _MAX)]
    return [write for write in writes if write.file in files]


_NONE_KNOWN: Final[Mapping[str, str]] = MappingProxyType({})


def resolve_rates(
    rates: Iterable[IoLimit],
    open_path: Callable[[str], int] = block.open_path,
    known: Mapping[str, str] = _NONE_KNOWN,
) -> tuple[IoLimit, ...]:
    """Return the rates, each with its disk; those `known` by their path are not looked up again.

    `open_path` opens it as whoever named it may. Raises block.DeviceError where it has no disk.
    """
    return tuple(
        replace(
            rate,
            device=rate.device or known.get(rate.path) or block.disk_of(rate.path, open_path),
        )
        for rate in rates
    )


def io_writes(limits: Iterable[IoLimit]) -> list[Write]:
    """Return the writes to io.max; each limit has its disk."""
    rates: dict[str, dict[str, str]] = {}
    for limit in limits:
        if limit.device is None:
            raise ValueError(f"nobody has looked for the disk of {limit.path}")
        line = rates.setdefault(limit.device, {})
        for name, (_, key, _) in IO_RATES.items():
            rate: int | None = getattr(limit, name)
            if rate is not None:
                # Two paths on one disk: the stricter rate holds.
                line[key] = _stricter(line.get(key), _MAX if rate == UNLIMITED else str(rate))
    return [
        Write("io.max", " ".join([device, *(f"{key}={rate}" for key, rate in line.items())]))
        for device, line in rates.items()
    ]


def only_writes(wanted: list[Write], present: str) -> list[Write]:
    """Return these writes to io.max, with all else lifted that is `present` in it."""
    lines = {write.value.split()[0]: write.value.split()[1:] for write in wanted}
    for line in present.splitlines():
        lines.setdefault(line.split()[0], [])
    keys = [key for _, key, _ in IO_RATES.values()]
    writes = []
    for device, rates in lines.items():
        given = dict(rate.split("=") for rate in rates)
        full = " ".join(f"{key}={given.get(key, _MAX)}" for key in keys)
        writes.append(Write("io.max", f"{device} {full}"))
    return writes


def apply_writes(group: str, writes: list[Write]) -> None:
    """Make the writes and read each back; raises LimitError with all of them undone."""
    done: list[Write] = []
    try:
        for write in writes:
            done.append(_present(group, write))
            _write(group, write)
            _check(group, write)
    except LimitError:
        for old in reversed(done):
            try:
                _write(group, old)
            except LimitError:
                pass  # the group is gone; or it was this very write that did not go through
        raise


def _quota(millis: int) -> str:
    quota = _MAX if millis == UNLIMITED else str(millis * _PERIOD_US // 1000)
    return f"{quota} {_PERIOD_US}"


def _io_weights(weight: int, files: Container[str]) -> list[Write]:
    # Kernels of distributions have both files: one is BFQ's, the other io.cost's, and which of
    # them weighs on a disk may change at any time.
    writes = []
    if "io.bfq.weight" in files:
        writes.append(Write("io.bfq.weight", f"default {_bfq_weight(weight)}"))
    if "io.weight" in files or not writes:
        writes.append(Write("io.weight", f"default {weight}"))
    return writes


def _bfq_weight(weight: int) -> int:
    # BFQ has 1 to 1000 around the same 100; the upper part is scaled, as systemd does it.
    if weight <= DEFAULT_WEIGHT:
        return weight
    span = (_MAX_BFQ_WEIGHT - DEFAULT_WEIGHT) / (10_000 - DEFAULT_WEIGHT)
    return round(DEFAULT_WEIGHT + (weight - DEFAULT_WEIGHT) * span)


def _stricter(one: str | None, other: str) -> str:
    numbers = [int(rate) for rate in (one, other) if rate not in (None, _MAX)]
    return str(min(numbers)) if numbers else _MAX


def read_file(group: str, file: str) -> str:
    """Return the text of a group's file; raises OSError."""
    fd = os.open(f"{group}/{file}", os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(fd)


def _write(group: str, write: Write) -> None:
    try:
        fd = os.open(f"{group}/{write.file}", os.O_WRONLY)
        try:
            os.write(fd, write.value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise LimitError(write.file, write.value, error.errno or errno.EIO) from error


def _read(group: str, write: Write) -> str:
    try:
        return read_file(group, write.file)
    except OSError as error:
        raise LimitError(write.file, write.value, error.errno or errno.EIO) from error


def _present(group: str, write: Write) -> Write:
    """Return the write that brings back what is there now."""
    text = _read(group, write)
    if write.file == "io.max":
        device = write.value.split()[0]
        return Write("io.max", _line_of(device, text) or f"{device} {_all_rates(_MAX)}")
    return Write(write.file, text.strip())


def _check(group: str, write: Write) -> None:
    text = _read(group, write)
    if not _holds(write, text):
        raise LimitError(write.file, write.value, 0)
    if write.file == "cpuset.cpus" and write.value:
        # Where none of them is to be had the kernel falls back to the parent's, without a word.
        effective = read_file(group, "cpuset.cpus.effective").strip()
        if not effective or parse_cpuset(effective) != parse_cpuset(write.value):
            raise LimitError(write.file, write.value, 0)


def _holds(write: Write, text: str) -> bool:
    """Return whether a file's text is what was written; memory is rounded to pages."""
    asked, found = write.value, text.strip()
    if write.file == "io.max":
        device, *rates = asked.split()
        line = set(_line_of(device, text).split())
        return all(rate in line or (not line and rate.endswith(f"={_MAX}")) for rate in rates)
    if write.file == "cpuset.cpus":
        return (parse_cpuset(asked) if asked else None) == (parse_cpuset(found) if found else None)
    if write.file.endswith("weight"):
        return asked.split()[-1] == found.splitlines()[0].split()[-1]
    if asked.isdigit() and found.isdigit() and write.file.startswith("memory."):
        return int(asked) - PAGE_BYTES < int(found) <= int(asked)
    return asked == found


def _line_of(device: str, text: str) -> str:
    return next((line for line in text.splitlines() if line.split()[:1] == [device]), "")


def _all_rates(rate: str) -> str:
    return " ".join(f"{key}={rate}" for _, key, _ in IO_RATES.values())


def lines(text: str) -> Iterator[tuple[str, int]]:
    """Yield the pairs of a flat keyed file such as cpu.stat."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            yield key, int(value)
