"""What of a log's frames is wanted: from which byte on, until when, which streams, which lines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ..model.frames import Chunk, Entry, Gap, Stream, time_of
from ..model.log_query import BOTH, LogQuery
from .log_reader import Placed, Position, RawBatch, add_all

LineSearch = Callable[[bytes], list[tuple[int, int]]]
"""Returns where the lines lie, newline and all, in which something matches. It gets whole lines,
the last one maybe without its newline. It runs in a thread."""

_LONGEST_LINE: Final = 2 << 20
"""Of a longer line so much decides whether it is wanted. It is one entry of an answer, which must
stay below what a gRPC client takes where nobody has set it: 4 MiB."""
_QUICK_BYTES: Final = 16 * 1024
"""So much is searched at once; for more a thread is worth its while."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What is wanted of a batch, and where a later call goes on behind it."""

    entries: tuple[Entry, ...]
    position: Position
    reached: Position
    """Where the reading itself is: lines that have not ended lie between the two."""
    is_over: bool = False
    """Nothing that comes later is wanted."""


class Filter:
    """Takes batches in order and gives what is wanted of each."""

    def __init__(self, query: LogQuery, search: LineSearch | None) -> None:
        """`search` finds the query's lines, where it asks for some."""
        self._query = query
        self._lines = None if search is None else LineFilter(search)
        self._latest_ns = 0
        self.is_plain = query.streams == BOTH and query.until_ns is None and search is None
        """Whether everything is wanted, from some place on."""

    async def take(self, batch: RawBatch, behind: Position, latest_ns: int) -> Selected:
        """Return what is wanted of `batch`; `latest_ns` is the latest capture before its block."""
        given = behind
        if self.is_plain and batch.begin.given_stdout == batch.begin.given_stderr == 0:
            return Selected(tuple(item.entry for item in batch.placed), behind, behind)
        self._latest_ns = max(self._latest_ns, latest_ns)
        placed, is_over = self._until(batch.placed)
        if is_over:
            last = placed[-1].end if placed else batch.begin.offset
            given = replace(given, offset=last, totals=add_all(batch.begin.totals, placed))
        if self._lines is not None:
            entries = await self._lines.take(batch.begin, placed, self._query.streams)
            return Selected(tuple(entries), self._lines.position(given), given, is_over)
        return Selected(tuple(self._wanted(batch.begin, placed)), given, given, is_over)

    def finish(self) -> tuple[Entry, ...]:
        """Return what was kept back, once nothing more can come."""
        return () if self._lines is None else tuple(self._lines.finish())

    def _until(self, placed: tuple[Placed, ...]) -> tuple[tuple[Placed, ...], bool]:
        until_ns = self._query.until_ns
        if until_ns is None:
            return placed, False
        for number, item in enumerate(placed):
            self._latest_ns = max(self._latest_ns, time_of(item.entry))
            if self._latest_ns > until_ns:
                return placed[:number], True
        return placed, False

    def _wanted(self, begin: Position, placed: tuple[Placed, ...]) -> list[Entry]:
        wanted = []
        for stream, first, entry in _located(begin, placed):
            if stream in self._query.streams and (rest := _cut(entry, begin.given(stream) - first)):
                wanted.append(rest)
        return wanted


def _located(begin: Position, placed: tuple[Placed, ...]) -> list[tuple[Stream, int, Entry]]:
    """Return each entry with its stream and the byte of the stream where it begins."""
    at = {stream: begin.totals.written(stream) for stream in Stream}
    found = []
    for item in placed:
        entry = item.entry
        found.append((entry.stream, at[entry.stream], entry))
        at[entry.stream] += len(entry.data) if isinstance(entry, Chunk) else entry.lost_bytes
    return found


def _cut(entry: Entry, count: int) -> Entry | None:
    """Return `entry` without its first `count` bytes; None if that is all of it."""
    if count <= 0:
        return entry
    if isinstance(entry, Gap):
        return entry if count < entry.lost_bytes else None
    return replace(entry, data=entry.data[count:]) if count < len(entry.data) else None


@dataclass(slots=True)
class _Open:
    """A line that has not ended yet, where it begins, and the frame in which it does."""

    position: Position
    begin: int
    time_ns: int
    data: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Match:
    """Where a matching line begins, and the frame in which it does."""

    position: Position
    stream: Stream
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Whole:
    """Whole lines of one frame, where they begin, and the frame's place if that is wanted."""

    chunk: Chunk
    first: int
    place: Position | None


class _Places:
    """The places before the frames of a batch, worked out only as far as they are asked for."""

    def __init__(self, begin: Position, placed: tuple[Placed, ...]) -> None:
        self._place, self._placed, self._number = begin, placed, 0

    def before(self, number: int) -> Position:
        """Return the place before a frame; the numbers asked for never fall."""
        for item in self._placed[self._number : number]:
            self._place = Position(item.end, self._place.totals.plus(item.entry))
        self._number = number
        return self._place


