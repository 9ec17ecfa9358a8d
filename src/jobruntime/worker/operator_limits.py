"""The operator's limits as this host has them: each path's disk, and whether the CPUs are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from ..linux.block import DeviceError
from ..linux.limits import read_file, resolve_rates
from ..model.errors import JobError, Reason
from ..model.io_rates import devices_of
from ..model.limits import IO_RATES, IoLimit, Limits
from ..model.quantities import format_cpuset, parse_cpuset
from .settings import Settings

NO_DISKS: Final[Mapping[str, str]] = MappingProxyType({})


def resolve_settings(settings: Settings, known: Mapping[str, str] = NO_DISKS) -> Settings:
    """Return `settings` with the disk of every path in the operator's limits.

    The paths are opened as whoever calls this may, and never again: a job's own user need not see
    them. Those that are `known` a process with more rights has looked up before. Raises JobError
    (CONFIG_INVALID) that names the key.
    """
    return replace(
        settings,
        default_limits=resolve_limits(settings.default_limits, "limits.default", known=known),
        ceiling=resolve_limits(settings.ceiling, "limits.ceiling", known=known),
        all_limits=resolve_limits(settings.all_limits, "limits.all", known=known),
    )


def disks_of(settings: Settings) -> dict[str, str]:
    """Return the disk of each path in resolved settings."""
    tables = (settings.default_limits, settings.ceiling, settings.all_limits)
    return devices_of(rate for limits in tables for rate in limits.io)


def resolve_limits(
    limits: Limits,
    table: str,
    file: str = "the configuration",
    known: Mapping[str, str] = NO_DISKS,
) -> Limits:
    """Return `limits` with the disk of every path, as whoever calls this may reach it.

    Raises JobError (CONFIG_INVALID) that names the key in `table` of `file`.
    """
    rates: list[IoLimit] = []
    for rate in limits.io:
        try:
            rates += resolve_rates([rate], known=known)
        except DeviceError as error:
            key = next(name for name in IO_RATES if getattr(rate, name) is not None)
            raise _bad_key(
                file,
                f"{table}.io_{key}",
                f"no disk can be named for {error.path}: {error.cause}",
                "name a block device, or a file on one, that this server can reach",
            ) from error
    return replace(limits, io=tuple(rates))


def check_cpus(settings: Settings, jobs: str | None) -> None:
    """Refuse CPUs that the group `jobs` above all jobs does not have: every job would be refused.

    None: jobs have no group. Raises JobError (CONFIG_INVALID) that names the key.
    """
    asked = {"default": settings.default_limits.cpuset, "ceiling": settings.ceiling.cpuset}
    if jobs is None or not any(asked.values()):
        return
    try:
        cpus = parse_cpuset(read_file(jobs, "cpuset.cpus.effective").strip())
    except FileNotFoundError:
        return  # without that controller they are refused for that
    if settings.all_limits.cpuset:
        cpus &= parse_cpuset(settings.all_limits.cpuset)
    for table, cpuset in asked.items():
        if cpuset and not parse_cpuset(cpuset) <= cpus:
            lacking = format_cpuset(parse_cpuset(cpuset) - cpus)
            raise _bad_key(
                "the configuration",
                f"limits.{table}.cpuset",
                f"jobs cannot have the CPUs {lacking} here",
                f"give CPUs of {format_cpuset(cpus)}",
            )


def _bad_key(file: str, key: str, cause: str, remedy: str) -> JobError:
    text = f"cannot use the key {key} of {file}: {cause}"
    return JobError(Reason.CONFIG_INVALID, text, remedy)
