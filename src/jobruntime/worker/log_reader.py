"""Reading a log from a position on: its frames in their order, and gaps where some are missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ..model.errors import JobError, Reason
from ..model.frames import (
    BLOCK_HEADER,
    Chunk,
    Entry,
    FrameError,
    Gap,
    Stream,
    Totals,
    is_block_end,
    parse_frames,
    time_of,
)
from .log_files import LogFiles

DROPPED: Final = "dropped to make room for newer output"
_HEADER: Final = BLOCK_HEADER.size
_MAX_POSITION: Final = 1 << 62  # far beyond any file, and every number fits the API's
_CURSOR_VERSION: Final = "2"


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two frames, and what the log holds up to it."""

    offset: int = _HEADER
    """Counted from the log's very first byte, whether that is there still or not."""
    totals: Totals = Totals()
    given_stdout: int = 0
    """What comes before this byte of the stream is not wanted (any more); 0: nothing but what lies
    before `offset`."""
    given_stderr: int = 0

    def given(self, stream: Stream) -> int:
        """Return the byte of the stream from which on it is wanted."""
        return self.given_stdout if stream is Stream.STDOUT else self.given_stderr


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry and the place behind it."""

    end: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Frames of one block, in order, and where they begin."""

    begin: Position
    placed: tuple[Placed, ...]


def encode_cursor(position: Position) -> str:
    """Return `position` as the opaque word that callers keep."""
    totals = position.totals
    numbers = [
        *(position.offset, totals.stdout_bytes, totals.stderr_bytes),
        *(totals.stdout_lost_bytes, totals.stderr_lost_bytes),
    ]
    if position.given_stdout or position.given_stderr:
        numbers += [position.given_stdout, position.given_stderr]
    return ":".join([_CURSOR_VERSION, *map(str, numbers)])


def parse_cursor(cursor: str) -> Position:
    """Return the position that `cursor` names; raises JobError (CURSOR_INVALID) if none."""
    version, *words = cursor[:160].split(":")
    numbers = [int(word) for word in words if word.isascii() and word.isdigit()]
    if version != _CURSOR_VERSION or len(words) not in (5, 7) or len(numbers) != len(words):
        raise bad_cursor(cursor)
    if numbers[0] < _HEADER or sum(numbers) >= _MAX_POSITION:
        raise bad_cursor(cursor)
    return Position(numbers[0], Totals(*numbers[1:5]), *numbers[5:])


def bad_cursor(cursor: str) -> JobError:
    """Return the error for a cursor that is not one of this log's."""
    return JobError(
        Reason.CURSOR_INVALID,
        f"cannot read the log from cursor {cursor[:64]!r}: it is not one of this log's",
        "use the cursor of a message that this job's log gave, or none",
    )


