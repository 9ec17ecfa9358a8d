"""The server that root's monitor starts, as another user and without privileges."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable
from pathlib import Path

from jobruntime.worker import LocalWorker
from jobruntime.worker.prepared import Handed, Prepared, take_over
from jobruntime.worker.privileged import Privileged

from .config import Config, parse_config
from .errors_out import run_reporting
from .monitor import END_JOBS, configure_logging
from .serve import serve
from .worker_settings import settings_of


def main(argv: list[str]) -> int:
    """Do what the monitor has it do, and return the exit code."""
    return run_reporting(lambda: _run(take_over(int(argv[0]))))


def _run(handed: Handed) -> int:
    configure_logging()
    os.umask(0o077)
    words = handed.words
    config = parse_config(words["config"].encode(), Path(words["path"]))
    work = _end_jobs if words["purpose"] == END_JOBS else _serve
    asyncio.run(_with(work(config, handed)))
    return 0


async def _with(work: Awaitable[None]) -> None:
    await work


async def _serve(config: Config, handed: Handed) -> None:
    await serve(config, _prepared(handed))


async def _end_jobs(config: Config, handed: Handed) -> None:
    async with LocalWorker(settings_of(config), prepared=_prepared(handed)) as worker:
        await end_all_jobs(worker)


async def end_all_jobs(worker: LocalWorker) -> None:
    """End the jobs that a dead server has left, and the spawner."""
    if worker.running:
        print(f"jobd: stopping {len(worker.running)} jobs", file=sys.stderr)
    await worker.stop_all(by="jobd stop")
    await worker.retire()


def _prepared(handed: Handed) -> Prepared:
    notes = [
        f"serving as uid {os.geteuid()}, without privileges; root are the monitor (process "
        f"{os.getppid()}), the spawner and the jobs' keepers",
        *handed.words["notes"].splitlines(),
    ]
    privileged = Privileged(handed.monitor)
    return Prepared(
        handed.instance,
        privileged.start_spawner,
        privileged.ask,
        disks=json.loads(handed.words["disks"]),
        notes=tuple(notes),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
