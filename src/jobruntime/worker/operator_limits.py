"""The operator's limits as this host has them: each path's disk, and whether the CPUs are there."""

from __future__ import annotations

from dataclasses import replace

from ..linux.block import DeviceError
from ..linux.limits import read_file, resolve_rates
from ..model.errors import JobError, Reason
from ..model.limits import IO_RATES, IoLimit, Limits
from ..model.quantities import format_cpuset, parse_cpuset
from .settings import Settings


def resolve_settings(settings: Settings) -> Settings:
    """Return `settings` with the disk of every path in the operator's limits.

    The paths are opened as whoever calls this may, and never again: a job's own user need not see
    them. What has its disk already stays as it is, so a process with more rights may do this before
    a worker does. Raises JobError (CONFIG_INVALID) that names the key.
    """
    return replace(
        settings,
        default_limits=resolve_limits(settings.default_limits, "limits.default"),
        ceiling=resolve_limits(settings.ceiling, "limits.ceiling"),
        all_limits=resolve_limits(settings.all_limits, "limits.all"),
    )


def resolve_limits(limits: Limits, table: str, file: str = "the configuration") -> Limits:
    """Return `limits` with the disk of every path, as whoever calls this may reach it.

    Raises JobError (CONFIG_INVALID) that names the key in `table` of `file`.
    """
    rates: list[IoLimit] = []
    for rate in limits.io:
        try:
            rates += resolve_rates([rate])
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