class LogReader:
    """Reads frames of a log from a position on. Holds no more than one block of it."""

    def __init__(self, files: LogFiles) -> None:
        """Read from the first byte on; the format has been checked."""
        self._files = files
        self.position = Position()
        self.latest_ns = 0
        """The latest time of capture before the block that is read."""

    async def start_at(self, cursor: str) -> None:
        """Go on at `cursor`; raises JobError (CURSOR_INVALID) where it is no place in this log."""
        position = parse_cursor(cursor)
        index, inside = self._place(position)
        if index < self._files.first:
            self.position = position  # it has been dropped since: what is missing is told
            return
        try:
            header = await self._files.read_header(index)
            if header is None:
                raise FrameError("there is no such block")
            totals, end, latest_ns = header.totals, _HEADER, header.latest_ns
            for behind, entry in parse_frames(await self._files.read(index, _HEADER, inside)):
                totals, end = totals.plus(entry), _HEADER + behind
                latest_ns = max(latest_ns, time_of(entry))
        except FrameError as error:
            raise bad_cursor(cursor) from error
        if end != inside or not _same_output(totals, position.totals):
            raise bad_cursor(cursor)
        self.position = position
        self.latest_ns = latest_ns

    async def read_batch(self) -> RawBatch | None:
        """Return the next whole frames, at most a block; None at the present end.

        Raises FrameError where the log is damaged.
        """
        is_closed = False
        while True:
            index, inside = self._place(self.position)
            available = self._files.available(index)
            if available is None:
                return await self._pass_dropped()
            rest = memoryview(b"")
            if available > inside:
                rest = await self._files.read(index, inside, available)
                if batch := self._take(rest):
                    return batch
            if not is_closed:
                # Asked after the read: a block that is closed now may have grown since.
                is_closed = self._files.is_closed(index)
                if not is_closed:
                    return None
                continue
            if not is_block_end(rest):
                raise FrameError("a frame is cut")
            if self._files.available(index + 1) is None:
                return await self._pass_dropped()
            if not await self._enter(index + 1):
                if not self._files.has_beyond(index + 1):
                    return None
                # It is whole by now, unless it has been dropped meanwhile.
                if not await self._enter(index + 1) and self._files.has_beyond(index + 1):
                    raise FrameError(f"block {index + 1} is missing")
            is_closed = False

    def _place(self, position: Position) -> tuple[int, int]:
        # The end of a full block is a place in it, not in the next.
        index = (position.offset - 1) // self._files.block_bytes
        return index, position.offset - index * self._files.block_bytes

    def _take(self, rest: memoryview) -> RawBatch | None:
        begin = self.position
        placed: list[Placed] = []
        try:
            for behind, entry in parse_frames(rest):
                placed.append(Placed(begin.offset + behind, entry))
        except FrameError:
            if not placed:  # what is whole before the damage is given first
                raise
        if not placed:
            return None
        totals = add_all(begin.totals, placed)
        self.position = replace(begin, offset=placed[-1].end, totals=totals)
        return RawBatch(begin, tuple(placed))

    async def _enter(self, index: int) -> bool:
        header = await self._files.read_header(index)
        if header is None:
            return False
        if not _same_output(header.totals, self.position.totals):
            raise FrameError(f"something is missing before block {index}")
        self.position = replace(self.position, offset=index * self._files.block_bytes + _HEADER)
        self.latest_ns = header.latest_ns
        return True

    async def _pass_dropped(self) -> RawBatch | None:
        self._files.refresh()
        first = self._files.first
        header = await self._files.read_header(first)
        if header is None:
            return None  # it is being written, or was dropped as well: both are told by a change
        begin = self.position
        since_ns = self.latest_ns or header.before.first_ns
        self.latest_ns = header.latest_ns
        gaps: list[Entry] = []
        for stream in Stream:
            lost = header.totals.written(stream) - begin.totals.written(stream)
            if lost > 0:
                gaps.append(Gap(stream, lost, since_ns, header.latest_ns, DROPPED))
        offset = first * self._files.block_bytes + _HEADER
        placed = tuple(Placed(offset, gap) for gap in gaps)
        self.position = replace(begin, offset=offset, totals=add_all(begin.totals, placed))
        return RawBatch(begin, placed)


def still_given(position: Position) -> Position:
    """Return `position` without what of its given bytes lies before it."""
    given = [
        position.given(stream) if position.given(stream) > position.totals.written(stream) else 0
        for stream in Stream
    ]
    if given == [position.given_stdout, position.given_stderr]:
        return position
    return replace(position, given_stdout=given[0], given_stderr=given[1])


def add_all(totals: Totals, placed: tuple[Placed, ...] | list[Placed]) -> Totals:
    """Return the totals behind all of `placed`."""
    counts = [0, 0, 0, 0]
    for item in placed:
        entry = item.entry
        if isinstance(entry, Chunk):
            counts[entry.stream - 1] += len(entry.data)
        else:
            counts[entry.stream + 1] += entry.lost_bytes
    return Totals(
        totals.stdout_bytes + counts[0],
        totals.stderr_bytes + counts[1],
        totals.stdout_lost_bytes + counts[2],
        totals.stderr_lost_bytes + counts[3],
    )


def _same_output(one: Totals, other: Totals) -> bool:
    # What was dropped since counts as lost for who comes later, and as kept for who had it.
    return all(one.written(stream) == other.written(stream) for stream in Stream)