class LineFilter:
    """Puts lines together and keeps those that match."""

    def __init__(
        self,
        search: LineSearch,
        open_lines: frozenset[Stream] = frozenset(),
        remembered: int = 0,
    ) -> None:
        """Pass over the rest of `open_lines`; remember the last so many matches."""
        self._search = search
        self._passing = set(open_lines)
        self._open: dict[Stream, _Open] = {}
        self._wanted_rest: dict[Stream, bool] = {}
        """Lines too long to keep that go on, and whether they are wanted."""
        self._done: dict[Stream, int] = {}
        """The byte of each stream up to which all lines have been looked at."""
        self._matches: deque[Match] = deque(maxlen=remembered)
        self._whole: list[_Whole] = []
        """Lines that have not been searched yet: many small frames are searched as one."""

    @property
    def matches(self) -> tuple[Match, ...]:
        """The last matches."""
        return tuple(self._matches)

    async def take(
        self, begin: Position, placed: tuple[Placed, ...], streams: frozenset[Stream]
    ) -> list[Entry]:
        """Return the matching lines that end in these frames, and their gaps."""
        if sum(len(item.entry.data) for item in placed if isinstance(item.entry, Chunk)) <= (
            _QUICK_BYTES
        ):
            return self._take(begin, placed, streams)
        return await asyncio.to_thread(self._take, begin, placed, streams)

    def finish(self) -> list[Entry]:
        """Return what matches of the lines that no newline has ended."""
        found: list[Entry] = []
        for stream in list(self._open):
            found += self._end(stream)
        return found

    def position(self, behind: Position) -> Position:
        """Return where a later call goes on: before the first line that has not ended."""
        frames = [line.position for line in self._open.values()]
        first = min([*frames, behind], key=lambda position: position.offset)
        given = {stream: self._done.get(stream, 0) for stream in Stream}
        for stream in Stream:
            given[stream] = max(given[stream], behind.given(stream))
            if given[stream] <= first.totals.written(stream):
                given[stream] = 0
        return replace(first, given_stdout=given[Stream.STDOUT], given_stderr=given[Stream.STDERR])

    def _take(
        self, begin: Position, placed: tuple[Placed, ...], streams: frozenset[Stream]
    ) -> list[Entry]:
        found: list[Entry] = []
        places = _Places(begin, placed)
        lasts: dict[Stream, tuple[int, Entry]] = {}
        for number, (stream, first, entry) in enumerate(_located(begin, placed)):
            lasts[stream] = (first, entry)
            rest = _cut(entry, begin.given(stream) - first) if stream in streams else None
            if isinstance(rest, Gap):
                found += [*self._end(stream), *self._search_whole(), rest]
                self._wanted_rest.pop(stream, None)
            elif rest is not None:
                skipped = len(entry.data) - len(rest.data) if isinstance(entry, Chunk) else 0
                found += self._take_chunk(places, number, first + skipped, rest)
        for stream, (first, entry) in lasts.items():
            self._done[stream] = self._begin_of_open(stream, first, entry)
        return [*found, *self._search_whole()]

    def _begin_of_open(self, stream: Stream, first: int, entry: Entry) -> int:
        line = self._open.get(stream)
        if line is not None:
            return line.begin
        return first + (len(entry.data) if isinstance(entry, Chunk) else entry.lost_bytes)

    def _take_chunk(self, places: _Places, number: int, first: int, chunk: Chunk) -> list[Entry]:
        stream, data = chunk.stream, chunk.data
        found: list[Entry] = []
        if stream in self._passing:
            passed = data.find(b"\n") + 1
            if not passed:
                return []
            self._passing.discard(stream)
            data, first = data[passed:], first + passed
        if stream in self._wanted_rest:
            length = data.find(b"\n") + 1 or len(data)
            if self._wanted_rest[stream]:
                found += [*self._search_whole(), replace(chunk, data=data[:length])]
            if data.endswith(b"\n", 0, length):
                del self._wanted_rest[stream]
            data, first = data[length:], first + length
        elif line := self._open.get(stream):
            length = data.find(b"\n") + 1 or len(data)
            line.data += data[:length]
            if data.endswith(b"\n", 0, length):
                found += self._end(stream)
            data, first = data[length:], first + length
            found += self._judge_long(stream)
        whole = data.rfind(b"\n") + 1
        if whole:
            lines = chunk if whole == len(chunk.data) else replace(chunk, data=data[:whole])
            place = places.before(number) if self._matches.maxlen else None
            self._whole.append(_Whole(lines, first, place))
        if rest := data[whole:]:
            place = places.before(number)
            self._open[stream] = _Open(place, first + whole, chunk.time_ns, bytearray(rest))
        return found

    def _judge_long(self, stream: Stream) -> list[Entry]:
        line = self._open.get(stream)
        if line is None or len(line.data) < _LONGEST_LINE:
            return []
        found = self._end(stream)
        self._wanted_rest[stream] = bool(found)
        return found

    def _end(self, stream: Stream) -> list[Entry]:
        line = self._open.pop(stream, None)
        if line is None:
            return []
        whole = _Whole(Chunk(stream, line.time_ns, bytes(line.data)), line.begin, line.position)
        if line.data.endswith(b"\n"):
            self._whole.append(whole)
            return []
        found = self._search_whole()
        self._whole.append(whole)
        return [*found, *self._search_whole()]

    def _search_whole(self) -> list[Entry]:
        """Search the lines that wait for it, all at once, and return those that match."""
        if not self._whole:
            return []
        waiting, self._whole = self._whole, []
        spans = deque(self._search(b"".join([whole.chunk.data for whole in waiting])))
        found: list[Entry] = []
        at = 0
        for whole in waiting:
            if not spans:
                break
            data = whole.chunk.data
            own = []
            while spans and spans[0][0] < at + len(data):
                begin, end = spans.popleft()
                own.append((begin - at, end - at))
            at += len(data)
            if own:
                self._remember(whole, own)
                lines = b"".join([data[begin:end] for begin, end in own])
                found.append(whole.chunk if lines == data else replace(whole.chunk, data=lines))
        return found

    def _remember(self, whole: _Whole, spans: list[tuple[int, int]]) -> None:
        if not self._matches.maxlen or whole.place is None:
            return
        stream, first, place = whole.chunk.stream, whole.first, whole.place
        self._matches += (Match(place, stream, first + begin, first + end) for begin, end in spans)
