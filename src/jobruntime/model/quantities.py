"""Amounts as people write them: `256M`, `1.5` CPUs, the CPUs `0-3,6`, `/srv:10M`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from .errors import invalid

MAX_CPU: Final = 8191
"""The highest number that Linux gives a CPU (CONFIG_NR_CPUS)."""

_MAX_NAMED: Final = 4 * (MAX_CPU + 1)
"""How many CPUs a list may name, repetitions counted: a short text can stand for millions."""
_UNITS: Final = "KMGTP"
_SIZE = re.compile(
    rf"([0-9]{{1,19}}(?:\.[0-9]{{1,9}})?)(?:([{_UNITS}{_UNITS.lower()}])(?:i?[bB])?|[bB])?"
)
_CPUS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?|\.[0-9]{1,3}")
_COUNT = re.compile(r"[0-9]{1,19}")
_CPU_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_size(text: str) -> int:
    """Return the bytes that `text` names: `4096`, `256M`, `1.5G`; units are powers of 1024.

    Raises JobError (INVALID_ARGUMENT), as all functions here do.
    """
    found = _SIZE.fullmatch(text)
    if not found:
        raise invalid(f"cannot read the size {text[:64]!r}", "write it as 268435456, 256M or 1.5G")
    number, unit = found.groups()
    power = 0 if unit is None else _UNITS.index(unit.upper()) + 1
    return int(Decimal(number) * 1024**power)


def format_size(size_bytes: int) -> str:
    """Return a short text to read, rounded: `64 MiB`, `1.97 GiB`."""
    value, unit = float(size_bytes), "B"
    for larger in _UNITS:
        if abs(value) < 1024:
            break
        value, unit = value / 1024, f"{larger}iB"
    return f"{value:.4g} {unit}"


def parse_cpus(text: str) -> int:
    """Return the thousandths of a CPU that `text` names: `1.5` is 1500."""
    if not _CPUS.fullmatch(text):
        raise invalid(
            f"cannot read the number of CPUs {text[:64]!r}",
            "write it as 2, 1.5 or 0.25, with three decimals at most",
        )
    return int(Decimal(text) * 1000)


def format_cpus(millis: int) -> str:
    """Return the CPUs that `parse_cpus` reads back."""
    return f"{Decimal(millis) / 1000}"


def parse_count(text: str) -> int:
    """Return the whole number in `text`."""
    if not _COUNT.fullmatch(text):
        raise invalid(f"cannot read the number {text[:64]!r}", "write it with digits only")
    return int(text)


def format_count(count: int) -> str:
    """Return the number as text."""
    return str(count)


def parse_cpuset(text: str) -> frozenset[int]:
    """Return the CPUs that a list like `0-3,6` names."""
    cpus: set[int] = set()
    named = 0
    for part in text.split(","):
        found = _CPU_RANGE.fullmatch(part)
        first = int(found[1]) if found else 1
        last = int(found[2] or first) if found else 0
        named += last - first + 1
        if first > last or last > MAX_CPU or named > _MAX_NAMED:
            raise invalid(f"cannot read the CPUs {text[:64]!r}", "write them as 0-3,6")
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def format_cpuset(cpus: frozenset[int]) -> str:
    """Return the shortest list that names these CPUs, as the kernel writes it."""
    parts: list[str] = []
    ordered = sorted(cpus)
    for place, cpu in enumerate(ordered):
        if place and ordered[place - 1] == cpu - 1:
            parts[-1] = f"{parts[-1].partition('-')[0]}-{cpu}"
        else:
            parts.append(str(cpu))
    return ",".join(parts)


def parse_device_rate(text: str) -> tuple[str, str]:
    """Return path and rate of `PATH:RATE`, the rate still as text."""
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/") or not rate:
        raise invalid(
            f"cannot read the device and rate {text[:256]!r}",
            "write them as PATH:RATE with an absolute path, for example /srv:10M",
        )
    return path, rate
