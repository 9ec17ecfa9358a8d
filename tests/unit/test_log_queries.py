"""Every query of a log gives what a plain look at all of its frames gives, and can be resumed.

The logs are real ones, written by the keeper's own code; only the clock is played.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobruntime.keeper.capture import Capture
from jobruntime.keeper.segments import Segments
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.frames import (
    BlockHeader,
    Chunk,
    Entry,
    Gap,
    Stream,
    block_bytes_for,
    encode_block_header,
    segment_name,
)
from jobruntime.model.log_policy import LogFull, LogPolicy
from jobruntime.model.log_query import BOTH, LogQuery
from jobruntime.model.record import Progress
from jobruntime.model.state import Exited, State
from jobruntime.server.search import compile_search
from jobruntime.worker.log_reader import encode_cursor
from jobruntime.worker.logs import LogReading
from tests.support import LONG

MIB = 1 << 20
T0 = 1_700_000_000_000_000_000
SMALLEST = 16 * 1024
TINY = LogPolicy(MIB - 1, LogFull.DROP_OLDEST)  # stands for blocks of 16 KiB
SMALL = LogPolicy(MIB, LogFull.DROP_OLDEST)  # blocks of 64 KiB, segments of two


@dataclass
class Log:
    """A log that has been written, and what is known of it."""

    directory: Path
    frames: list[tuple[Stream, int, bytes]]
    """Stream, running maximum of the time, data: in order, dropped ones too."""
    progress: Progress

    def written(self, stream: Stream) -> bytes:
        return b"".join(data for which, _, data in self.frames if which is stream)


class Writer:
    """Writes a log through pipes, as a job does."""

    def __init__(self, directory: Path, policy: LogPolicy) -> None:
        self.directory = directory
        block_bytes = SMALLEST if policy == TINY else block_bytes_for(policy.max_bytes)
        fd = os.open(directory / segment_name(0), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.write(fd, encode_block_header(BlockHeader(block_bytes, 0)))
        dir_fd = os.open(directory, os.O_RDONLY)
        with mock.patch("jobruntime.keeper.segments.block_bytes_for", return_value=block_bytes):
            self.capture = Capture(Segments(fd, dir_fd, policy, 0), policy)
        self.frames: list[tuple[Stream, int, bytes]] = []
        self._latest = 0
        self._pipes = {stream: os.pipe() for stream in Stream}
        for source, _ in self._pipes.values():
            os.set_blocking(source, False)

    def write(self, stream: Stream, data: bytes, time_ns: int) -> None:
        source, sink = self._pipes[stream]
        self._latest = max(self._latest, time_ns)
        self.frames.append((stream, self._latest, data))
        os.write(sink, data)
        with mock.patch("time.time_ns", return_value=time_ns):
            while True:
                try:
                    self.capture.read_once(stream, source)
                except BlockingIOError:
                    return

    def end(self) -> Log:
        self.capture.finish()
        progress = Progress(
            State.TERMINATED,
            outcome=Exited(0),
            log_size=self.capture.end,
            totals=self.capture.totals,
            gaps=tuple(self.capture.gaps.values()),
        )
        for pipe in self._pipes.values():
            for fd in pipe:
                os.close(fd)
        return Log(self.directory, self.frames, progress)


@contextmanager
def written(frames: list[tuple[Stream, int, bytes]], policy: LogPolicy = SMALL) -> Iterator[Log]:
    with tempfile.TemporaryDirectory() as directory:
        writer = Writer(Path(directory), policy)
        for stream, time_ns, data in frames:
            writer.write(stream, data, time_ns)
        yield writer.end()


@dataclass
class Reading:
    """What a reading gave, batch by batch."""

    batches: list[tuple[tuple[Entry, ...], str]]
    end: str
    is_over: bool
    sent: tuple[int, int]

    @property
    def entries(self) -> list[Entry]:
        return [entry for entries, _ in self.batches for entry in entries]

    def output(self, stream: Stream) -> bytes:
        return output_of(self.entries, stream)

    def lost(self, stream: Stream) -> int:
        return sum(e.lost_bytes for e in self.entries if isinstance(e, Gap) and e.stream is stream)


def output_of(entries: list[Entry], stream: Stream) -> bytes:
    return b"".join(e.data for e in entries if isinstance(e, Chunk) and e.stream is stream)


def read(log: Log, query: LogQuery, batches: int | None = None) -> Reading:
    """Read the log, or its first so many batches."""

    async def go() -> Reading:
        search = compile_search(query.grep) if query.grep else None
        reading = LogReading(str(log.directory), query, search)
        found: list[tuple[tuple[Entry, ...], str]] = []
        try:
            await reading.start()
            async for batch in reading.read(lambda: log.progress, None):
                found.append((batch.entries, batch.cursor))
                if len(found) == batches:
                    break
            sent = (reading.sent.stdout_bytes, reading.sent.stderr_bytes)
            return Reading(found, encode_cursor(reading.position), reading.is_over, sent)
        finally:
            reading.close()

    return asyncio.run(go())


# ---------------------------------------------------------------- what is expected


def selected(log: Log, query: LogQuery) -> list[tuple[Stream, bytes]]:
    """The frames within the query's times and streams."""
    return [
        (stream, data)
        for stream, latest, data in log.frames
        if stream in query.streams
        and (query.since_ns is None or latest >= query.since_ns)
        and (query.until_ns is None or latest <= query.until_ns)
    ]


