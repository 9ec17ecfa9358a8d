"""The jobs that have not ended: taken over, followed to their end, found again at a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Final

from ..model.errors import JobError, Reason
from ..model.record import Progress
from .catalogue import Catalogue
from .instance import Instance
from .live import LiveJob
from .log_reader import Position
from .logs import Found
from .quotas import Quotas
from .recovery import Settled, recoverable_ids, settle
from .retention import measure, measured
from .store import JobRecord
from .tail import TailHub
from .threads import Threads

_RECOVERIES: Final = 32
_AT_ONCE: Final = 1000
_logger = logging.getLogger(__name__)


class LiveJobs:
    """The live jobs of one worker, by their ids, in `by_id`."""

    def __init__(
        self,
        instance: Instance,
        threads: Threads,
        catalogue: Catalogue,
        *,
        quotas: Quotas,
        tail: TailHub[Position, Found],
        run_task: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._instance = instance
        self._threads = threads
        self._catalogue = catalogue
        self._quotas = quotas
        self._tail = tail
        self._run_task = run_task
        self._sweep: Callable[[str], Awaitable[None]]
        self._on_end: Callable[[], None]
        self.by_id: dict[str, LiveJob] = {}
        self.unreachable: set[str] = set()
        """Ids of jobs whose keepers live and did not answer at the recovery."""

    def connect(self, sweep: Callable[[str], Awaitable[None]], on_end: Callable[[], None]) -> None:
        """Take what ends the rest of a job without a keeper, and what wants to know of each end."""
        self._sweep = sweep
        self._on_end = on_end

    def adopt(self, record: JobRecord, progress: Progress | None, sock: socket.socket) -> LiveJob:
        """Take a job over with the connection to its keeper."""
        job = LiveJob(record, progress, self._on_silence)
        self.by_id[record.job_id] = job
        self._quotas.add(job)
        job.ended.add_done_callback(lambda _: self._run_task(self._retire_job(job)))
        job.attach(sock)
        return job

    async def has_name(self, owner: str, name: str) -> bool:
        """Return whether a job of the owner's that has not ended has this name."""
        job_id = await self._threads.in_index(lambda: self._catalogue.running_named(owner, name))
        if job_id is None:
            return False
        # The catalogue learns last of an end, and not at all where it cannot be written.
        job = self.by_id.get(job_id)
        return job_id in self.unreachable if job is None else not job.ended.done()

    async def settled(self, owner: str | None) -> None:
        """Return once all ends that were told are in the catalogue: the owner's (None: anybody's).

        Until the next await of the caller there are no others.
        """
        while late := [
            job
            for job in self.by_id.values()
            if job.ended.done() and owner in (None, job.record.owner)
        ]:
            await asyncio.gather(*(job.retired.wait() for job in late))

    def _on_silence(self, job: LiveJob) -> None:
        self._run_task(self._settle_live(job))

    async def _settle_live(self, job: LiveJob) -> None:
        pause_s = 1.0
        while True:
            try:
                settled = await settle(self._instance, job.record.job_id, self._sweep)
                break
            except (JobError, OSError, ValueError) as error:
                # Without an end it would be told as running for ever.
                _logger.error("cannot tell what became of job %s: %s", job.record.job_id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 60.0)
        if settled.keeper is not None:
            job.attach(settled.keeper)
        elif settled.progress is not None:
            job.finish(settled.progress)

    async def _retire_job(self, job: LiveJob) -> None:
        job_id = job.record.job_id
        try:
            await self._mark_ended(job_id, job.progress)
        finally:
            # Also where the catalogue could not be written: it is only an index.
            self.by_id.pop(job_id, None)
            self._quotas.forget(job)
            job.retired.set()
            self._tail.wake(f"{self._instance.jobs_dir}/{job_id}")
            self._on_end()

    async def _mark_ended(self, job_id: str, progress: Progress | None) -> None:
        jobs_dir = self._instance.jobs_dir
        ended = await self._threads.in_files(lambda: measure(jobs_dir, job_id, progress))
        await self._threads.in_index(lambda: self._catalogue.mark_ended(ended))

    # -- recovery

    async def recover(self) -> None:
        """Find every job that an earlier worker has left: take over what runs, enter what ended."""
        known = await self._threads.in_index(lambda: self._catalogue.ids(ended=True))
        running = await self._threads.in_index(lambda: self._catalogue.ids(ended=False))
        ids, gone = await self._threads.in_files(lambda: recoverable_ids(self._instance, known))
        with contextlib.suppress(sqlite3.Error):  # a full disk: they are not found anyhow
            await self._threads.in_index(lambda: self._catalogue.remove_all(gone))
        ids -= await self._recover_ended(sorted(ids - running))
        room = asyncio.Semaphore(_RECOVERIES)

        async def recover(job_id: str) -> None:
            async with room:
                try:
                    await self._recover_job(job_id)
                except (JobError, OSError, ValueError) as error:
                    # One job that can't be read must not keep the server from all the others.
                    if isinstance(error, JobError) and error.reason is Reason.KEEPER_UNREACHABLE:
                        self.unreachable.add(job_id)
                    _logger.error("cannot recover job %s: %s", job_id, error)

        await asyncio.gather(*(recover(job_id) for job_id in sorted(ids | running)))

    async def _recover_ended(self, job_ids: list[str]) -> set[str]:
        """Enter those of the jobs that have plainly ended, as all have where the index is new."""
        done: set[str] = set()
        for start in range(0, len(job_ids), _AT_ONCE):
            some = job_ids[start : start + _AT_ONCE]
            found = await self._threads.in_files(partial(measured, self._instance, some))
            with contextlib.suppress(sqlite3.Error):
                await self._threads.in_index(partial(self._catalogue.add_ended, found))
                done.update(record.job_id for record, _ in found)
        return done

    async def _recover_job(self, job_id: str) -> None:
        settled: Settled = await settle(self._instance, job_id, self._sweep)
        record = settled.record
        if record is None:
            await self._threads.in_index(lambda: self._catalogue.remove(job_id))
            return
        await self._threads.in_index(lambda: self._catalogue.add(record))
        if settled.keeper is not None:
            self.adopt(record, settled.progress, settled.keeper)
        else:
            await self._mark_ended(job_id, settled.progress)
