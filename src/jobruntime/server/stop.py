"""`jobd stop`: end the server of one instance, and on request its jobs."""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import sys
from dataclasses import replace

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.protocol import KEEPER_SOCKETS
from jobruntime.worker import LocalWorker, Settings
from jobruntime.worker.instance import lock_holder, open_instance, remove_places
from jobruntime.worker.ownership import belongs_to_root
from jobruntime.worker.spawner import Spawner

from .account import server_account
from .child import end_all_jobs
from .config import Config, read_config
from .monitor import END_JOBS, run_server
from .serve import STOP_WITH_JOBS
from .worker_settings import settings_of


def run(args: argparse.Namespace) -> int:
    """End the instance of `args.config`; return the exit code. Raises JobError."""
    config = read_config(args.config)
    stopped = _stop_server(config, with_jobs=args.jobs)
    if stopped:  # a server whose monitor was killed ends by itself, a moment later
        _stop_server(config, with_jobs=args.jobs)
    if not stopped:
        print("jobd: no server was running", file=sys.stderr)
    # What a killed server left is ended as well; where it ended by itself, nothing is found.
    settings = _settings(config)
    if not args.jobs:
        asyncio.run(_retire_spawner(settings))
    elif settings.server is not None:
        return run_server(config, END_JOBS)  # root does not work in another user's directory
    else:
        asyncio.run(_end_jobs(settings))
    return 0


def _settings(config: Config) -> Settings:
    # Nothing is started: whatever jobs would need to run does not matter.
    settings = replace(settings_of(config), accounts=())
    if os.geteuid() != 0 or belongs_to_root(settings.state_dir):  # as earlier versions made it
        return settings
    return replace(settings, server=server_account(config))


def _stop_server(config: Config, *, with_jobs: bool) -> bool:
    state_dir = str(config.state_dir)
    pid = lock_holder(state_dir)
    if pid is None:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # Asked again with the descriptor in hand: now the pid cannot have become another's.
        if lock_holder(state_dir) == pid:
            signal.pidfd_send_signal(pidfd, STOP_WITH_JOBS if with_jobs else signal.SIGTERM)
            _wait_end(pidfd, pid, with_jobs=with_jobs)
    except PermissionError as error:
        raise JobError(
            Reason.PERMISSION_DENIED,
            f"cannot stop the server (process {pid}): it is another user's",
            "run this as its user or as root",
        ) from error
    finally:
        os.close(pidfd)
    return True


def _wait_end(pidfd: int, pid: int, *, with_jobs: bool) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    what = "the jobs and the server" if with_jobs else "the server"
    while not poll.poll(5000):
        print(f"jobd: waiting for {what} (process {pid}) to end", file=sys.stderr)


async def _retire_spawner(settings: Settings) -> None:
    instance = open_instance(settings)
    try:
        await Spawner(instance).retire()
        if not os.listdir(f"{instance.runtime_dir}/{KEEPER_SOCKETS}"):
            remove_places(instance)
    finally:
        instance.close()


async def _end_jobs(settings: Settings) -> None:
    async with LocalWorker(settings) as worker:
        await end_all_jobs(worker)
