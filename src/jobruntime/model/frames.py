"""The log's format on disk: segments of blocks, and in them a frame for each read of the output.

Written down in docs/log-format.md; `VERSION` changes with it. A block has a fixed size, no frame
crosses its end, and its header says what came before it. So a reader finds any place, by time or
from the end, by looking at headers, and can tell whether something is missing between two of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from enum import IntEnum, unique
from typing import Final

VERSION: Final = 2
FRAME_HEADER: Final = struct.Struct("<HBxIQ")
"""A mark, the kind, a zero byte, the length of the data, the time of capture in UTC ns."""
BLOCK_HEADER: Final = struct.Struct("<7sBII7Q")
"""See BlockHeader."""
BLOCK_BYTES: Final = 1 << 20
"""The size of a block, where the log's limit does not ask for smaller ones."""
SMALL_BLOCK_BYTES: Final = 64 * 1024
SEGMENT_BYTES: Final = 64 * BLOCK_BYTES
"""The most bytes in one file."""
MAX_DATA_BYTES: Final = BLOCK_BYTES - BLOCK_HEADER.size - FRAME_HEADER.size
"""The most data in one frame."""

_MAGIC: Final = b"joblog\x00"
_MARK: Final = 0x4C4A
_GAP: Final = struct.Struct("<BxxxxxxxQQQ")
_SEGMENT_PREFIX: Final = "log."
_SEGMENT_DIGITS: Final = 12


@unique
class Stream(IntEnum):
    """One of a job's two output streams; the number is its file descriptor in the job."""

    STDOUT = 1
    STDERR = 2


_KIND_GAP: Final = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one read of a stream gave, and when (UTC ns)."""

    stream: Stream
    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Output that is not in the log: how much, from when until when (UTC ns), and why."""

    stream: Stream
    lost_bytes: int
    first_ns: int
    last_ns: int
    cause: str


Entry = Chunk | Gap


def time_of(entry: Entry) -> int:
    """Return when the entry was captured, or the last of it (UTC ns)."""
    return entry.time_ns if isinstance(entry, Chunk) else entry.last_ns


@dataclass(frozen=True, slots=True)
class Totals:
    """Bytes of each stream up to some position: those that are there, and those in gaps."""

    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_lost_bytes: int = 0
    stderr_lost_bytes: int = 0

    @property
    def lost_bytes(self) -> int:
        """Bytes in gaps, of both streams."""
        return self.stdout_lost_bytes + self.stderr_lost_bytes

    def written(self, stream: Stream) -> int:
        """Return how many bytes the job had written to `stream`, kept or not."""
        if stream is Stream.STDOUT:
            return self.stdout_bytes + self.stdout_lost_bytes
        return self.stderr_bytes + self.stderr_lost_bytes

    def kept(self, stream: Stream) -> int:
        """Return how many bytes of `stream` are there."""
        return self.stdout_bytes if stream is Stream.STDOUT else self.stderr_bytes

    def lost(self, stream: Stream) -> int:
        """Return how many bytes of `stream` are in gaps."""
        return self.stdout_lost_bytes if stream is Stream.STDOUT else self.stderr_lost_bytes

    def plus(self, entry: Entry) -> Totals:
        """Return the totals behind `entry`."""
        counts = [
            self.stdout_bytes,
            self.stderr_bytes,
            self.stdout_lost_bytes,
            self.stderr_lost_bytes,
        ]
        if isinstance(entry, Chunk):
            counts[entry.stream - 1] += len(entry.data)
        else:
            counts[entry.stream + 1] += entry.lost_bytes
        return Totals(*counts)


@dataclass(frozen=True, slots=True)
class Before:
    """What came before some place in the log."""

    totals: Totals = Totals()
    open_lines: frozenset[Stream] = frozenset()
    """Streams whose last byte is no newline."""
    first_ns: int = 0
    """When the log's first frame was captured; 0 where there is none."""
    latest_ns: int = 0
    """The latest time of capture, also where the clock was set back since."""


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What stands at the start of a block: where it is, and what came before it."""

    block_bytes: int
    index: int
    """The block's number, from 0; `index * block_bytes` is its place in the log."""
    before: Before = Before()

    @property
    def totals(self) -> Totals:
        """Bytes of each stream before the block."""
        return self.before.totals

    @property
    def latest_ns(self) -> int:
        """The latest time of capture before the block; never less than an earlier block's."""
        return self.before.latest_ns


