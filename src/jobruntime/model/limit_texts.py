"""Limits as people write them, on command lines and in jobd.toml: one set of names for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from .errors import invalid
from .limits import KINDS, UNLIMITED, IoLimit, Limits, check_limits, join_rates
from .quantities import (
    format_cpuset,
    parse_count,
    parse_cpus,
    parse_cpuset,
    parse_device_rate,
    parse_size,
)

NO_LIMIT: Final = "max"
"""What stands for "no limit", as in the kernel's own files."""

NUMBERS: Final[Mapping[str, tuple[str, Callable[[str], int]]]] = {
    "cpus": ("cpu_millis", parse_cpus),
    "cpu_weight": ("cpu_weight", parse_count),
    "memory": ("memory_bytes", parse_size),
    "memory_high": ("memory_high_bytes", parse_size),
    "memory_swap": ("memory_swap_bytes", parse_size),
    "pids": ("pids", parse_count),
    "io_weight": ("io_weight", parse_count),
}
"""The name that people use: the field of `Limits`, and how its text is read."""
RATES: Final[Mapping[str, tuple[str, Callable[[str], int]]]] = {
    "io_read_bps": ("read_bps", parse_size),
    "io_write_bps": ("write_bps", parse_size),
    "io_read_iops": ("read_iops", parse_count),
    "io_write_iops": ("write_iops", parse_count),
}
"""The name that people use: the field of `IoLimit`, and how a rate's text is read."""


def parse_number(name: str, text: str) -> int:
    """Return the value of the limit `name` in `text`; raises JobError (INVALID_ARGUMENT)."""
    field, parse = NUMBERS[name]
    if text == NO_LIMIT and KINDS[field].may_be_unlimited:
        return UNLIMITED
    value = _finite(parse(text), text)
    check_limits(Limits(**{field: value}))  # type: ignore[arg-type] # these fields are numbers
    return value


def parse_rate(name: str, text: str) -> IoLimit:
    """Return the limit in `PATH:RATE`; raises JobError (INVALID_ARGUMENT)."""
    field, parse = RATES[name]
    path, rate = parse_device_rate(text)
    value = UNLIMITED if rate == NO_LIMIT else _finite(parse(rate), rate)
    limit = IoLimit(path, **{field: value})  # type: ignore[arg-type] # these fields are numbers
    check_limits(Limits(io=(limit,)))
    return limit


def parse_cpus_allowed(text: str) -> str:
    """Return the list of CPUs in its shortest form; empty for all. Raises JobError."""
    return "" if text == NO_LIMIT else format_cpuset(parse_cpuset(text))


def parse_limit_texts(texts: Mapping[str, object]) -> Limits:
    """Return the limits in a table of names and texts; a number may also be an int or float.

    Raises JobError (INVALID_ARGUMENT) that names the key.
    """
    values: dict[str, object] = {}
    rates: list[IoLimit] = []
    for name, value in texts.items():
        if name in NUMBERS:
            values[NUMBERS[name][0]] = parse_number(name, _text(name, value))
        elif name in RATES:
            rates += [parse_rate(name, text) for text in _texts(name, value)]
        elif name == "cpuset":
            values["cpuset"] = parse_cpus_allowed(_text(name, value))
        elif name == "oom_group" and isinstance(value, bool):
            values["oom_group"] = value
        else:
            known = ", ".join([*NUMBERS, "cpuset", *RATES, "oom_group"])
            raise invalid(f"cannot read the limit {name} = {value!r}", f"known limits: {known}")
    return Limits(**values, io=join_rates(rates))  # type: ignore[arg-type] # as checked above


def _finite(value: int, text: str) -> int:
    # The number that stands for "no limit" inside is none that anybody means.
    if value == UNLIMITED:
        raise invalid(f"cannot limit a job to {text[:64]}", f"write {NO_LIMIT} for no limit")
    return value


def _text(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise invalid(f"cannot read the limit {name} = {value!r}", 'write it as in memory = "256M"')
    return str(value)


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise invalid(
            f"cannot read the limit {name} = {value!r}", f'write it as {name} = ["/srv:10M"]'
        )
    return value