def last_lines(frames: list[tuple[Stream, bytes]], lines: int) -> dict[Stream, bytes]:
    """The last lines, by what LogQuery says of them."""
    place = dict.fromkeys(Stream, 0)
    ends: list[tuple[int, Stream, int]] = []  # frame, stream, byte behind the line
    lasts: dict[Stream, int] = {}
    for number, (stream, data) in enumerate(frames):
        ends += [(number, stream, place[stream] + m.end()) for m in re.finditer(b"\n", data)]
        place[stream] += len(data)
        lasts[stream] = number
    whole = {s: b"".join(data for stream, data in frames if stream is s) for s in Stream}
    for stream, number in lasts.items():
        if not whole[stream].endswith(b"\n"):
            ends.append((number, stream, place[stream]))
    ends.sort(key=lambda end: (end[0], end[2]))
    if not lines:
        return dict.fromkeys(Stream, b"")
    if len(ends) <= lines:
        return whole
    number, own, behind = ends[-lines - 1]
    other = Stream.STDERR if own is Stream.STDOUT else Stream.STDOUT
    before = b"".join(data for stream, data in frames[: number + 1] if stream is other)
    start = before.rfind(b"\n") + 1
    if len(before) == len(whole[other]):  # it has nothing behind the cut
        start = len(before)
    return {own: whole[own][behind:], other: whole[other][start:]}


def matching(frames: list[tuple[Stream, bytes]], pattern: str) -> list[tuple[Stream, bytes]]:
    """The lines that match, in the order in which they end; open ones last."""
    found: list[tuple[Stream, bytes]] = []
    opened: dict[Stream, bytes] = {}
    for stream, data in frames:
        *whole, rest = (opened.pop(stream, b"") + data).split(b"\n")
        found += [(stream, line + b"\n") for line in whole]
        if rest:
            opened[stream] = rest
    found += opened.items()
    return [(s, line) for s, line in found if re.search(pattern.encode(), line.rstrip(b"\n"))]


# ---------------------------------------------------------------- made-up logs and queries

WORDS = (b"a", b"b\n", b"\n", b"abc\n", b"error\n", b"err", b"or x\n", b"\x00\xff")


def make_up(seed: int) -> list[tuple[Stream, int, bytes]]:
    # From one number: of lists in lists the usual ones are too short to fill more than a block.
    random = Random(seed)
    rare = random.choice((0.5, 0.05))
    at = T0
    frames = []
    for _ in range(random.randrange(60)):
        at += random.randint(-3, 10)
        data = b"".join(random.choices(WORDS, k=random.randint(1, 5)))
        if random.random() < 0.4:
            data += b"x" * random.randint(1, 9000) + random.choice(WORDS)
        frames.append((Stream.STDERR if random.random() < rare else Stream.STDOUT, at, data))
    return frames


