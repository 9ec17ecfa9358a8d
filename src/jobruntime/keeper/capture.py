"""The capture of a job's output: from its pipes into its log, one frame for each read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import time
from dataclasses import replace
from functools import cached_property
from typing import Final

from ..model.frames import (
    FRAME_HEADER,
    MAX_DATA_BYTES,
    Gap,
    Stream,
    Totals,
    encode_gap,
    write_header,
)

_DRAIN_S: Final = 5.0  # the pipes hold 1 MiB each at most: no job's own output takes that
_HEADER: Final = FRAME_HEADER.size
_FULL_DEFAULT_PIPE: Final = 64 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class Capture:
    """Writes what comes out of a job's pipes to its log; a full disk does not stop it.

    What could not be written is counted in a gap, which goes to the log as soon as there is room.
    """

    def __init__(self, log: int, size: int) -> None:
        """Go on in the open file `log`, `size` bytes long so far."""
        self._log = log
        self.size = size
        """Length of the log in bytes, whole frames only."""
        self._kept = {Stream.STDOUT: 0, Stream.STDERR: 0}
        self._lost_bytes = 0
        self._cause = ""
        self.gaps: dict[Stream, Gap] = {}
        """Gaps that have found no room in the log yet."""
        self._grown: set[int] = set()

    @cached_property
    def _buffer(self) -> memoryview:
        # Anonymous memory, from the first output on: pages that no read touches cost nothing.
        return memoryview(mmap.mmap(-1, _HEADER + MAX_DATA_BYTES))

    @cached_property
    def _data(self) -> memoryview:
        return self._buffer[_HEADER:]

    @property
    def totals(self) -> Totals:
        """Bytes of each stream in the log so far, and those that found no room."""
        return Totals(self._kept[Stream.STDOUT], self._kept[Stream.STDERR], self._lost_bytes)

    def read_once(self, stream: Stream, pipe: int) -> bool:
        """Take one read of `pipe` into the log; return False at its end of file.

        Raises BlockingIOError where the pipe, which is non-blocking, is empty.
        """
        length = os.readv(pipe, [self._data])
        if not length:
            return False
        now_ns = time.time_ns()
        if length >= _FULL_DEFAULT_PIPE and pipe not in self._grown:
            self._grow(pipe)
        self._append(stream, length, now_ns)
        return True

    def drain(self, pipes: dict[int, Stream]) -> None:
        """Take what is left in `pipes` once the job is dead.

        Ends at each one's end of file or, where somebody outside the job still holds it open, as
        soon as it is empty; at the latest after a while, for he may go on writing.
        """
        deadline = time.monotonic() + _DRAIN_S
        for pipe, stream in pipes.items():
            with contextlib.suppress(BlockingIOError):
                while self.read_once(stream, pipe) and time.monotonic() < deadline:
                    pass

    def finish(self) -> None:
        """Write the gaps that are still open, if there is room; what stays is in `gaps`."""
        self._write_gaps()

    def _grow(self, pipe: int) -> None:
        # Only for a job that writes much: pipe memory is limited per user (pipe(7)).
        self._grown.add(pipe)
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
        except PermissionError:
            pass  # the user's share of pipe memory is used up: slower, not wrong

    def _append(self, stream: Stream, length: int, now_ns: int) -> None:
        write_header(self._buffer, stream, length, now_ns)
        if (self.gaps and not self._write_gaps()) or not self._write(
            self._buffer[: _HEADER + length]
        ):
            self._lose(stream, length, now_ns)
        else:
            self._kept[stream] += length

    def _write(self, frame: bytes | memoryview) -> bool:
        offset = self.size
        view = memoryview(frame)
        try:
            while view:
                written = os.pwrite(self._log, view, offset)
                offset += written
                view = view[written:]
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._cause = os.strerror(error.errno)
            os.ftruncate(self._log, self.size)
            return False
        self.size = offset
        return True

    def _lose(self, stream: Stream, length: int, now_ns: int) -> None:
        gap = self.gaps.get(stream) or Gap(stream, 0, now_ns, now_ns, self._cause)
        self.gaps[stream] = replace(gap, lost_bytes=gap.lost_bytes + length, last_ns=now_ns)
        self._lost_bytes += length

    def _write_gaps(self) -> bool:
        for stream, gap in list(self.gaps.items()):
            if not self._write(encode_gap(gap)):
                return False
            del self.gaps[stream]
        return True
