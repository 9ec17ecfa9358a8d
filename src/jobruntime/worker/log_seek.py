"""Finding a place in a log by time, or by lines from its end, without reading what lies between."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import astuple, dataclass, replace
from typing import Final, NamedTuple

from ..model.frames import (
    BLOCK_HEADER,
    BlockHeader,
    Chunk,
    FrameError,
    Stream,
    Totals,
    parse_frames,
    time_of,
)
from .log_files import LogFiles
from .log_filter import LineFilter, LineSearch, Match
from .log_reader import LogReader, Position

_HEADER: Final = BLOCK_HEADER.size
_FAR_BLOCKS: Final = 16
"""How far back the beginning of a line is looked for, where the other stream has all between."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin, and the latest time of capture before the block of that place."""

    position: Position
    latest_ns: int = 0


async def find_end(files: LogFiles) -> Start:
    """Return the present end."""
    return await _find_in(files, files.last(), None)


async def find_time(files: LogFiles, time_ns: int) -> Start:
    """Return the place before the first frame captured at `time_ns` or later, or the present end.

    A frame counts as captured when the latest before it was, where the clock was set back.
    """
    low, high = files.first, files.last()
    oldest = await _header(files, low)
    if oldest is not None and low and oldest.latest_ns >= time_ns:
        return Start(Position())  # what was dropped reaches into that time
    while low < high:  # the last block before which all is earlier
        middle = (low + high + 1) // 2
        header = await _header(files, middle)
        if header is None:  # so the first is behind it by now
            low = max(files.first, middle + 1)
            high = max(high, low)
        elif header.latest_ns < time_ns:
            low = middle
        else:
            high = middle - 1
    return await _find_in(files, low, time_ns)


async def _find_in(files: LogFiles, index: int, time_ns: int | None) -> Start:
    header = await _header(files, index)
    if header is None:
        return Start(Position())  # dropped meanwhile: what is missing is told
    totals, inside, latest_ns = header.totals, _HEADER, header.latest_ns
    with contextlib.suppress(FrameError):  # it ends before the damage, where the reader meets it
        for behind, entry in parse_frames(await _content(files, index)):
            latest_ns = max(latest_ns, time_of(entry))
            if time_ns is not None and latest_ns >= time_ns:
                break
            totals, inside = totals.plus(entry), _HEADER + behind
    return Start(Position(index * files.block_bytes + inside, totals), header.latest_ns)


async def _header(files: LogFiles, index: int) -> BlockHeader | None:
    """Return a block's header; None where the block has been dropped meanwhile.

    Raises FrameError where it is damaged, or missing.
    """
    for _ in range(2):  # the first look may have been at files that have come or gone since
        if header := await files.read_header(index):
            return header
        files.refresh()
        if index < files.first:
            return None
    raise FrameError(f"block {index} is missing")


async def _content(files: LogFiles, index: int) -> memoryview:
    available = files.available(index) or 0
    return await files.read(index, _HEADER, max(_HEADER, available))


class _Frame(NamedTuple):
    """A chunk of a wanted stream: where it is, what came before it, and its data."""

    offset: int
    before: tuple[int, int, int, int]
    """The fields of Totals."""
    stream: Stream
    data: bytes

    @property
    def position(self) -> Position:
        """The place before it."""
        return Position(self.offset, Totals(*self.before))

    @property
    def begin(self) -> int:
        """Where its data begin, as a byte of the stream."""
        return self.before[self.stream - 1] + self.before[self.stream + 1]


class _TailSearch:
    """Takes chunks from the last to the first, until the start of the last lines is known.

    A line lies where its last byte does. Once the end of the line before the first wanted one is
    found, a line of the other stream that was begun before that, and ends behind it, is wanted
    whole: its beginning is looked for as well.
    """

    def __init__(self, lines: int, end: Position) -> None:
        self._left = lines + 1
        self._end = end
        self._seen: dict[Stream, int] = {}
        """The first byte of each stream behind the place that has been looked at."""
        self._given: dict[Stream, int] = {}
        self._start: Position | None = None

    @property
    def is_counted(self) -> bool:
        """Whether only the beginning of a line of the other stream is looked for."""
        return self._start is not None

    def is_done(self) -> bool:
        """Whether nothing more is looked for."""
        return self._start is not None and len(self._given) == len(Stream)

    def take(self, frame: _Frame) -> None:
        """Look at one chunk."""
        if self._start is None:
            self._count(frame)
        elif frame.stream not in self._given:
            newline = frame.data.rfind(b"\n") + 1
            if newline:
                self._given[frame.stream] = frame.begin + newline
            if newline < len(frame.data):
                self._start = frame.position
        self._seen[frame.stream] = frame.begin

    def take_block_start(self, open_lines: frozenset[Stream]) -> None:
        """Note that all of a block has been looked at, and which lines were open before it."""
        if self._start is not None:
            for stream in self._seen.keys() - open_lines:
                self._given.setdefault(stream, self._seen[stream])

    def result(self, lowest: Position) -> Position:
        """Return where to begin; `lowest` where not so many lines have been found."""
        if self._start is None:
            return lowest
        given = self._seen | self._given
        return replace(
            self._start,
            given_stdout=given.get(Stream.STDOUT, 0),
            given_stderr=given.get(Stream.STDERR, 0),
        )

    def _count(self, frame: _Frame) -> None:
        data, end = frame.data, len(frame.data)
        if frame.stream not in self._seen and not data.endswith(b"\n"):
            self._left -= 1
            if not self._left:
                self._find(frame, end)
                return
        count = data.count(b"\n")
        if count < self._left:
            self._left -= count
            return
        for _ in range(self._left):
            end = data.rfind(b"\n", 0, end)
        self._find(frame, end + 1)

    def _find(self, frame: _Frame, inside: int) -> None:
        self._start = frame.position
        self._given[frame.stream] = frame.begin + inside
        for stream in Stream:
            if stream not in self._seen:  # nothing of it lies behind the place
                self._given.setdefault(stream, self._end.totals.written(stream))