seeds = st.integers(0, 1 << 40)
times = st.none() | st.integers(T0 - 5, T0 + 300)
streams = st.sampled_from([BOTH, frozenset([Stream.STDOUT]), frozenset([Stream.STDERR])])
queries = st.builds(
    LogQuery,
    follow=st.just(False),
    since_ns=times,
    until_ns=times,
    streams=streams,
    tail_lines=st.none() | st.integers(0, 30),
    grep=st.sampled_from(["", "", "error", "^a", "x$", "^$", "[^q]", "b|or"]),
)
many = settings(
    max_examples=2000 if LONG else 100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@many
@given(seeds, queries)
def test_a_query_gives_what_a_plain_look_at_all_frames_gives(seed: int, query: LogQuery) -> None:
    with written(make_up(seed)) as log:
        found = read(log, query)
        wanted = selected(log, query)
        if query.grep:
            lines = matching(wanted, query.grep)
            tail = query.tail_lines
            lines = lines if tail is None else lines[-tail:] if tail else []
            expected = {s: b"".join(line for which, line in lines if which is s) for s in Stream}
        elif query.tail_lines is not None:
            expected = last_lines(wanted, query.tail_lines)
        else:
            expected = {s: b"".join(data for which, data in wanted if which is s) for s in Stream}
        assert {stream: found.output(stream) for stream in Stream} == expected
        assert found.sent == (len(expected[Stream.STDOUT]), len(expected[Stream.STDERR]))


@many
@given(seeds, queries, st.data())
def test_a_reading_that_broke_goes_on_by_its_last_cursor_without_loss_or_double(
    seed: int, query: LogQuery, data: st.DataObject
) -> None:
    with written(make_up(seed)) as log:
        whole = read(log, query)
        if not whole.batches:
            return
        count = data.draw(st.integers(1, len(whole.batches)))
        first = read(log, query, count)
        rest = read(log, replace(query, cursor=first.batches[-1][1]))
        entries = [*first.entries, *rest.entries]
        for stream in Stream:
            assert output_of(entries, stream) == whole.output(stream)
        assert rest.end == whole.end


@many
@given(st.lists(st.tuples(st.sampled_from(Stream), st.integers(1, 60_000)), max_size=80))
def test_what_was_dropped_shows_as_a_gap_of_exactly_its_bytes(
    sizes: list[tuple[Stream, int]],
) -> None:
    frames = [
        (stream, T0 + number, bytes([65 + number % 26]) * size)
        for number, (stream, size) in enumerate(sizes)
    ]
    with written(frames, SMALL) as log:
        found = read(log, LogQuery(follow=False))
        for stream in Stream:
            output = log.written(stream)
            kept = found.output(stream)
            assert output.endswith(kept)
            assert len(kept) + found.lost(stream) == len(output)
        on_disk = sum(path.stat().st_size for path in log.directory.iterdir())
        assert on_disk <= MIB
        gaps = [entry for entry in found.entries if isinstance(entry, Gap)]
        assert all(T0 <= gap.first_ns <= gap.last_ns < T0 + len(frames) for gap in gaps)
        assert gaps == found.entries[: len(gaps)]


# ---------------------------------------------------------------- examples


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Log]:
    def make_log(*frames: tuple[Stream, int, bytes], policy: LogPolicy = SMALL) -> Log:
        writer = Writer(tmp_path, policy)
        for stream, time_ns, data in frames:
            writer.write(stream, data, time_ns)
        return writer.end()

    return make_log


OUT, ERR = Stream.STDOUT, Stream.STDERR


def test_a_line_of_the_other_stream_that_ends_among_the_last_lines_comes_whole(
    make: Callable[..., Log],
) -> None:
    log = make(
        (ERR, T0, b"begun "), (OUT, T0, b"1\n2\n3\n"), (ERR, T0, b"ended\n"), (OUT, T0, b"4\n")
    )
    found = read(log, LogQuery(follow=False, tail_lines=3))
    assert found.output(OUT) == b"3\n4\n"
    assert found.output(ERR) == b"begun ended\n"


def test_a_clock_that_was_set_back_hides_nothing(make: Callable[..., Log]) -> None:
    log = make(
        (OUT, T0, b"a\n"), (OUT, T0 + 100, b"b\n"), (OUT, T0 + 10, b"c\n"), (OUT, T0 + 120, b"d\n")
    )
    assert read(log, LogQuery(follow=False, since_ns=T0 + 50)).output(OUT) == b"b\nc\nd\n"
    assert read(log, LogQuery(follow=False, until_ns=T0 + 110)).output(OUT) == b"a\nb\nc\n"
    assert [
        e.time_ns for e in read(log, LogQuery(follow=False)).entries if isinstance(e, Chunk)
    ] == [
        T0,
        T0 + 100,
        T0 + 10,
        T0 + 120,
    ]


def test_stopping_to_record_loses_what_comes_and_says_so_at_the_end(
    make: Callable[..., Log],
) -> None:
    frames = [(OUT, T0 + n, b"%c" % (65 + n % 26) * 50_000) for n in range(40)]
    log = make(*frames, policy=LogPolicy(MIB, LogFull.STOP_RECORDING))
    found = read(log, LogQuery(follow=False))
    assert log.written(OUT).startswith(found.output(OUT))
    assert len(found.output(OUT)) + found.lost(OUT) == 2_000_000
    assert len(found.output(OUT)) > 900_000
    assert isinstance(found.entries[-1], Gap)


