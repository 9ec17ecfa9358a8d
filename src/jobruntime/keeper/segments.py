"""The files of one job's log, written at their end: blocks in segments, within a size or not."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from ..linux.files import acting_as, create_exclusive
from ..model.frames import (
    BLOCK_HEADER,
    FRAME_HEADER,
    SEGMENT_BYTES,
    Before,
    BlockHeader,
    block_bytes_for,
    encode_block_header,
    segment_name,
)
from ..model.log_policy import LogFull, LogPolicy

_HEADER: Final = BLOCK_HEADER.size
_LEAST_ROOM: Final = FRAME_HEADER.size + 4096
"""A block with less than this left is closed: frames of a few bytes would cost more than they
hold."""
_SEGMENTS_OF_A_LIMIT: Final = 8
_GAPS_BYTES: Final = 2048
"""Kept free in each block of a log that stops at its size: for records of what came after that."""


class Segments:
    """Appends to a log, in which it drops the oldest segment where the policy says so.

    A write that finds no room raises OSError and leaves the log as it was.
    """

    def __init__(
        self,
        first: int,
        directory: int,
        policy: LogPolicy,
        reserve_bytes: int,
        owner: int | None = None,
    ) -> None:
        """Go on in the open file `first`, which has the first block's header and nothing else.

        Further files are made as user `owner`, whose directory it is.
        """
        self._owner = owner
        self._fd = first
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._max_bytes = policy.max_bytes
        self._drops_oldest = policy.on_full is LogFull.DROP_OLDEST
        self._spare = _GAPS_BYTES if policy.on_full is LogFull.STOP_RECORDING else 0
        self.block_bytes = block_bytes_for(policy.max_bytes)
        blocks = SEGMENT_BYTES // self.block_bytes
        if policy.max_bytes is not None:
            blocks = min(blocks, policy.max_bytes // self.block_bytes // _SEGMENTS_OF_A_LIMIT)
        self._segment_blocks = max(1, blocks)
        self._segments = [0]
        self.is_at_limit = False
        """Whether a write was refused because the log has its size."""
        self.end = _HEADER
        """Where the next frame goes: its place in the log, counted from the very first byte."""

    @property
    def room(self) -> int:
        """How many bytes the next frame may have."""
        left = self._left - self._spare
        return left if left >= _LEAST_ROOM else self.block_bytes - _HEADER - self._spare

    @property
    def _left(self) -> int:
        # None where the next segment is open already, and its first write found no room.
        begun = self.end > self._segments[-1] * self.block_bytes
        return -self.end % self.block_bytes if begun else 0

    def append(self, frame: memoryview) -> bool:
        """Append a frame of at most `room` bytes; False: `begin_block` has to take it."""
        if len(frame) > self._left:
            return False
        self._put([frame], self.end)
        self.end += len(frame)
        return True

    def begin_block(self, frame: memoryview, before: Before) -> None:
        """Begin a block with a frame of at most `room` bytes."""
        index = -(-self.end // self.block_bytes)
        self._check_disk()
        self._make_room(index)
        if index >= self._segments[-1] + self._segment_blocks:
            self._open_segment(index)
        place = index * self.block_bytes
        begin = max(self.end, self._segments[-1] * self.block_bytes)
        header = encode_block_header(BlockHeader(self.block_bytes, index, before))
        # In one write: a header alone would be taken for the end of the log for ever. The rest of
        # the block before it is written, because readers would wait for the disk to read a hole.
        self._put([bytes(place - begin), header, frame], begin)
        self.end = place + _HEADER + len(frame)

    def _put(self, parts: list[bytes | memoryview], place: int) -> None:
        offset = start = place - self._segments[-1] * self.block_bytes
        try:
            left = sum(map(len, parts))
            while True:
                written = os.pwritev(self._fd, parts, offset)
                left -= written
                if not left:
                    return
                offset += written
                parts = [memoryview(b"".join(parts))[written:]]
        except OSError:
            os.ftruncate(self._fd, start)
            raise

    def _check_disk(self) -> None:
        if self._reserve_bytes:
            found = os.fstatvfs(self._fd)
            if found.f_bavail * found.f_frsize < self._reserve_bytes:
                raise OSError(errno.ENOSPC, "the free room that the server keeps is reached")

    def _make_room(self, index: int) -> None:
        if self._max_bytes is None:
            return
        while (index + 1 - self._segments[0]) * self.block_bytes > self._max_bytes:
            if not self._drops_oldest:
                self.is_at_limit = True
                raise OSError(errno.EFBIG, "the log has the size that it may have")
            if len(self._segments) == 1:
                self._open_segment(index)
            os.unlink(segment_name(self._segments.pop(0)), dir_fd=self._directory)

    def _open_segment(self, index: int) -> None:
        name = segment_name(index)
        with contextlib.suppress(FileNotFoundError):  # of a try that found no room
            os.unlink(name, dir_fd=self._directory)
        with acting_as(self._owner):
            fd = create_exclusive(name, self._directory)
        os.close(self._fd)
        self._fd = fd
        self._segments.append(index)
