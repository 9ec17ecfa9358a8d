"""A log as its readers see it: what a query asks for, to its end, and on while it grows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

from ..model.errors import JobError, Reason
from ..model.frames import Chunk, Entry, FrameError, Stream
from ..model.log_query import LogQuery
from ..model.record import Progress
from ..model.state import State
from .api import LogBatch
from .log_files import LogFiles, removed_error
from .log_filter import Filter, LineSearch
from .log_reader import LogReader, Position, encode_cursor, still_given
from .log_seek import Start, find_end, find_matching_tail, find_tail, find_time
from .tail import Following, SharedTail

_SHARED_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class Sent:
    """Bytes of each stream that one reading has given."""

    stdout_bytes: int = 0
    stderr_bytes: int = 0

    def add(self, entries: tuple[Entry, ...]) -> None:
        """Count `entries`."""
        for entry in entries:
            if isinstance(entry, Chunk):
                if entry.stream is Stream.STDOUT:
                    self.stdout_bytes += len(entry.data)
                else:
                    self.stderr_bytes += len(entry.data)


@dataclass(frozen=True, slots=True)
class Found:
    """A batch that one follower has read, for others at the same place."""

    batch: LogBatch
    behind: Position


LogTail = Following[Position, Found]


class LogReading:
    """One reading of a log."""

    def __init__(self, directory: str, query: LogQuery, search: LineSearch | None) -> None:
        """Open the log in a job's directory; raises FileNotFoundError where there is none."""
        self._query = query
        self._files = LogFiles(directory)
        self._reader = LogReader(self._files)
        self._filter = Filter(query, search)
        self._search = search
        self._is_over = False
        self._was_past = False
        self.course: Progress | None = None
        """The job's course as it was known before the last look at the log."""
        self.sent = Sent()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    @property
    def position(self) -> Position:
        """Where the reading is."""
        return self._reader.position

    @property
    def read_bytes(self) -> int:
        """How much was read from the disk or its cache so far."""
        return self._files.read_bytes

    async def start(self) -> None:
        """Go to the place where the query begins.

        Raises JobError (LOG_UNREADABLE, CURSOR_INVALID).
        """
        try:
            await self._start()
        except FrameError as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise self._damaged((error.strerror or str(error)).lower()) from error

    async def _start(self) -> None:
        await self._files.check_format()
        query = self._query
        if query.cursor:
            await self._reader.start_at(query.cursor)
            return
        begin = Start(Position())
        if query.since_ns is not None:
            begin = await find_time(self._files, query.since_ns)
        if query.tail_lines is not None:
            begin = await self._find_tail(query.tail_lines, begin)
        self._reader.position, self._reader.latest_ns = begin.position, begin.latest_ns

    async def read(
        self, progress: Callable[[], Progress | None], tail: LogTail | None
    ) -> AsyncIterator[LogBatch]:
        """Yield what the query asks for: with `tail`, until the job has ended.

        `progress` gives the job's course as it is known at the moment. Raises JobError
        (LOG_UNREADABLE) where the log is damaged or shorter than its keeper left it.
        """
        if self._query.tail_lines is not None and not self._query.cursor:
            # The last lines of a later call would be others: a lost connection goes on from here.
            yield LogBatch((), encode_cursor(self._reader.position))
        while True:
            if tail is not None:
                tail.changed.clear()
            # Before the read: a job seen as ended here has written all that the read can find.
            course = self.course = progress()
            ended = course is not None and course.state is State.TERMINATED
            self._was_past = self._is_past()
            async for batch in self._read_present(None if ended or tail is None else tail.shared):
                yield batch
            if ended and not self._is_over and course is not None and self._is_short(course):
                # The list of files may be older than the job's last ones. What is not there now
                # is nowhere.
                self._files.refresh()
                async for batch in self._read_present(None):
                    yield batch
            if self._is_over or ended or tail is None or self._was_past:
                break
            await self._wait(tail.changed)
        gaps: tuple[Entry, ...] = ()
        if ended and course is not None and not self._is_over:
            self._check_end(course)
            gaps = self._last_gaps(course)
        rest = self._filter.finish()
        if rest or gaps:
            yield self._batch((*rest, *gaps), self._reader.position)

    @property
    def is_over(self) -> bool:
        """Whether everything up to the query's own end was given."""
        return self._is_over or self._was_past

    async def _read_present(
        self, shared: SharedTail[Position, Found] | None
    ) -> AsyncIterator[LogBatch]:
        reader = self._reader
        if not self._filter.is_plain:
            shared = None
        while not self._is_over:
            begin = reader.position
            if shared is not None:
                if found := shared.find(begin):
                    reader.position = found.behind
                    self.sent.add(found.batch.entries)
                    yield found.batch
                    continue
                if shared.is_end(begin):
                    return
                changes = shared.changes
            try:
                batch = await reader.read_batch()
            except FrameError as error:
                raise self._damaged(str(error)) from error
            except OSError as error:  # a faulty disk, for one
                raise self._damaged((error.strerror or str(error)).lower()) from error
            if batch is None:
                if shared is not None:
                    shared.put_end(begin, changes)
                return
            reader.position = still_given(reader.position)
            selected = await self._filter.take(batch, reader.position, reader.latest_ns)
            reader.position, self._is_over = selected.reached, selected.is_over
            if selected.entries:
                told = self._batch(selected.entries, selected.position)
                if shared is not None and reader.position.offset - begin.offset <= _SHARED_BYTES:
                    shared.put(begin, Found(told, reader.position))
                yield told
            else:  # nothing else here lets others run
                await asyncio.sleep(0)

    def _batch(self, entries: tuple[Entry, ...], position: Position) -> LogBatch:
        self.sent.add(entries)
        return LogBatch(entries, encode_cursor(position))

    async def _wait(self, changed: asyncio.Event) -> None:
        until_ns = self._query.until_ns
        if until_ns is None:
            await changed.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, (until_ns - time.time_ns()) / 1e9)):
                await changed.wait()

    def _is_past(self) -> bool:
        return self._query.until_ns is not None and time.time_ns() > self._query.until_ns

    def _is_short(self, course: Progress) -> bool:
        return course.log_size is not None and self._reader.position.offset < course.log_size

    def _check_end(self, course: Progress) -> None:
        if self._is_short(course):
            raise self._damaged(f"{course.log_size} bytes were written")

    def _last_gaps(self, course: Progress) -> tuple[Entry, ...]:
        reader = self._reader
        totals = reader.position.totals
        given = sum(totals.written(stream) for stream in Stream)
        if given != sum(course.totals.written(stream) for stream in Stream):
            return ()
        for gap in course.gaps:
            totals = totals.plus(gap)
        reader.position = replace(reader.position, totals=totals)
        return tuple(gap for gap in course.gaps if gap.stream in self._query.streams)

    def _damaged(self, cause: str) -> JobError:
        self._files.refresh()
        if self._files.is_removed:
            return removed_error()
        return JobError(
            Reason.LOG_UNREADABLE,
            f"cannot read the log beyond byte {self.position.offset}: it is damaged there "
            f"({cause})",
            "what came before is whole; the host may have crashed or its disk be faulty",
        )

    # -- the last lines

    async def _find_tail(self, lines: int, lowest: Start) -> Start:
        query = self._query
        if query.until_ns is None:
            end = await find_end(self._files)
        else:
            end = await find_time(self._files, query.until_ns + 1)
        if end.position.offset <= lowest.position.offset:
            return lowest
        if self._search is None or not lines:
            return await find_tail(self._files, lines, query.streams, lowest, end.position)
        return await find_matching_tail(
            self._files, lines, self._search, query.streams, lowest, end.position
        )