def test_the_last_lines_of_a_long_log_are_found_in_its_last_blocks(tmp_path: Path) -> None:
    writer = Writer(tmp_path, LogPolicy())
    for number in range(200):
        writer.write(
            OUT, b"".join(b"%08d\n" % (number * 5000 + n) for n in range(5000)), T0 + number
        )
    log = writer.end()

    async def go() -> tuple[bytes, int]:
        reading = LogReading(str(log.directory), LogQuery(follow=False, tail_lines=10), None)
        await reading.start()
        entries: list[Entry] = []
        async for batch in reading.read(lambda: log.progress, None):
            entries += batch.entries
        reading.close()
        return output_of(entries, OUT), reading.read_bytes

    output, read_bytes = asyncio.run(go())
    assert output == b"".join(b"%08d\n" % n for n in range(999_990, 1_000_000))
    assert read_bytes <= 3 * MIB


@pytest.mark.parametrize("cut", ["data", "frame", "block"])
def test_a_torn_end_is_cut_at_the_last_whole_frame(make: Callable[..., Log], cut: str) -> None:
    log = make(*[(OUT, T0 + n, b"%07d\n" % n * 5000) for n in range(20)])
    last = sorted(log.directory.iterdir())[-1]
    frames = [e for e in read(log, LogQuery(follow=False)).entries if isinstance(e, Chunk)]
    size, data = last.stat().st_size, len(frames[-1].data)
    os.truncate(last, {"data": size - 7, "frame": size - data - 9, "block": 71}[cut])
    lost = replace(log, progress=replace(log.progress, log_size=None))
    output = read(lost, LogQuery(follow=False)).output(OUT)
    assert log.written(OUT).startswith(output)
    missing = len(log.written(OUT)) - len(output)
    assert missing >= data if cut == "block" else missing == data
    with pytest.raises(JobError, match="damaged") as caught:
        read(log, LogQuery(follow=False))
    assert caught.value.reason is Reason.LOG_UNREADABLE


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "[z-a]", "a{2000}"])
def test_a_pattern_that_is_none_is_refused_with_its_cause(pattern: str) -> None:
    with pytest.raises(JobError, match="cannot search for") as caught:
        compile_search(pattern)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_no_pattern_matches_beyond_its_line() -> None:
    search = compile_search(r"a\s*b")
    assert search(b"a\nb\n") == []
    assert search(b"a b\na\nb\n") == [(0, 4)]


DAMAGED = [
    LogQuery(follow=False),
    LogQuery(follow=False, tail_lines=100_000),
    LogQuery(follow=False, tail_lines=5, grep="no such line"),
    LogQuery(follow=False, since_ns=T0),
    LogQuery(follow=False, since_ns=T0 + 11),
    LogQuery(follow=False, since_ns=T0, until_ns=T0 + 60),
]


@pytest.mark.parametrize("query", DAMAGED, ids=str)
@pytest.mark.parametrize("damage", ["header", "frame", "missing", "short", "directory"])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "live"])
def test_damage_in_the_middle_is_told_by_every_query_that_meets_it_and_ends_it(
    make: Callable[..., Log], damage: str, query: LogQuery, *, ended: bool
) -> None:
    log = make(*[(OUT, T0 + n, b"%07d\n" % n * 5000) for n in range(20)])  # 800 KB in 7 segments
    victim = sorted(log.directory.iterdir())[3]
    if damage == "header":
        with victim.open("r+b") as file:
            file.write(b"X")
    elif damage == "frame":
        with victim.open("r+b") as file:
            file.seek(72)
            file.write(b"XX")
    elif damage == "short":
        os.truncate(victim, 0)
    else:
        victim.unlink()
        if damage == "directory":
            victim.mkdir()
    if not ended:
        log = replace(log, progress=Progress(State.RUNNING))
    with pytest.raises(JobError, match="damaged") as caught:
        asyncio.run(asyncio.wait_for(read_all(log, query), 20))
    assert caught.value.reason is Reason.LOG_UNREADABLE


async def read_all(log: Log, query: LogQuery) -> None:
    search = compile_search(query.grep) if query.grep else None
    reading = LogReading(str(log.directory), query, search)
    try:
        await reading.start()
        async for _ in reading.read(lambda: log.progress, None):
            pass
    finally:
        reading.close()


def test_of_a_very_long_line_the_beginning_decides_and_no_two_lines_become_one(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path, LogPolicy())
    size = 17 * MIB
    for head, tail in ((b"NEEDLE", b"TAIL"), (b"hay", b"NEEDLE")):
        for number, part in enumerate([head, *[b"x" * 60_000] * (size // 60_000), tail + b"\n"]):
            writer.write(OUT, part, T0 + number)
        writer.write(OUT, b"a short NEEDLE\n", T0)
    log = writer.end()
    found = read(log, LogQuery(follow=False, grep="NEEDLE")).output(OUT)
    lines = found.splitlines(keepends=True)
    assert [len(line) for line in lines] == [6 + size // 60_000 * 60_000 + 5, 15, 15]
    assert lines[0].startswith(b"NEEDLE")
    assert lines[0].endswith(b"TAIL\n")
