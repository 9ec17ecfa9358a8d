"""Shares of jobs that exist: changed on disk first, and taken from whoever reads by them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace

from ..model.access import Verb
from ..model.errors import JobError, Reason
from ..model.shares import Share, change_shares
from .api import LogEvent
from .catalogue import Catalogue
from .instance import Instance
from .live import LiveJob
from .lookup import is_shared, not_found
from .store import JobDirectory, JobRecord
from .threads import Threads


class Sharing:
    """Changes with whom jobs are shared, and ends the readings that this makes unlawful."""

    def __init__(
        self,
        instance: Instance,
        threads: Threads,
        catalogue: Catalogue,
        live: Mapping[str, LiveJob],
    ) -> None:
        """`live` has the jobs that have not ended."""
        self._instance = instance
        self._threads = threads
        self._catalogue = catalogue
        self._live = live
        self._readings: defaultdict[str, set[tuple[str, asyncio.Event]]] = defaultdict(set)

    async def change(self, job_id: str, given: Iterable[Share], taken: Iterable[str]) -> None:
        """Give these shares in the place of what their users had, and take all from the `taken`.

        Raises JobError: INVALID_ARGUMENT, JOB_NOT_FOUND, INTERNAL where the disk does not take it.
        """
        given, taken = tuple(given), tuple(taken)
        # In the one thread of the catalogue, where removals begin: no job comes back by this.
        record = await self._threads.in_index(lambda: self._change(job_id, given, taken))
        if live := self._live.get(job_id):
            live.record = replace(live.record, shares=record.shares)
        for user, ended in self._readings.get(job_id, ()):
            if user != record.owner and not is_shared(record, user, Verb.LOGS):
                ended.set()

    def _change(self, job_id: str, given: tuple[Share, ...], taken: tuple[str, ...]) -> JobRecord:
        try:
            with JobDirectory.open(self._instance.jobs_dir, job_id) as directory:
                record = directory.read_record()
                if record is None:
                    raise not_found(job_id)
                record = replace(record, shares=change_shares(record.shares, given, taken))
                directory.write_record(record)
        except FileNotFoundError as error:
            raise not_found(job_id) from error
        except (OSError, ValueError) as error:
            raise JobError(
                Reason.INTERNAL,
                f"cannot change the shares of job {job_id}: {error}",
                "the operator should look at the disk of the state directory",
            ) from error
        # Only an index: what it has too much, the record refuses; what it lacks is found again
        # when it is filled anew.
        with contextlib.suppress(sqlite3.Error):
            self._catalogue.share(record, record.shares)
        return record

    @contextmanager
    def reading(self, job_id: str, reader: str | None) -> Iterator[asyncio.Event]:
        """Give what is set when the reader's share is taken back; None: it never is.

        The caller looks at the record after this has begun, or he may miss a change.
        """
        over = asyncio.Event()
        if reader is None:
            yield over
            return
        reading = (reader, over)
        self._readings[job_id].add(reading)
        try:
            yield over
        finally:
            self._readings[job_id].discard(reading)
            if not self._readings[job_id]:
                del self._readings[job_id]


async def while_shared(
    events: AsyncIterator[LogEvent], record: JobRecord, reader: str | None, over: asyncio.Event
) -> AsyncIterator[LogEvent]:
    """Yield the events as long as the reader may have them, or is the owner, or None.

    Raises JobError (JOB_NOT_FOUND) where he may not, and when his share is taken back.
    """
    if reader in (None, record.owner):
        async for event in events:
            yield event
    elif not is_shared(record, str(reader), Verb.LOGS):
        raise not_found(record.job_id)
    else:
        async with aclosing(_until(events, over, record.job_id)) as shared:  # type: ignore[type-var] # it is a generator
            async for event in shared:
                yield event


async def _until(
    events: AsyncIterator[LogEvent], over: asyncio.Event, job_id: str
) -> AsyncIterator[LogEvent]:
    waiting = asyncio.ensure_future(over.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                await asyncio.wait({coming, waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait({coming})
            if over.is_set():
                coming.exception() if not coming.cancelled() else None
                raise not_found(job_id)
            if (event := coming.result()) is None:
                return
            yield event
    finally:
        waiting.cancel()
