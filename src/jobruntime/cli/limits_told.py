"""Limits as jobc tells them: as flags, to read and to give again, and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import fields
from typing import Final

from jobruntime.model.limit_texts import NO_LIMIT
from jobruntime.model.limits import IO_RATES, KINDS, UNLIMITED, IoLimit, Limits
from jobruntime.model.quantities import format_cpus

_UNITS: Final = ("T", "G", "M", "K")


def format_limits(limits: Limits) -> str:
    """Return the flags of `jobc start` that ask for exactly these limits; `none` for none."""
    words: list[str] = []
    for name, kind in KINDS.items():
        value: int | None = getattr(limits, name)
        if value is not None:
            words += [kind.flag, _number(name, value)]
        if name == "cpu_weight" and limits.cpuset is not None:  # where the help has it
            words += ["--cpuset", limits.cpuset or NO_LIMIT]
    for limit in limits.io:
        words += _io_words(limit)
    if limits.oom_group is False:
        words.append("--oom-group=false")
    return shlex.join(words) or "none"


def limits_json(limits: Limits) -> dict[str, object]:
    """Return every field of the API's Limits: a number, `"max"` for none, null for not set."""
    told: dict[str, object] = {
        field.name: _lifted(getattr(limits, field.name)) for field in fields(Limits)
    }
    told["cpuset"] = NO_LIMIT if limits.cpuset == "" else limits.cpuset
    told["io"] = [
        {name: _lifted(getattr(limit, name)) for name in ("path", *IO_RATES)} for limit in limits.io
    ]
    return told


def exact_size(size_bytes: int) -> str:
    """Return the shortest size that reads back as exactly this: `64M`, `1000`."""
    for place, unit in enumerate(_UNITS):
        count, rest = divmod(size_bytes, 1024 ** (len(_UNITS) - place))
        if count and not rest:
            return f"{count}{unit}"
    return str(size_bytes)


def _io_words(limit: IoLimit) -> list[str]:
    words: list[str] = []
    for name, (flag, _, _) in IO_RATES.items():
        rate: int | None = getattr(limit, name)
        if rate is not None:
            words += [flag, f"{limit.path}:{_number(name, rate)}"]
    return words


def _number(name: str, value: int) -> str:
    if value == UNLIMITED:
        return NO_LIMIT
    formats: dict[str, Callable[[int], str]] = {
        "cpu_millis": format_cpus,
        "memory_bytes": exact_size,
        "memory_high_bytes": exact_size,
        "memory_swap_bytes": exact_size,
        "read_bps": exact_size,
        "write_bps": exact_size,
    }
    return formats.get(name, str)(value)


def _lifted(value: object) -> object:
    return NO_LIMIT if value == UNLIMITED else value