class FrameError(ValueError):
    """The bytes are not frames: the file is damaged there, or the position is not a frame's."""


def block_bytes_for(limit_bytes: int | None) -> int:
    """Return the size of the blocks of a log that may have `limit_bytes`."""
    return SMALL_BLOCK_BYTES if limit_bytes and limit_bytes < 16 * BLOCK_BYTES else BLOCK_BYTES


def segment_name(block_index: int) -> str:
    """Return the name of the file that begins with this block."""
    return f"{_SEGMENT_PREFIX}{block_index:0{_SEGMENT_DIGITS}d}"


def parse_segment_name(name: str) -> int | None:
    """Return the number of the first block in the file of this name; None: it is no segment."""
    digits = name.removeprefix(_SEGMENT_PREFIX)
    if len(digits) != _SEGMENT_DIGITS or not digits.isascii() or not digits.isdigit():
        return None
    return int(digits)


def encode_block_header(header: BlockHeader) -> bytes:
    """Return the bytes at the start of a block."""
    before = header.before
    return BLOCK_HEADER.pack(
        _MAGIC,
        VERSION,
        header.block_bytes,
        sum(stream.value for stream in before.open_lines),
        header.index,
        *astuple(before.totals),
        before.first_ns,
        before.latest_ns,
    )


def parse_block_header(block: bytes | memoryview) -> BlockHeader:
    """Return the header at the start of `block`; raises FrameError where there is none."""
    if len(block) < BLOCK_HEADER.size:
        raise FrameError("a block's header is cut")
    magic, version, size, flags, index, *counts, first_ns, latest_ns = BLOCK_HEADER.unpack_from(
        block
    )
    if (
        magic != _MAGIC
        or version != VERSION
        or size & (size - 1)
        or not 1 << 12 <= size <= BLOCK_BYTES
    ):
        raise FrameError("no block starts here")
    open_lines = frozenset(stream for stream in Stream if flags & stream)
    return BlockHeader(size, index, Before(Totals(*counts), open_lines, first_ns, latest_ns))


def write_header(buffer: memoryview, stream: Stream, length: int, time_ns: int) -> None:
    """Put the header of a frame of `length` data bytes at the start of `buffer`."""
    FRAME_HEADER.pack_into(buffer, 0, _MARK, stream, length, time_ns)


def encode_gap(gap: Gap) -> bytes:
    """Return the whole frame of a gap."""
    body = _GAP.pack(gap.stream, gap.lost_bytes, gap.first_ns, gap.last_ns) + gap.cause.encode()
    return FRAME_HEADER.pack(_MARK, _KIND_GAP, len(body), gap.last_ns) + body


def is_block_end(rest: memoryview) -> bool:
    """Return whether the writer has left `rest`, the rest of a block, empty."""
    return len(rest) < 2 or (rest[0] == 0 and rest[1] == 0)


def parse_frames(block: bytes | bytearray | memoryview) -> Iterator[tuple[int, Entry]]:
    """Yield the whole frames in `block`, each with the position behind it.

    It ends where the rest of the block is empty, and before a cut last frame. Raises FrameError
    where a frame should start and none does.
    """
    view = memoryview(block)
    position = 0
    size = len(view)
    header = FRAME_HEADER.size
    unpack = FRAME_HEADER.unpack_from
    while position + header <= size:
        mark, kind, length, time_ns = unpack(view, position)
        if mark != _MARK or not 1 <= kind <= _KIND_GAP or length > MAX_DATA_BYTES:
            if mark == 0 and kind == 0 and length == 0:
                return
            raise FrameError(f"no frame starts at {position}")
        end = position + header + length
        if end > size:
            return
        data = bytes(view[position + header : end])
        yield end, _parse_gap(data) if kind == _KIND_GAP else Chunk(Stream(kind), time_ns, data)
        position = end


def _parse_gap(body: bytes) -> Gap:
    try:
        stream, lost, first_ns, last_ns = _GAP.unpack_from(body)
        return Gap(Stream(stream), lost, first_ns, last_ns, body[_GAP.size :].decode())
    except (struct.error, ValueError) as error:
        raise FrameError("a gap record is damaged") from error
