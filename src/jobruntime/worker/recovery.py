"""What became of a job whose keeper is not heard: read from its files and its lock.

The cases, for a job's directory:

- an outcome is there and the lock is free: it has ended.
- the lock is held: its keeper lives (starting, running, or about to exit); it is connected to.
- the lock is free and there is no outcome: the keeper died, or the host did. What it left is
  swept, and the job is recorded as lost; but if not even a log was made, nothing ever ran and
  nobody was given the id, so the directory is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from ..linux import sockets
from ..linux.files import boot_id
from ..model.errors import JobError, Reason
from ..model.protocol import KEEPER_SOCKETS
from ..model.record import Progress
from ..model.state import Event, Lost, State, next_state
from .instance import Instance
from .store import JobDirectory, JobRecord

_DEADLINE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What was found: a connected keeper, or the end of the job; no record: it never was one."""

    record: JobRecord | None = None
    progress: Progress | None = None
    keeper: socket.socket | None = None


def recoverable_ids(instance: Instance, ended: set[str]) -> tuple[set[str], set[str]]:
    """Return the ids of all job directories but those known to have ended, and of stray cgroups.

    And those of jobs that are known to have ended and have no directory: they were removed.
    """
    there = set(os.listdir(instance.jobs_dir))
    ids = there - ended
    if instance.cgroup_root is not None:
        with os.scandir(f"{instance.cgroup_root}/jobs") as entries:
            ids |= {entry.name for entry in entries if entry.is_dir()}
    return ids, ended - there


def plainly_ended(instance: Instance, job_ids: Iterable[str]) -> list[tuple[JobRecord, Progress]]:
    """Return those of the jobs that have ended and left nothing; for the others ask `settle`."""
    found = []
    for job_id in job_ids:
        with contextlib.suppress(OSError, ValueError):
            if not _has_leftovers(instance, job_id):
                with JobDirectory.open(instance.jobs_dir, job_id) as directory:
                    outcome, record = directory.read_outcome(), directory.read_record()
                    # In this order: whoever holds the lock may still be about to write.
                    if outcome is not None and record is not None and directory.try_lock():
                        found.append((record, outcome))
    return found


async def settle(
    instance: Instance, job_id: str, sweep: Callable[[str], Awaitable[None]]
) -> Settled:
    """Find out what became of the job, sweeping up and recording its end where nobody else can.

    Raises JobError (KEEPER_UNREACHABLE) where a keeper lives and does not answer.
    """
    deadline = asyncio.get_running_loop().time() + _DEADLINE_S
    pause = 0.002
    try:
        directory = JobDirectory.open(instance.jobs_dir, job_id)
    except FileNotFoundError:
        await sweep(job_id)
        return Settled()
    with directory:
        while not directory.try_lock():
            if keeper := _connect(instance, job_id):
                return Settled(directory.read_record(), directory.read_status(), keeper)
            # It holds the lock and has no socket: it is starting, or about to exit. Neither lasts.
            if asyncio.get_running_loop().time() > deadline:
                raise JobError(
                    Reason.KEEPER_UNREACHABLE, f"cannot reach the keeper of job {job_id}"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)
        try:
            return await _settle_locked(instance, directory, job_id, sweep)
        finally:
            directory.unlock()


def _connect(instance: Instance, job_id: str) -> socket.socket | None:
    try:
        return sockets.connect(f"{instance.runtime_dir}/{KEEPER_SOCKETS}", job_id)
    except OSError:
        return None


def _has_leftovers(instance: Instance, job_id: str) -> bool:
    places = [f"{instance.runtime_dir}/{KEEPER_SOCKETS}/{job_id}"]
    if instance.cgroup_root is not None:
        places.append(f"{instance.cgroup_root}/jobs/{job_id}")
    return any(os.path.lexists(place) for place in places)


async def _settle_locked(
    instance: Instance,
    directory: JobDirectory,
    job_id: str,
    sweep: Callable[[str], Awaitable[None]],
) -> Settled:
    try:
        record = directory.read_record()
    except ValueError:
        if directory.has_run():
            raise
        record = None  # the server died while it wrote the order, which it then never gave
    outcome = directory.read_outcome() or directory.recover_outcome()
    if outcome is None or _has_leftovers(instance, job_id):
        await sweep(job_id)
    if outcome is not None:
        return Settled(record, outcome)
    if record is None or not directory.has_run():
        directory.remove()
        return Settled()
    known = directory.read_status() or Progress(State.STARTING)
    same_boot = record.boot_id == boot_id()
    reason = "its keeper died" if same_boot else "the host was restarted"
    lost = replace(known, state=next_state(known.state, Event.LOST), outcome=Lost(reason))
    directory.write_outcome(lost)
    return Settled(record, lost)
