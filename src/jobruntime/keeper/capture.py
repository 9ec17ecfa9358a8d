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
    BLOCK_BYTES,
    FRAME_HEADER,
    Before,
    Gap,
    Stream,
    Totals,
    encode_gap,
    write_header,
)
from ..model.log_policy import LogFull, LogPolicy
from .segments import Segments

_DRAIN_S: Final = 5.0  # the pipes hold 1 MiB each at most: no job's own output takes that
_HEADER: Final = FRAME_HEADER.size
_NEWLINE: Final = ord("\n")
_FULL_DEFAULT_PIPE: Final = 64 * 1024
_PAUSE_MS: Final = 500
_LONGEST_PAUSE_MS: Final = 24 * 3600 * 1000
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class LogFullError(Exception):
    """There is no room, and the job is to wait for it; what was read is held back."""


class Capture:
    """Writes what comes out of a job's pipes to its log; a full disk does not stop it.

    What could not be written is counted in a gap, which goes to the log as soon as there is room;
    or, where the job is to wait, is held back until there is.
    """

    def __init__(self, log: Segments, policy: LogPolicy) -> None:
        """Write to `log`."""
        self._log = log
        self._blocks = policy.on_full is LogFull.BLOCK
        self._stops = policy.on_full is LogFull.STOP_RECORDING
        self._stopped = False
        self._pause_ms = _PAUSE_MS
        self._totals = [0, 0, 0, 0]  # the fields of Totals
        self._open_lines: set[Stream] = set()
        self._first_ns = 0
        self._latest_ns = 0
        self._cause = ""
        self._held: tuple[Stream, int, int] | None = None
        self.gaps: dict[Stream, Gap] = {}
        """Gaps that have found no room in the log yet."""
        self._grown: set[int] = set()

    @cached_property
    def _buffer(self) -> memoryview:
        # Anonymous memory, from the first output on: pages that no read touches cost nothing.
        return memoryview(mmap.mmap(-1, BLOCK_BYTES))

    @property
    def end(self) -> int:
        """Where the log ends: its length, what was dropped from its start included."""
        return self._log.end

    @property
    def totals(self) -> Totals:
        """Bytes of each stream that went to the log so far, and those that found no room."""
        return Totals(*self._totals)

    @property
    def _before(self) -> Before:
        opened = frozenset(self._open_lines)
        return Before(self.totals, opened, self._first_ns, self._latest_ns)

    @property
    def wants_room(self) -> bool:
        """Whether something waits for room, so that `retry` should be called after a while."""
        return self._held is not None or bool(self.gaps)

    @property
    def retry_ms(self) -> int:
        """After how long: longer each time where recording has stopped, for records take room."""
        if self._stopped:
            self._pause_ms = min(2 * self._pause_ms, _LONGEST_PAUSE_MS)
        return self._pause_ms

    def read_once(self, stream: Stream, pipe: int) -> bool:
        """Take one read of `pipe` into the log; return False at its end of file.

        Raises BlockingIOError where the pipe, which is non-blocking, is empty, and LogFullError
        where the job is to wait: then nothing is read until `retry` has returned.
        """
        if self._held is not None:
            raise LogFullError
        length = os.readv(pipe, [self._buffer[_HEADER : self._log.room]])
        if not length:
            return False
        now_ns = time.time_ns()
        if length >= _FULL_DEFAULT_PIPE and pipe not in self._grown:
            self._grow(pipe)
        self._take(stream, length, now_ns)
        return True

    def retry(self) -> None:
        """Write what waits for room; raises LogFullError where the job has to wait on."""
        if self._held is not None:
            held, self._held = self._held, None
            self._take(*held)
        else:
            self._write_gaps()

    def drain(self, pipes: dict[int, Stream]) -> None:
        """Take what is left in `pipes` once the job is dead.

        Ends at each one's end of file or, where somebody outside the job still holds it open, as
        soon as it is empty; at the latest after a while, for he may go on writing.
        """
        self._blocks = False  # there is nobody left who could wait
        if self._held is not None:
            self.retry()
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

    def _take(self, stream: Stream, length: int, now_ns: int) -> None:
        write_header(self._buffer, stream, length, now_ns)
        frame = self._buffer[: _HEADER + length]
        gone = self._stopped or (bool(self.gaps) and not self._write_gaps())
        if not gone and self._write(frame, now_ns):
            self._totals[stream - 1] += length
            if frame[-1] == _NEWLINE:
                self._open_lines.discard(stream)
            else:
                self._open_lines.add(stream)
        elif self._blocks:
            self._held = (stream, length, now_ns)
            raise LogFullError
        else:
            self._lose(stream, length, now_ns)

    def _write(self, frame: memoryview, now_ns: int) -> bool:
        try:
            if not self._log.append(frame):
                self._log.begin_block(frame, self._before)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._cause = error.strerror or str(error)
            self._stopped = self._stopped or (self._stops and self._log.is_at_limit)
            return False
        self._first_ns = self._first_ns or now_ns
        self._latest_ns = max(self._latest_ns, now_ns)
        return True

    def _lose(self, stream: Stream, length: int, now_ns: int) -> None:
        gap = self.gaps.get(stream) or Gap(stream, 0, now_ns, now_ns, self._cause)
        self.gaps[stream] = replace(gap, lost_bytes=gap.lost_bytes + length, last_ns=now_ns)

    def _write_gaps(self) -> bool:
        for stream, gap in list(self.gaps.items()):
            if not self._write(memoryview(encode_gap(gap)), gap.last_ns):
                return False
            self._totals[stream + 1] += gap.lost_bytes
            self._open_lines.discard(stream)
            del self.gaps[stream]
        return True
