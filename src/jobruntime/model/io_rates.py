"""Which I/O rates hold for a job, once it is known on which disk each of its paths lies.

Two paths may lie on one disk, so rates are compared, replaced and bounded disk by disk. Whose paths
they are decides who looks them up: the operator's the server, at its start; a job's own its keeper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from .limits import IO_RATES, UNLIMITED, IoLimit, encode_rates, join_rates, parse_rates


class AboveCeilingError(Exception):
    """More is asked for than a ceiling allows; the text is what, whose ceiling, and how much."""


@dataclass(frozen=True, slots=True)
class IoCeiling:
    """The most that somebody allows on each disk; each rate has its disk."""

    whose: str
    """As it is told: `WHOSE allows at most ...`."""
    rates: tuple[IoLimit, ...]


@dataclass(frozen=True, slots=True)
class IoOrder:
    """What a keeper is told of I/O rates, at the start of its job or to change them."""

    base: tuple[IoLimit, ...] = ()
    """The server's defaults, each with its disk; none for a change."""
    asked: tuple[IoLimit, ...] = ()
    """What the job's owner names, most of it without the disk."""
    ceilings: tuple[IoCeiling, ...] = ()


NO_IO: Final = IoOrder()
"""Nothing is said of I/O."""


def devices_of(rates: Iterable[IoLimit]) -> dict[str, str]:
    """Return the disk of each path, where it is known."""
    return {rate.path: rate.device for rate in rates if rate.device is not None}


def known_devices(order: IoOrder) -> dict[str, str]:
    """Return the disks of the paths that the server has looked up."""
    above = [rate for ceiling in order.ceilings for rate in ceiling.rates]
    return devices_of([*above, *order.base])


def check_rates(asked: Iterable[IoLimit], ceilings: Iterable[IoCeiling]) -> None:
    """Refuse a rate above a ceiling of its disk; raises AboveCeilingError."""
    bounds = list(ceilings)
    for rate in asked:
        for ceiling, most, name in _bounds(bounds):
            value: int | None = getattr(rate, name)
            highest: int = getattr(most, name)
            if most.device == rate.device and value is not None and value > highest:
                shown = "max" if value == UNLIMITED else str(value)
                raise AboveCeilingError(
                    f"{IO_RATES[name][0]} {rate.path}:{shown}: "
                    f"{ceiling.whose} allows at most {highest}"
                )


def cut_rates(base: Iterable[IoLimit], ceilings: Iterable[IoCeiling]) -> tuple[IoLimit, ...]:
    """Return `base`, which nobody asked for, with all above a ceiling of its disk brought down."""
    bounds = list(_bounds(ceilings))
    cut = []
    for rate in base:
        for _, most, name in bounds:
            value: int | None = getattr(rate, name)
            if most.device == rate.device and value is not None:
                lower = {name: min(value, getattr(most, name))}
                rate = replace(rate, **lower)
        cut.append(rate)
    return tuple(cut)


def replace_rates(base: tuple[IoLimit, ...], over: tuple[IoLimit, ...]) -> tuple[IoLimit, ...]:
    """Return `over` and those rates of `base` that it does not set for the same disk."""
    kept = []
    for rate in base:
        for name in IO_RATES:
            if any(o.device == rate.device and getattr(o, name) is not None for o in over):
                rate = replace(rate, **{name: None})  # type: ignore[arg-type] # these are numbers
        if any(getattr(rate, name) is not None for name in IO_RATES):
            kept.append(rate)
    return join_rates([*kept, *over])


def rates_at_start(order: IoOrder, asked: tuple[IoLimit, ...]) -> tuple[IoLimit, ...]:
    """Return what holds for a job that asks for `asked`, which is the order's with its disks.

    Where nothing is said of a disk, the ceilings hold. Raises AboveCeilingError.
    """
    check_rates(asked, order.ceilings)
    rates = replace_rates(order.base, asked)
    bounded = list(rates)
    for _, most, name in _bounds(order.ceilings):
        if not any(r.device == most.device and getattr(r, name) is not None for r in rates):
            only = {name: getattr(most, name)}
            bounded.append(IoLimit(most.path, device=most.device, **only))
    return join_rates(bounded)


def _bounds(ceilings: Iterable[IoCeiling]) -> Iterator[tuple[IoCeiling, IoLimit, str]]:
    """Yield each rate of each ceiling."""
    for ceiling in ceilings:
        for most in ceiling.rates:
            for name in IO_RATES:
                if getattr(most, name) is not None:
                    yield ceiling, most, name


def encode_io_order(order: IoOrder) -> dict[str, object]:
    """Return `order` as JSON-ready values; `parse_io_order` is the inverse."""
    return {
        "base": encode_rates(order.base),
        "asked": encode_rates(order.asked),
        "ceilings": [[ceiling.whose, encode_rates(ceiling.rates)] for ceiling in order.ceilings],
    }


def parse_io_order(raw: object) -> IoOrder:
    """Return what `encode_io_order` wrote; raises ValueError or TypeError for anything else."""
    if not isinstance(raw, dict) or not isinstance(ceilings := raw.get("ceilings"), list):
        raise ValueError("not an order of I/O rates")
    order = IoOrder(
        parse_rates(raw.get("base")),
        parse_rates(raw.get("asked")),
        tuple(IoCeiling(str(whose), parse_rates(rates)) for whose, rates in ceilings),
    )
    # Nobody else is to look these up: they may be paths that the job's owner cannot see.
    for rates in (order.base, *(ceiling.rates for ceiling in order.ceilings)):
        if any(rate.device is None for rate in rates):
            raise ValueError("a rate of the server's without its disk")
    return order
