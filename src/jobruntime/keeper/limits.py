"""The limits of one job in its keeper: I/O rates before the start, changes while it runs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace

from ..linux.block import DeviceError
from ..linux.files import encode_json, parse_json
from ..linux.limits import (
    LimitError,
    Write,
    apply_writes,
    io_writes,
    limit_writes,
    resolve_rates,
)
from ..model.io_rates import (
    NO_IO,
    AboveCeilingError,
    IoOrder,
    check_rates,
    devices_of,
    encode_io_order,
    known_devices,
    parse_io_order,
    rates_at_start,
    replace_rates,
)
from ..model.limits import IoLimit, Limits, encode_limits, parse_limits
from ..model.protocol import Detail, Failure, Step, StepError
from .assignment import Program


def apply_limits(group: str, writes: Callable[[], list[Write]]) -> None:
    """Make the writes in the group; raises StepError with none of them in force."""
    try:
        apply_writes(group, writes())
    except LimitError as error:
        detail = Detail.NONE if error.code else Detail.NOT_HELD
        failure = Failure(Step.LIMIT, error.code, f"{error.file} = {error.value}", detail)
        raise StepError(failure) from error
    except DeviceError as error:
        raise StepError(Failure(Step.DEVICE, error.code, f"{error.path}: {error.cause}")) from error
    except AboveCeilingError as error:
        raise StepError(Failure(Step.CEILING, 0, str(error))) from error


def encode_io(limits: Limits, order: IoOrder) -> bytes:
    """Return what `start_io` takes; empty where nothing is said of I/O."""
    if order == NO_IO:
        return b""
    return encode_json({"limits": encode_limits(limits), "io": encode_io_order(order)})


def start_io(group: str, encoded: bytes, user: Program) -> Limits:
    """Limit the I/O rates of a job that is about to start, and return all its limits.

    Raises StepError.
    """
    raw = parse_json(encoded)
    limits, order = parse_limits(raw["limits"]), parse_io_order(raw["io"])
    rates: tuple[IoLimit, ...] = ()

    def writes() -> list[Write]:
        nonlocal rates
        asked = resolve_rates(order.asked, _opener(user), known_devices(order))
        rates = rates_at_start(order, asked)
        return io_writes(rates)

    apply_limits(group, writes)
    return replace(limits, io=rates)


def update_limits(
    group: str, message: dict[str, object], present: tuple[IoLimit, ...], user: Program
) -> Limits:
    """Bring the group's limits to those in the message, and return these.

    Of I/O only those disks are touched that it names, and a path that is known from before, in
    `present`, is not looked up again. Raises StepError with nothing changed.
    """
    try:
        limits = parse_limits(message.get("limits"))
        order = parse_io_order(message.get("io"))
    except (TypeError, ValueError) as error:
        raise StepError(Failure(Step.ORDER, errno.EINVAL)) from error
    files = os.listdir(group)
    rates = present

    def writes() -> list[Write]:
        nonlocal rates
        known = known_devices(order) | devices_of(present)
        asked = resolve_rates(order.asked, _opener(user), known)
        check_rates(asked, order.ceilings)
        rates = replace_rates(present, asked)
        touched = {rate.device for rate in asked}
        named = [rate for rate in rates if rate.device in touched]
        return [*limit_writes(limits, files), *io_writes(named)]

    apply_limits(group, writes)
    return replace(limits, io=rates)


def _opener(user: Program) -> Callable[[str], int]:
    """Return what opens a path as the job's own user, who must not learn of others' files by it."""

    def open_path(path: str) -> int:
        if user.uid is None or user.gid is None:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        try:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        finally:
            os.seteuid(0)
            os.setegid(0)

    return open_path