async def find_tail(
    files: LogFiles, lines: int, streams: frozenset[Stream], lowest: Start, end: Position
) -> Start:
    """Return where the last `lines` lines before `end` begin, not before `lowest`."""
    if not lines:
        return Start(end)
    search = _TailSearch(lines, end)
    size = files.block_bytes
    within = (lowest.position.offset, end.offset)
    index, first = ((place - 1) // size for place in reversed(within))
    far = 0
    while index >= max(first, files.first) and not search.is_done() and far < _FAR_BLOCKS:
        header = await _header(files, index)
        if header is None:
            break  # dropped meanwhile
        for frame in reversed(_frames(await _content(files, index), header, streams, within)):
            search.take(frame)
            if search.is_done():
                break
        search.take_block_start(header.before.open_lines)
        far += search.is_counted
        index -= 1
        await asyncio.sleep(0)  # out of the page cache nothing else here lets others run
    found = search.result(lowest.position)
    return lowest if found is lowest.position else await _start(files, found)


async def _start(files: LogFiles, position: Position) -> Start:
    header = await _header(files, (position.offset - 1) // files.block_bytes)
    return Start(position, 0 if header is None else header.latest_ns)


def _frames(
    content: memoryview, header: BlockHeader, streams: frozenset[Stream], within: tuple[int, int]
) -> list[_Frame]:
    start, end = within
    offset = base = header.index * header.block_bytes + _HEADER
    counts = list(astuple(header.totals))
    found: list[_Frame] = []
    for behind, entry in parse_frames(content):
        if offset >= end:
            break
        stream = entry.stream
        if isinstance(entry, Chunk):
            if offset >= start and stream in streams:
                before = (counts[0], counts[1], counts[2], counts[3])
                found.append(_Frame(offset, before, stream, entry.data))
            counts[stream - 1] += len(entry.data)
        else:
            counts[stream + 1] += entry.lost_bytes
        offset = base + behind
    return found


async def find_matching_tail(
    files: LogFiles,
    lines: int,
    search: LineSearch,
    streams: frozenset[Stream],
    lowest: Start,
    end: Position,
) -> Start:
    """Return where the last `lines` lines that match begin, among those between the places.

    Lines can only be put together forwards: so from further and further back, until so many match.
    That reads each block twice at the most, and often one only.
    """
    size = files.block_bytes
    last = (end.offset - 1) // size
    blocks = 1
    while True:
        index = last - blocks + 1
        begin, open_lines = lowest, frozenset[Stream]()
        if index * size > lowest.position.offset and index > files.first:
            header = await _header(files, index)
            if header is None:  # dropped meanwhile, so it is before the first now
                continue
            place = Position(index * size + _HEADER, header.totals)
            begin, open_lines = Start(place, header.latest_ns), header.before.open_lines
        matches = await _match_between(
            files, begin, end, LineFilter(search, open_lines, lines), streams
        )
        if len(matches) == lines:
            return await _start(files, _at_first(matches, end))
        if begin is lowest:
            return lowest
        blocks *= 2


async def _match_between(
    files: LogFiles, begin: Start, end: Position, matching: LineFilter, streams: frozenset[Stream]
) -> tuple[Match, ...]:
    reader = LogReader(files)
    reader.position, reader.latest_ns = begin.position, begin.latest_ns
    while reader.position.offset < end.offset and (batch := await reader.read_batch()):
        placed = tuple(item for item in batch.placed if item.end <= end.offset)
        await matching.take(batch.begin, placed, streams)
        await asyncio.sleep(0)
    matching.finish()
    return matching.matches


def _at_first(matches: tuple[Match, ...], end: Position) -> Position:
    """Return the place of the first match, from which on lines before the matches are left out."""
    firsts: dict[Stream, Match] = {}
    for match in matches:
        firsts.setdefault(match.stream, match)
    place = min((match.position for match in firsts.values()), key=lambda place: place.offset)
    given = {stream: end.totals.written(stream) for stream in Stream}
    given |= {stream: match.begin for stream, match in firsts.items()}
    return replace(place, given_stdout=given[Stream.STDOUT], given_stderr=given[Stream.STDERR])
