"""The log's format on disk: a header, then one frame for each read of the job's output.

Written down in docs/log-format.md; `VERSION` changes with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

VERSION: Final = 1
FILE_HEADER: Final = b"joblog\x00" + bytes([VERSION])
FRAME_HEADER: Final = struct.Struct("<HBxIQ")
"""A mark, the kind, a zero byte, the length of the data, the time of capture in UTC ns."""
MAX_DATA_BYTES: Final = (1 << 20) - FRAME_HEADER.size
"""The most data in one frame: with its header 1 MiB, the largest pipe that users get."""

_MARK: Final = 0x4C4A
_GAP: Final = struct.Struct("<BxxxxxxxQQQ")


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
    """Output that was read from the job and could not be kept: how much, from when until when."""

    stream: Stream
    lost_bytes: int
    first_ns: int
    last_ns: int
    cause: str


Entry = Chunk | Gap


@dataclass(frozen=True, slots=True)
class Totals:
    """Bytes of each stream that the log holds up to some position, and bytes that it lacks."""

    stdout_bytes: int = 0
    stderr_bytes: int = 0
    lost_bytes: int = 0


class FrameError(ValueError):
    """The bytes are not frames: the file is damaged there, or the position is not a frame's."""


def write_header(buffer: memoryview, stream: Stream, length: int, time_ns: int) -> None:
    """Put the header of a frame of `length` data bytes at the start of `buffer`."""
    FRAME_HEADER.pack_into(buffer, 0, _MARK, stream, length, time_ns)


def encode_gap(gap: Gap) -> bytes:
    """Return the whole frame of a gap."""
    body = _GAP.pack(gap.stream, gap.lost_bytes, gap.first_ns, gap.last_ns) + gap.cause.encode()
    return FRAME_HEADER.pack(_MARK, _KIND_GAP, len(body), gap.last_ns) + body


def frame_length(block: memoryview) -> int | None:
    """Return the length in bytes of the frame that starts `block`; None if its header is cut.

    Raises FrameError where no frame starts there.
    """
    if len(block) < FRAME_HEADER.size:
        return None
    mark, kind, length, _ = FRAME_HEADER.unpack_from(block)
    if mark != _MARK or not 1 <= kind <= _KIND_GAP or length > MAX_DATA_BYTES:
        raise FrameError("no frame starts here")
    return FRAME_HEADER.size + int(length)


def parse_frames(block: bytes | bytearray | memoryview) -> Iterator[tuple[int, Entry]]:
    """Yield the whole frames in `block`, each with the position behind it; a cut last one is left.

    Raises FrameError where a frame should start and none does.
    """
    view = memoryview(block)
    position = 0
    size = len(view)
    header = FRAME_HEADER.size
    unpack = FRAME_HEADER.unpack_from
    while position + header <= size:
        mark, kind, length, time_ns = unpack(view, position)
        if mark != _MARK or not 1 <= kind <= _KIND_GAP or length > MAX_DATA_BYTES:
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
