"""Limits between protobuf and the model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from jobruntime.model.errors import invalid
from jobruntime.model.limits import IO_RATES, KINDS, UNLIMITED, IoLimit, Limits, check_limits

from .gen import service_pb2 as pb

_KINDS: Final[Mapping[str, pb.LimitKind]] = MappingProxyType(
    {
        "cpu_millis": pb.LIMIT_KIND_CPU,
        "cpuset": pb.LIMIT_KIND_CPUSET,
        "memory_bytes": pb.LIMIT_KIND_MEMORY,
        "memory_high_bytes": pb.LIMIT_KIND_MEMORY_HIGH,
        "memory_swap_bytes": pb.LIMIT_KIND_MEMORY_SWAP,
        "pids": pb.LIMIT_KIND_PIDS,
    }
)
_RATES: Final[Mapping[str, pb.IoRate]] = MappingProxyType(
    {
        "read_bps": pb.IO_RATE_READ_BPS,
        "write_bps": pb.IO_RATE_WRITE_BPS,
        "read_iops": pb.IO_RATE_READ_IOPS,
        "write_iops": pb.IO_RATE_WRITE_IOPS,
    }
)
_KIND_NAMES: Final = {number: name for name, number in _KINDS.items()}
_RATE_NAMES: Final = {number: name for name, number in _RATES.items()}


def limits_of(message: pb.Limits) -> Limits:
    """Return the limits that a caller asks for; raises JobError (INVALID_ARGUMENT)."""
    values: dict[str, int | None] = {name: _number(message, name) for name in KINDS}
    cpuset: str | None = message.cpuset if message.HasField("cpuset") else None
    if cpuset == "":
        raise invalid("cannot run a job on no CPU", "name CPUs as 0-3,6, or leave cpuset out")
    for number in message.unlimited:
        name = _KIND_NAMES.get(number)
        if name is None:
            raise _unknown(number)
        if message.HasField(name):
            raise invalid(f"cannot both set and lift the limit {name}", "do one of both")
        if name == "cpuset":
            cpuset = ""
        else:
            values[name] = UNLIMITED
    limits = Limits(
        **values,
        cpuset=cpuset,
        io=tuple(_io_limit_of(entry) for entry in message.io),
        oom_group=message.oom_group if message.HasField("oom_group") else None,
    )
    check_limits(limits)
    return limits


def limits_to_proto(limits: Limits) -> pb.Limits:
    """Return the message for `limits`; `limits_of` is the inverse."""
    message = pb.Limits(
        cpuset=limits.cpuset or None,
        oom_group=limits.oom_group,
        io=[_io_limit_to_proto(entry) for entry in limits.io],
    )
    for name in KINDS:
        value: int | None = getattr(limits, name)
        if value == UNLIMITED:
            message.unlimited.append(_KINDS[name])
        elif value is not None:
            setattr(message, name, value)
    if limits.cpuset == "":
        message.unlimited.append(pb.LIMIT_KIND_CPUSET)
    return message


def _number(message: pb.Limits | pb.IoLimit, name: str) -> int | None:
    if not message.HasField(name):
        return None
    value: int = getattr(message, name)
    if value == UNLIMITED:
        raise invalid(f"cannot limit {name} to {value}", "name it in `unlimited` for no limit")
    return value


def _io_limit_of(message: pb.IoLimit) -> IoLimit:
    rates: dict[str, int | None] = {name: _number(message, name) for name in IO_RATES}
    for number in message.unlimited:
        name = _RATE_NAMES.get(number)
        if name is None:
            raise _unknown(number)
        if rates[name] is not None:
            raise invalid(f"cannot both set and lift the rate {name}", "do one of both")
        rates[name] = UNLIMITED
    return IoLimit(message.path, **rates)  # type: ignore[arg-type] # these fields are numbers


def _io_limit_to_proto(limit: IoLimit) -> pb.IoLimit:
    message = pb.IoLimit(path=limit.path)
    for name in IO_RATES:
        value: int | None = getattr(limit, name)
        if value == UNLIMITED:
            message.unlimited.append(_RATES[name])
        elif value is not None:
            setattr(message, name, value)
    return message


def _unknown(number: int) -> Exception:
    return invalid(f"cannot lift a limit of the number {number}", "use a number of the API")
