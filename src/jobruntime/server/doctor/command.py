"""`jobd doctor`: looks at this host and at an instance, and tries every limit."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterable
from typing import Final

from jobruntime.model.errors import JobError
from jobruntime.server.config import DEFAULT_UID_COUNT, Config, read_config, uid_first_of
from jobruntime.server.worker_settings import settings_of
from jobruntime.worker import Settings
from jobruntime.worker.host import disk_of, existing
from jobruntime.worker.trial import Trial, open_trial

from . import canaries, disks
from .bench import Bench
from .canaries import Canary, try_canary
from .host import check_cgroups, check_system
from .instance import check_instance, check_limits
from .report import Check, ReaderGoneError, Report, failed_with

EXIT_FAILED: Final = 1
_PLACES: Final = ("/var/tmp", "/tmp")  # noqa: S108 - everybody may write there, that is the point


def run(args: argparse.Namespace) -> int:
    """Check everything, print it, and return the exit code."""
    report = Report(as_json=args.output == "json")
    signals: list[signal.Signals] = []
    try:
        asyncio.run(_examine(args.config, report, signals))
        report.end()
    except asyncio.CancelledError:
        # Everything is cleaned up; now it ends as anybody expects of a program that gets a signal.
        signal.signal(signals[0], signal.SIG_DFL)
        os.kill(os.getpid(), signals[0])
    except ReaderGoneError:
        return EXIT_FAILED
    return 0 if report.ok else EXIT_FAILED


def _clean_up_on_signals(signals: list[signal.Signals]) -> None:
    """Cancel the present task at the first signal that asks for an end, and note it."""
    task = asyncio.current_task()

    def end(signo: signal.Signals) -> None:
        if task is not None and not signals:
            task.cancel()
        signals.append(signo)

    loop = asyncio.get_running_loop()
    for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signo, end, signo)


async def _examine(path: str | None, report: Report, signals: list[signal.Signals]) -> None:
    _clean_up_on_signals(signals)
    config = _read(path, report)
    report.begin("this host")
    _add(report, check_system())
    try:
        async with contextlib.AsyncExitStack() as stack:
            trial = await _enter_trial(config, report, stack)
            if trial is not None:
                _add(report, check_cgroups(trial))
            if config is not None:
                _examine_instance(config, trial, report)
            if trial is not None:
                await _try_limits(trial, report)
    except JobError as error:
        report.add(failed_with("end of the trial", error))


async def _enter_trial(
    config: Config | None, report: Report, stack: contextlib.AsyncExitStack
) -> Trial | None:
    try:
        opened = open_trial(_settings(config), _work_parent(config))
        return await stack.enter_async_context(opened)
    except JobError as error:
        report.add(failed_with("trial jobs", error))
        return None


def _read(path: str | None, report: Report) -> Config | None:
    if path is None:
        return None
    try:
        return read_config(path)
    except JobError as error:
        report.add(failed_with("configuration", error))
        return None


def _settings(config: Config | None) -> Settings:
    if config is not None:
        return settings_of(config)
    uid_first = uid_first_of(tempfile.gettempdir()) if os.geteuid() == 0 else None
    return Settings(state_dir="", uid_first=uid_first, uid_count=DEFAULT_UID_COUNT)


def _work_parent(config: Config | None) -> str:
    """Return where the trial jobs get their directories: where jobs have theirs, or on a disk."""
    if config is not None:
        return existing(str(config.work_dir))
    places = [place for place in _PLACES if os.path.isdir(place)]
    return next((place for place in places if disk_of(place).device), tempfile.gettempdir())


def _examine_instance(config: Config, trial: Trial | None, report: Report) -> None:
    report.begin("this instance")
    _add(report, check_instance(config))
    if trial is not None:
        report.add(check_limits(config, trial))


async def _try_limits(trial: Trial, report: Report) -> None:
    report.begin("trial jobs")
    bench = Bench(trial)
    for group in (*canaries.GROUPS, disks.RATES, disks.WEIGHT, canaries.LAST):
        await _try_group(bench, group, report)


async def _try_group(bench: Bench, group: tuple[Canary, ...], report: Report) -> None:
    """Try these beside each other; on a terminal, say so."""
    if sys.stderr.isatty():
        print(f"jobd: trying {', '.join(canary.name for canary in group)}", file=sys.stderr)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(try_canary(bench, canary)) for canary in group]
    _add(report, (task.result() for task in running))


def _add(report: Report, checks: Iterable[Check]) -> None:
    for check in checks:
        report.add(check)
