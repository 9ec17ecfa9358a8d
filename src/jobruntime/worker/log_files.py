"""The files of a job's log, as their readers find them: segments come, and the oldest go."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from bisect import bisect_right
from typing import Final

from ..model.errors import JobError, Reason
from ..model.frames import (
    BLOCK_BYTES,
    BLOCK_HEADER,
    BlockHeader,
    FrameError,
    parse_block_header,
    parse_segment_name,
    segment_name,
)

_shared: Final = memoryview(mmap.mmap(-1, BLOCK_BYTES))
"""What all readers read into: nothing awaits between a read and the parsing of it, and a buffer
made for each block would cost more than the reading (a page fault for every 4 KiB)."""


class LogFiles:
    """Reads blocks of one log. One segment is open at a time, and readable also once it is gone."""

    def __init__(self, directory: str) -> None:
        """Open the log in a job's directory; raises FileNotFoundError where there is none."""
        self._path = directory
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fd = -1
        self._open = -1
        """The first block of the segment that is open."""
        self._segments: list[int] = []
        self._listed_at = -1
        self.is_removed = False
        """Whether the job has been found removed: what is listed was there before."""
        self.block_bytes = BLOCK_BYTES
        self.read_bytes = 0
        """How much was read from the files so far."""
        try:
            self.refresh()
            if not self._segments or self.is_removed:
                raise FileNotFoundError(errno.ENOENT, "no log", directory)
        except BaseException:
            os.close(self._directory)
            raise

    def close(self) -> None:
        """Close the files."""
        os.close(self._directory)
        if self._fd >= 0:
            os.close(self._fd)

    async def check_format(self) -> None:
        """Learn the size of blocks; raises JobError (LOG_UNREADABLE) for another format."""
        for _ in range(3):  # the first segment may go meanwhile
            try:
                header = await self.read_header(self._segments[0], start=0)
            except FrameError as error:
                raise JobError(
                    Reason.LOG_UNREADABLE,
                    "cannot read the log: it is damaged, or of another version of this program",
                    "read it with the version that wrote it",
                ) from error
            if header is not None:
                self.block_bytes = header.block_bytes
                return
            self.refresh()
        raise JobError(
            Reason.LOG_UNREADABLE,
            "cannot read the log: it is dropped faster than it can be read",
            "give the job a larger --log-max",
        )

    @property
    def first(self) -> int:
        """The oldest block that was there when the files were last looked for."""
        return self._segments[0]

    def last(self) -> int:
        """Return the newest block that has anything in it."""
        self.refresh()
        for first in reversed(self._segments):
            size = os.fstat(self._fd).st_size if self._select(first) else 0
            if size >= BLOCK_HEADER.size:
                return first + (size - BLOCK_HEADER.size) // self.block_bytes
        return self._segments[0]

    def refresh(self) -> None:
        """Look which segments there are; once the job has been removed, nothing changes."""
        listed_at = os.fstat(self._directory).st_mtime_ns
        numbers = map(parse_segment_name, os.listdir(self._directory))
        segments = sorted(number for number in numbers if number is not None)
        # Asked after the listing: files are deleted only once the directory has another path.
        self.is_removed = not segments or not os.path.exists(self._path)
        if not self.is_removed or self._listed_at < 0:
            self._listed_at, self._segments = listed_at, segments

    def is_closed(self, index: int) -> bool:
        """Return whether a block after this one has been begun: nothing more comes to this one."""
        if self.available(index + 1) or index < self._segments[-1]:
            return True
        try:
            os.stat(segment_name(index + 1), dir_fd=self._directory)
        except FileNotFoundError:
            # It may have come and gone already; then others have come, too.
            if os.fstat(self._directory).st_mtime_ns == self._listed_at:
                return False
        self.refresh()
        return bool(self._segments) and index < self._segments[-1]

    def has_beyond(self, index: int) -> bool:
        """Return whether a later segment is there, and the block has not been dropped."""
        self.refresh()
        return bool(self._segments) and self._segments[0] <= index < self._segments[-1]

    def available(self, index: int) -> int | None:
        """Return how many bytes of the block are there now; None: it has been dropped."""
        while (segment := self._segment_of(index)) is not None:
            if not self._select(segment):
                continue  # it has just been dropped, and is listed no more
            size = os.fstat(self._fd).st_size - (index - segment) * self.block_bytes
            if size <= 0 and segment < self._segments[0]:
                return None
            return max(0, min(size, self.block_bytes))
        return None

    async def read(self, index: int, begin: int, end: int) -> memoryview:
        """Return bytes of a block, good until the caller next awaits anything; fewer at its end."""
        segment = self._segment_of(index)
        if segment is None or not self._select(segment):
            return _shared[:0]
        return await self._pread(end - begin, (index - segment) * self.block_bytes + begin)

    async def read_header(self, index: int, start: int | None = None) -> BlockHeader | None:
        """Return the block's header; None where it is not there (any more, or yet).

        Raises FrameError where something else is.
        """
        segment = self._segment_of(index)
        if segment is None or not self._select(segment):
            return None
        place = (index - segment) * self.block_bytes if start is None else start
        data = await self._pread(BLOCK_HEADER.size, place)
        if len(data) < BLOCK_HEADER.size:
            return None
        header = parse_block_header(data)
        if header.index != index:
            raise FrameError(f"block {index} is not where it should be")
        return header

    def _segment_of(self, index: int) -> int | None:
        place = bisect_right(self._segments, index) - 1
        if place < 0:
            return self._open if 0 <= self._open <= index else None
        return self._segments[place]

    def _select(self, segment: int) -> bool:
        if segment == self._open:
            return True
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(segment_name(segment), flags, dir_fd=self._directory)
        except FileNotFoundError as error:
            self.refresh()
            if self.is_removed:
                raise removed_error() from error
            return False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._open = fd, segment
        return True

    async def _pread(self, length: int, offset: int) -> memoryview:
        """Return up to `length` bytes, good until the caller next awaits anything."""
        try:
            # Out of the page cache it takes no time; RWF_NOWAIT refuses to wait for a disk.
            if os.preadv(self._fd, [_shared[:length]], offset, os.RWF_NOWAIT) == length:
                self.read_bytes += length
                return _shared[:length]
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
        block = await asyncio.to_thread(os.pread, self._fd, length, offset)
        self.read_bytes += len(block)
        return memoryview(block)


def removed_error() -> JobError:
    """Return the error for a log whose job is removed while somebody reads it."""
    return JobError(
        Reason.JOB_NOT_FOUND,
        "cannot read the log to its end: its job has just been removed",
        "what came before is whole; the rest is gone",
    )
