"""Several ceilings of limits that hold at once: the operator's and a role's.

Not of I/O rates, which are bounded disk by disk: see io_rates.py.
"""

from __future__ import annotations

from dataclasses import replace

from .errors import JobError, Reason
from .limits import KINDS, UNLIMITED, Limits
from .quantities import format_cpuset, parse_cpuset


def join_ceilings(one: Limits, other: Limits) -> Limits:
    """Return the ceiling that is as strict as both; raises JobError where no CPU is in both."""
    numbers = {name: _lower(getattr(one, name), getattr(other, name)) for name in KINDS}
    ceiling = Limits(cpuset=_common_cpus(one.cpuset, other.cpuset))
    return replace(ceiling, **numbers)  # type: ignore[arg-type] # these are numbers


def cut_to_ceiling(limits: Limits, ceiling: Limits) -> Limits:
    """Return `limits`, which nobody asked for, with all above `ceiling` brought down to it."""
    numbers: dict[str, int | None] = {}
    for name in KINDS:
        value: int | None = getattr(limits, name)
        numbers[name] = None if value is None else _lower(value, getattr(ceiling, name))
    memory = _lower(numbers["memory_bytes"], ceiling.memory_bytes)
    high = numbers["memory_high_bytes"]
    if memory is not None and high is not None and UNLIMITED > high >= memory:
        numbers["memory_high_bytes"] = None  # it would never come to that
    cpuset = limits.cpuset
    if cpuset is not None and ceiling.cpuset and not _is_within(cpuset, ceiling.cpuset):
        cpuset = ceiling.cpuset
    return replace(limits, cpuset=cpuset, **numbers)  # type: ignore[arg-type] # these are numbers


def _lower(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _is_within(cpuset: str, most: str) -> bool:
    return cpuset != "" and parse_cpuset(cpuset) <= parse_cpuset(most)


def _common_cpus(one: str | None, other: str | None) -> str | None:
    if not one or not other:
        return one or other
    common = parse_cpuset(one) & parse_cpuset(other)
    if not common:
        raise JobError(
            Reason.LIMIT_ABOVE_CEILING,
            f"cannot run a job: of the CPUs {one} and {other}, to which two ceilings bound it, "
            "none is in both",
            "the operator should mend jobd.toml or the policy",
        )
    return format_cpuset(common)
