"""Reading a job's log: from a position in the file to its end, and on while it grows."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

from ..model.errors import JobError, Reason
from ..model.frames import (
    FILE_HEADER,
    FRAME_HEADER,
    MAX_DATA_BYTES,
    Entry,
    FrameError,
    Gap,
    Stream,
    Totals,
    frame_length,
    parse_frames,
)
from ..model.record import Progress
from ..model.state import State
from .api import LogBatch

_BLOCK_BYTES: Final = FRAME_HEADER.size + MAX_DATA_BYTES
_MAX_POSITION: Final = 1 << 62  # far beyond any file, and every number fits the API's
_shared: Final = memoryview(mmap.mmap(-1, _BLOCK_BYTES))
"""What all readers read into: nothing awaits between a read and the parsing of it, and a buffer
made for each block would cost more than the reading (a page fault for every 4 KiB)."""
_CURSOR_VERSION: Final = "1"


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two frames, and what the log holds up to it."""

    offset: int = len(FILE_HEADER)
    totals: Totals = Totals()


def encode_cursor(position: Position) -> str:
    """Return `position` as the opaque word that callers keep."""
    totals = position.totals
    numbers = (position.offset, totals.stdout_bytes, totals.stderr_bytes, totals.lost_bytes)
    return ":".join([_CURSOR_VERSION, *map(str, numbers)])


def parse_cursor(cursor: str) -> Position:
    """Return the position that `cursor` names; raises JobError (CURSOR_INVALID) if none."""
    if not cursor:
        return Position()
    version, *words = cursor[:128].split(":")
    numbers = [int(word) for word in words if word.isascii() and word.isdigit()]
    if version != _CURSOR_VERSION or len(words) != 4 or len(numbers) != 4:
        raise bad_cursor(cursor)
    if numbers[0] < len(FILE_HEADER) or sum(numbers) >= _MAX_POSITION:
        raise bad_cursor(cursor)
    return Position(numbers[0], Totals(*numbers[1:]))


def bad_cursor(cursor: str) -> JobError:
    """Return the error for a cursor that is not one of this log's."""
    return JobError(
        Reason.CURSOR_INVALID,
        f"cannot read the log from cursor {cursor[:64]!r}: it is not one of this log's",
        "use the cursor of a message that this job's log gave, or none",
    )


class LogReader:
    """Reads frames of one log file from a position on. Holds no more than one block of it."""

    def __init__(self, path: str, position: Position) -> None:
        """Open the log; raises FileNotFoundError where the job has none."""
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.position = position

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    async def check_start(self, cursor: str, *, ended: bool) -> None:
        """Refuse a file of another format, and a start that is not between two frames.

        Raises JobError (LOG_UNREADABLE, CURSOR_INVALID).
        """
        if await self._pread(len(FILE_HEADER), 0) != FILE_HEADER:
            raise JobError(
                Reason.LOG_UNREADABLE,
                "cannot read the log: it is damaged, or of another version of this program",
                "read it with the version that wrote it",
            )
        size = os.fstat(self._fd).st_size
        header = await self._pread(FRAME_HEADER.size, self.position.offset)
        try:
            if self.position.offset > size:
                raise FrameError("behind the end")
            if header and frame_length(header) is None and ended:
                raise FrameError("in the middle of the last frame")
        except FrameError:
            raise bad_cursor(cursor) from None

    async def read_batch(self) -> LogBatch | None:
        """Return the next whole frames, up to about 1 MiB; None at the present end.

        Raises FrameError where the file is damaged.
        """
        available = os.fstat(self._fd).st_size - self.position.offset
        if available < FRAME_HEADER.size:
            return None
        block = await self._pread(min(available, _BLOCK_BYTES), self.position.offset)
        entries: list[Entry] = []
        end = 0
        try:
            for behind, entry in parse_frames(block):
                entries.append(entry)
                end = behind
        except FrameError:
            if not entries:  # what is whole before the damage is given first
                raise
        if not entries:
            return None
        self.position = Position(self.position.offset + end, _add(self.position.totals, entries))
        return LogBatch(tuple(entries), encode_cursor(self.position))

    async def _pread(self, length: int, offset: int) -> memoryview:
        """Return up to `length` bytes, good until the caller next awaits anything."""
        try:
            # Out of the page cache it takes no time; RWF_NOWAIT refuses to wait for a disk.
            if os.preadv(self._fd, [_shared[:length]], offset, os.RWF_NOWAIT) == length:
                return _shared[:length]
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
        block = await asyncio.to_thread(os.pread, self._fd, length, offset)
        return memoryview(block)


def _add(totals: Totals, entries: list[Entry]) -> Totals:
    stdout = stderr = lost = 0
    for entry in entries:
        if isinstance(entry, Gap):
            lost += entry.lost_bytes
        elif entry.stream is Stream.STDOUT:
            stdout += len(entry.data)
        else:
            stderr += len(entry.data)
    return Totals(
        totals.stdout_bytes + stdout, totals.stderr_bytes + stderr, totals.lost_bytes + lost
    )


async def read_log(
    reader: LogReader,
    progress: Callable[[], Progress | None],
    changed: asyncio.Event | None,
) -> AsyncIterator[LogBatch]:
    """Yield the log's batches: with `changed`, until the job has ended, else to the present end.

    `progress` gives the job's course as it is known at the moment. Raises JobError
    (LOG_UNREADABLE) where the log is damaged or shorter than its keeper left it.
    """
    while True:
        if changed is not None:
            changed.clear()
        # Before the read: a job seen as ended here has written all that the read can find.
        course = progress()
        ended = course is not None and course.state is State.TERMINATED
        try:
            while batch := await reader.read_batch():
                yield batch
        except FrameError as error:
            raise _damaged(reader.position, str(error)) from error
        if ended and course is not None:
            if final := _final_batch(reader, course):
                yield final
            return
        if changed is None:
            return
        await changed.wait()


def _final_batch(reader: LogReader, course: Progress) -> LogBatch | None:
    size = course.log_size
    if size is not None and reader.position.offset < size:
        raise _damaged(reader.position, f"{size} bytes were written")
    if not course.gaps or course.totals == reader.position.totals:
        return None
    position = reader.position
    reader.position = replace(position, totals=_add(position.totals, list(course.gaps)))
    return LogBatch(course.gaps, encode_cursor(reader.position))


def _damaged(position: Position, cause: str) -> JobError:
    return JobError(
        Reason.LOG_UNREADABLE,
        f"cannot read the log beyond byte {position.offset}: it is damaged there ({cause})",
        "what came before is whole; the host may have crashed or its disk be faulty",
    )
