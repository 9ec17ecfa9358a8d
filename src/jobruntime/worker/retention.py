"""Jobs that have ended go as the operator's rules say, and where the disk needs the room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable
from typing import Final

from ..model.errors import JobError
from ..model.protocol import OUTCOME_FILE
from ..model.quantities import format_size
from ..model.record import Progress
from ..model.retention import Kept, Retention, newest_to_go_ns, why_remove
from .catalogue import Catalogue, Ended
from .instance import Instance
from .recovery import plainly_ended
from .removal import Remover
from .store import JobRecord
from .threads import Threads

_LOOK_S: Final = 10.0
_PAUSE_S: Final = 0.5
"""Where jobs end one after the other, this looks for all of them at once."""
_BATCH: Final = 64
_logger = logging.getLogger(__name__)


class RetentionLoop:
    """Removes the oldest jobs while there is a reason to; looks when woken, and now and then."""

    def __init__(
        self,
        rules: Retention,
        instance: Instance,
        threads: Threads,
        catalogue: Catalogue,
        remover: Remover,
    ) -> None:
        self._rules = rules
        self._instance = instance
        self._threads = threads
        self._catalogue = catalogue
        self._remover = remover
        self._woken = asyncio.Event()
        self._is_short = False

    def wake(self) -> None:
        """Look soon: a job has ended."""
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            self._woken.clear()
            try:
                await self._remove_what_must_go()
            except (JobError, OSError, sqlite3.Error) as error:
                _logger.error("cannot see to the jobs that have ended: %s", error)
            await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._woken.wait()

    async def _remove_what_must_go(self) -> None:
        short_bytes = await self._threads.in_files(self._short_bytes)
        while True:
            now_ns = time.time_ns()
            oldest, kept = await self._threads.in_index(lambda now_ns=now_ns: self._find(now_ns))  # type: ignore[misc] # mypy sees no default
            removed = 0
            for job in oldest:
                reason = why_remove(self._rules, job.ended_at_ns, kept, short_bytes, now_ns)
                if reason is None:
                    break
                try:
                    if await self._remover.remove(job.job_id) is not None:
                        _logger.info("removed job %s: %s", job.job_id, reason)
                        removed += 1
                except JobError as error:  # one that cannot go must not keep all others
                    _logger.error("%s", error)
                    continue
                # By what it had, not by the disk: somebody may still have its files open.
                short_bytes -= job.size_bytes
                kept = Kept(kept.count - 1, kept.size_bytes - job.size_bytes)
            if removed < _BATCH:
                self._tell_short(short_bytes)
                return

    def _find(self, now_ns: int) -> tuple[list[Ended], Kept]:
        oldest = self._catalogue.oldest(newest_to_go_ns(self._rules, now_ns), _BATCH)
        return oldest, self._catalogue.kept

    def _short_bytes(self) -> int:
        disk = os.statvfs(self._instance.jobs_dir)
        return self._instance.reserve_bytes - disk.f_bavail * disk.f_frsize

    def _tell_short(self, short_bytes: int) -> None:
        if short_bytes > 0 and not self._is_short:
            _logger.warning(
                "the free disk is %s below the reserve, and no job is left that may be removed; "
                "at half of the reserve nothing more is recorded",
                format_size(short_bytes),
            )
        self._is_short = short_bytes > 0


def measure(jobs_dir: str, job_id: str, progress: Progress | None) -> Ended:
    """Return when the job ended and the room that its log and records have."""
    path = f"{jobs_dir}/{job_id}"
    blocks = 0
    with os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a record is just being replaced
                blocks += entry.stat(follow_symlinks=False).st_blocks
    ended_at_ns = None if progress is None else progress.ended_at_ns
    if ended_at_ns is None:  # it was lost, and this is when that was found out
        ended_at_ns = os.stat(f"{path}/{OUTCOME_FILE}").st_mtime_ns
    return Ended(job_id, ended_at_ns, blocks * 512)


def measured(instance: Instance, job_ids: Iterable[str]) -> list[tuple[JobRecord, Ended]]:
    """Return those of the jobs that have plainly ended, measured."""
    found = []
    for record, progress in plainly_ended(instance, job_ids):
        with contextlib.suppress(OSError):
            found.append((record, measure(instance.jobs_dir, record.job_id, progress)))
    return found
