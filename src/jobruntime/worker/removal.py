"""Removing jobs that have ended, so that at no moment there is half of one.

A job goes in three steps: its directory is moved to where nobody looks for jobs, the catalogue
forgets it, its files are deleted. The first makes it gone. Whatever a dead server has left of the
others the next one does: it forgets jobs without a directory, and deletes what was moved.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ..linux.trees import InterruptedRemovalError, remove_tree
from ..model.errors import JobError, Reason, invalid
from .api import Removed
from .catalogue import Catalogue, Ended
from .instance import Instance
from .threads import Threads

_MOST: Final = 100_000  # their ids fit one message of gRPC's usual 4 MiB
_EVER: Final = (1 << 63) - 1
_NS_PER_MS: Final = 1_000_000
_logger = logging.getLogger(__name__)


class Remover:
    """Removes jobs of one instance; each removal goes on to its end whoever waits for it."""

    def __init__(
        self,
        instance: Instance,
        threads: Threads,
        catalogue: Catalogue,
        by_spawner: Callable[[str], Awaitable[int]] | None = None,
    ) -> None:
        """`by_spawner` removes a job's own directory where this process has no right to."""
        self._by_spawner = by_spawner
        self._instance = instance
        self._threads = threads
        self._catalogue = catalogue
        self._removals: set[asyncio.Task[int | None]] = set()
        self._is_closed = False

    def close(self) -> None:
        """End soon; what is not deleted then, the next server deletes."""
        self._is_closed = True
        if self._by_spawner is not None:
            for removal in self._removals:
                removal.cancel()

    async def remove(self, job_id: str) -> int | None:
        """Remove a job that has ended; return how many bytes that freed. None: it is gone already.

        Raises JobError (INTERNAL) where it can't be; then nothing has changed.
        """
        removal = asyncio.ensure_future(self._remove(job_id))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        return await asyncio.shield(removal)

    async def _remove(self, job_id: str) -> int | None:
        # Both at once in the one thread of the catalogue: no look-up comes between.
        if not await self._threads.in_index(lambda: self._forget(job_id)):
            return None
        return await self._delete(job_id)

    def _forget(self, job_id: str) -> bool:
        try:
            os.rename(f"{self._instance.jobs_dir}/{job_id}", self._removed(job_id))
            was_there = True
        except FileNotFoundError:
            was_there = False
        except OSError as error:
            raise JobError(
                Reason.INTERNAL,
                f"cannot remove job {job_id}: {error.strerror}",
                "the operator should look at the disk of the state directory",
            ) from error
        try:
            self._catalogue.remove(job_id)
        except sqlite3.Error as error:
            # Full, too: a row without a directory answers as no job, and goes at the next start.
            _logger.warning("cannot take job %s out of the catalogue: %s", job_id, error)
        return was_there

    def _removed(self, job_id: str) -> str:
        return f"{self._instance.removed_dir}/{job_id}"

    async def _delete(self, job_id: str) -> int:
        removed, in_removal = self._removed(job_id), self._threads.in_removal
        freed = 0
        try:
            freed += await in_removal(lambda: _unlink_all(removed))
            if self._by_spawner is not None:
                freed += await self._by_spawner(job_id)
            else:
                freed += await in_removal(lambda: remove_home(self._instance, job_id, self))
            await in_removal(lambda: os.rmdir(removed))
        except InterruptedRemovalError:
            pass
        except (OSError, JobError) as error:
            _logger.error(
                "cannot delete all of job %s: %s; the next start tries it again", job_id, error
            )
        return freed

    @property
    def goes_on(self) -> bool:
        """Whether deletions go on."""
        return not self._is_closed

    async def clean_up(self) -> None:
        """Delete what earlier servers have left of jobs that were removed."""
        for job_id in await self._threads.in_files(lambda: os.listdir(self._instance.removed_dir)):
            _logger.info("deleting what was left of job %s, which was removed", job_id)
            await self._delete(job_id)

    async def prune(
        self, owner: str | None, ended_before_ms: int | None, keep: int, *, dry_run: bool
    ) -> Removed:
        """See Worker.prune."""
        if keep < 0 or (ended_before_ms or 0) < 0:
            raise invalid(
                "cannot prune jobs by a number below 0", "give how many to keep, or how long ago"
            )
        until_ns = _EVER
        if ended_before_ms is not None:
            until_ns = max(0, time.time_ns() - ended_before_ms * _NS_PER_MS)
        found: list[Ended] = await self._threads.in_index(
            lambda: self._catalogue.behind_newest(owner, keep, until_ns, _MOST)
        )
        if dry_run:
            return Removed(tuple(j.job_id for j in found), sum(j.size_bytes for j in found))
        job_ids, freed = [], 0
        for job in reversed(found):
            if (freed_now := await self.remove(job.job_id)) is not None:
                job_ids.append(job.job_id)
                freed += freed_now
        return Removed(tuple(job_ids), freed)


def remove_home(instance: Instance, job_id: str, remover: Remover) -> int:
    """Delete what a job has left in its own directory; return how many bytes that freed.

    All of it is its owner's: whoever does this needs the right to, and trusts nothing there.
    """
    return remove_tree(f"{instance.work_dir}/{job_id}", lambda: remover.goes_on)


def _unlink_all(directory: str) -> int:
    freed = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            freed += entry.stat(follow_symlinks=False).st_blocks * 512
            os.unlink(entry.path)
    return freed
