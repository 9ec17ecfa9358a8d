"""What every engine's logs do, asked through the interface alone.

In the manner of moby's log reader tests. What needs a clock that is set back is in
tests/unit/test_log_queries.py: no engine lets its caller play with its host's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from jobruntime.model.frames import Chunk, Entry, Gap, Stream
from jobruntime.worker import (
    Exited,
    JobError,
    JobSpec,
    LogBatch,
    LogEnd,
    LogFull,
    LogPolicy,
    LogQuery,
    Reason,
    Worker,
)
from tests.conformance.conftest import Engine
from tests.support import DEADLINE_S, LONG

OUT, ERR = Stream.STDOUT, Stream.STDERR
MIB: Final = 1 << 20
ME: Final = "me"
PRESENT: Final = LogQuery(follow=False)
UNBOUNDED: Final = LogPolicy()
WHOLE: Final = LogQuery()
ROTATED: Final = LogPolicy(MIB)
"""A log that is bounded; all that these tests write fits, in many files."""
BOUNDS = pytest.mark.parametrize(
    "bounds", [LogPolicy(), ROTATED], ids=["in one file", "in many files"]
)
ENDED = pytest.mark.parametrize("ended", [True, False], ids=["ended", "live"])
COUNT: Final = 20_000
LINES: Final = [b"%06d\n" % number for number in range(1, COUNT + 1)]
WRITE_LINES: Final = f"seq -f %06.0f {COUNT}"


@dataclass
class Log:
    """What a reading gave."""

    entries: list[Entry] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    end: LogEnd | None = None

    def data(self, *streams: Stream) -> bytes:
        wanted = streams or tuple(Stream)
        return b"".join(
            entry.data
            for entry in self.entries
            if isinstance(entry, Chunk) and entry.stream in wanted
        )

    @property
    def times(self) -> list[int]:
        return [entry.time_ns for entry in self.entries if isinstance(entry, Chunk)]

    def take(self, event: LogBatch | LogEnd) -> None:
        if isinstance(event, LogEnd):
            assert self.end is None
            self.end = event
        else:
            assert self.end is None
            self.entries += event.entries
            self.cursors.append(event.cursor)


async def events(worker: Worker, job: str, query: LogQuery) -> AsyncIterator[LogBatch | LogEnd]:
    async with aclosing(worker.logs(job, query)) as found:  # type: ignore[type-var] # a generator
        async for event in found:
            yield event


async def read(worker: Worker, job: str, query: LogQuery = WHOLE) -> Log:
    """Read to the end, which must come and fit what was given."""
    log = Log()
    async with asyncio.timeout(4 * DEADLINE_S):
        async for event in events(worker, job, query):
            log.take(event)
    assert log.end is not None
    assert (log.end.sent_stdout_bytes, log.end.sent_stderr_bytes) == (
        len(log.data(OUT)),
        len(log.data(ERR)),
    )
    return log


async def read_until(worker: Worker, job: str, query: LogQuery, size: int) -> Log:
    """Follow until so many bytes have come."""
    log = Log()
    async with asyncio.timeout(DEADLINE_S):
        async for event in events(worker, job, query):
            log.take(event)
            if len(log.data()) >= size:
                break
    return log


async def start(worker: Worker, script: str, bounds: LogPolicy = UNBOUNDED) -> str:
    return await worker.start(JobSpec(argv=("sh", "-c", script), log=bounds), owner=ME)


async def written(
    worker: Worker,
    script: str,
    size: int,
    bounds: LogPolicy = UNBOUNDED,
    *,
    ended: bool,
) -> str:
    """Return a job that has written all of its output, and has ended or goes on."""
    job = await start(worker, script if ended else f"{script}\nexec sleep 600", bounds)
    if ended:
        assert (await worker.wait(job)).outcome == Exited(0)
    else:
        await read_until(worker, job, LogQuery(), size)
    return job


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


# ---------------------------------------------------------------- the last lines


@BOUNDS
@ENDED
@pytest.mark.parametrize("lines", [0, 1, 7, COUNT - 1, COUNT, COUNT + 1000])
def test_the_last_lines_are_exactly_as_many_as_there_are(
    engine: Engine, bounds: LogPolicy, lines: int, *, ended: bool
) -> None:
    async def test() -> None:
        async with engine() as worker:
            job = await written(worker, WRITE_LINES, 7 * COUNT, bounds, ended=ended)
            log = await read(worker, job, replace(PRESENT, tail_lines=lines))
            assert log.data() == b"".join(LINES[max(0, COUNT - lines) :])
            assert log.end is not None
            assert log.end.complete is ended

    run(test())


@BOUNDS
@ENDED
def test_the_last_lines_that_match(engine: Engine, bounds: LogPolicy, *, ended: bool) -> None:
    async def test() -> None:
        async with engine() as worker:
            job = await written(worker, WRITE_LINES, 7 * COUNT, bounds, ended=ended)
            for lines in (0, 1, 3, 1000):
                query = replace(PRESENT, tail_lines=lines, grep="99$")
                matching = [line for line in LINES if line.endswith(b"99\n")]
                log = await read(worker, job, query)
                assert log.data() == b"".join(matching[max(0, len(matching) - lines) :])

    run(test())


def test_a_last_line_without_a_newline_is_a_line(engine: Engine) -> None:
    async def test() -> None:
        async with engine() as worker:
            job = await written(worker, r"printf 'one\ntwo\nthree'", 13, ended=True)
            assert (await read(worker, job)).data() == b"one\ntwo\nthree"
            assert (await read(worker, job, LogQuery(tail_lines=1))).data() == b"three"
            assert (await read(worker, job, LogQuery(tail_lines=2))).data() == b"two\nthree"
            assert (await read(worker, job, LogQuery(grep="^th"))).data() == b"three"

    run(test())


# ---------------------------------------------------------------- times


@BOUNDS
def test_times_are_met_exactly(engine: Engine, bounds: LogPolicy) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = "for n in 1 2 3 4 5 6; do echo $n; sleep 0.05; done"
            job = await written(worker, script, 12, bounds, ended=True)
            times = (await read(worker, job)).times
            assert len(times) == 6
            for number, time_ns in enumerate(times):
                behind = b"".join(b"%d\n" % n for n in range(number + 1, 7))
                before = b"".join(b"%d\n" % n for n in range(1, number + 2))
                assert (await read(worker, job, LogQuery(since_ns=time_ns))).data() == behind
                assert (await read(worker, job, LogQuery(until_ns=time_ns))).data() == before
                both = LogQuery(since_ns=time_ns, until_ns=time_ns)
                assert (await read(worker, job, both)).data() == b"%d\n" % (number + 1)
            first, last = times[0], times[-1]
            nothing = [
                LogQuery(until_ns=first - 1),
                LogQuery(since_ns=last + 1),
                LogQuery(since_ns=times[3], until_ns=times[1]),
            ]
            for query in nothing:
                log = await read(worker, job, query)
                assert log.data() == b""
                assert log.end is not None
                assert log.end.complete
            assert (await read(worker, job, LogQuery(since_ns=0))).data() == b"1\n2\n3\n4\n5\n6\n"
            two = LogQuery(since_ns=times[1], until_ns=times[4], tail_lines=2)
            assert (await read(worker, job, two)).data() == b"4\n5\n"

    run(test())


@BOUNDS
def test_a_time_in_a_long_log(engine: Engine, bounds: LogPolicy) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = f"{WRITE_LINES}; sleep 0.1; echo between; sleep 0.1; {WRITE_LINES}"
            job = await written(worker, script, 14 * COUNT + 8, bounds, ended=True)
            [between] = (await read(worker, job, LogQuery(grep="between"))).times
            log = await read(worker, job, LogQuery(since_ns=between))
            assert log.data() == b"between\n" + b"".join(LINES)
            log = await read(worker, job, LogQuery(until_ns=between))
            assert log.data() == b"".join(LINES) + b"between\n"

    run(test())


def test_a_follower_until_a_time_ends_then_also_on_a_silent_job(engine: Engine) -> None:
    async def test() -> None:
        async with engine() as worker:
            job = await written(worker, "echo early", 6, ended=False)
            [time_ns] = (await read(worker, job, PRESENT)).times
            log = await read(worker, job, LogQuery(until_ns=time_ns + 300_000_000))
            assert log.data() == b"early\n"
            assert log.end is not None
            assert log.end.complete

    run(test())


# ---------------------------------------------------------------- following


@BOUNDS
def test_followers_get_everything_from_empty_from_the_middle_and_across_files(
    engine: Engine, bounds: LogPolicy
) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = f"sleep 0.3; {WRITE_LINES}; sleep 0.2; {WRITE_LINES}; sleep 0.2; echo end"
            job = await start(worker, script, bounds)
            whole = b"".join(LINES) * 2 + b"end\n"
            from_empty = asyncio.ensure_future(read(worker, job))
            only_new = asyncio.ensure_future(read(worker, job, LogQuery(tail_lines=0)))
            middle = await read_until(worker, job, LogQuery(), 7 * COUNT + 1)
            rest = await read(worker, job, LogQuery(cursor=middle.cursors[-1]))
            assert middle.data() + rest.data() == whole
            assert (await from_empty).data() == whole
            assert (await only_new).data() == whole
            assert rest.end == replace(
                (await from_empty).end or rest.end,  # type: ignore[type-var]
                sent_stdout_bytes=len(rest.data()),
            )

    run(test())


def test_a_reading_goes_on_across_a_restart_of_the_engine(engine: Engine) -> None:
    async def test() -> None:
        script = f"{WRITE_LINES}; sleep 0.5; {WRITE_LINES}; sleep 0.3; {WRITE_LINES}"
        log = Log()
        async with engine() as worker:
            job = await start(worker, script, ROTATED)
            log = await read_until(worker, job, LogQuery(), 5 * COUNT)
        parts = [log.data()]
        async with engine() as worker:
            log = await read_until(worker, job, LogQuery(cursor=log.cursors[-1]), 6 * COUNT)
            parts.append(log.data())
        async with engine() as worker:
            parts.append((await read(worker, job, LogQuery(cursor=log.cursors[-1]))).data())
        assert b"".join(parts) == b"".join(LINES) * 3

    run(test())


def test_every_cursor_goes_on_without_loss_or_double(engine: Engine) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = "for n in 1 2 3 4; do echo out $n; echo err $n >&2; sleep 0.02; done"
            job = await written(worker, script, 48, ended=True)
            for query in (LogQuery(), LogQuery(grep="[24]"), LogQuery(tail_lines=5)):
                whole = await read(worker, job, query)
                for cut, cursor in enumerate(whole.cursors, 1):
                    first = Log()
                    async for event in events(worker, job, query):
                        first.take(event)
                        if len(first.cursors) == cut:
                            break
                    rest = await read(worker, job, replace(query, cursor=cursor))
                    for stream in Stream:
                        assert first.data(stream) + rest.data(stream) == whole.data(stream)

    run(test())


def test_many_readers_all_get_every_byte(engine: Engine) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = f"for n in 1 2 3 4; do {WRITE_LINES}; sleep 0.1; done"
            job = await start(worker, script, ROTATED)
            logs = await asyncio.gather(*(read(worker, job) for _ in range(25)))
            assert {log.data() for log in logs} == {b"".join(LINES) * 4}

    run(test())


# ---------------------------------------------------------------- what is written


def test_bytes_of_any_kind_come_back_as_they_are(engine: Engine) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = r"printf '\000\001\377\n\000\000no end\000'; printf '\r\n\n\n' >&2"
            job = await written(worker, script, 17, ended=True)
            log = await read(worker, job)
            assert log.data(OUT) == b"\x00\x01\xff\n\x00\x00no end\x00"
            assert log.data(ERR) == b"\r\n\n\n"
            assert (await read(worker, job, LogQuery(grep=r"^\x00\x00no"))).data() == (
                b"\x00\x00no end\x00"
            )

    run(test())


def test_a_job_that_writes_nothing_has_a_whole_log(engine: Engine) -> None:
    async def test() -> None:
        async with engine() as worker:
            job = await written(worker, "printf ''; :", 0, ended=True)
            for query in (LogQuery(), PRESENT, LogQuery(tail_lines=5), LogQuery(grep="x")):
                log = await read(worker, job, query)
                assert log.entries == []
                assert log.end is not None
                assert log.end.complete

    run(test())


def test_one_line_of_many_megabytes_is_not_split(engine: Engine) -> None:
    size = (100 if LONG else 5) * MIB

    async def test() -> None:
        async with engine() as worker:
            script = f"echo first; head -c {size} /dev/zero | tr '\\0' x; echo; echo last"
            job = await written(worker, script, size, ended=True)
            line = b"x" * size + b"\n"
            assert (await read(worker, job)).data() == b"first\n" + line + b"last\n"
            assert (await read(worker, job, LogQuery(tail_lines=2))).data() == line + b"last\n"
            assert (await read(worker, job, LogQuery(tail_lines=1))).data() == b"last\n"
            assert (await read(worker, job, LogQuery(grep="^[fl]"))).data() == b"first\nlast\n"
            assert len((await read(worker, job, LogQuery(grep="xxx"))).data()) == len(line)

    run(test())


@BOUNDS
def test_streams_that_take_turns_keep_their_order_and_can_be_read_alone(
    engine: Engine, bounds: LogPolicy
) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = (
                "n=0; while [ $n -lt 3000 ]; do echo out $n of many lines to fill the files;"
                " echo err $n of many >&2; n=$((n + 1)); done"
            )
            job = await written(worker, script, 0, bounds, ended=True)
            out = b"".join(b"out %d of many lines to fill the files\n" % n for n in range(3000))
            err = b"".join(b"err %d of many\n" % n for n in range(3000))
            log = await read(worker, job)
            assert (log.data(OUT), log.data(ERR)) == (out, err)
            for stream, data in ((OUT, out), (ERR, err)):
                log = await read(worker, job, LogQuery(streams=frozenset([stream])))
                assert log.data() == data
                tail = LogQuery(streams=frozenset([stream]), tail_lines=10)
                log = await read(worker, job, tail)
                assert log.data() == b"".join(data.splitlines(keepends=True)[-10:])
            log = await read(worker, job, LogQuery(tail_lines=10))
            assert log.data().count(b"\n") == 10

    run(test())


# ---------------------------------------------------------------- bounds and refusals


def lost(entries: Iterable[Entry]) -> int:
    return sum(entry.lost_bytes for entry in entries if isinstance(entry, Gap))


@pytest.mark.parametrize("full", [LogFull.DROP_OLDEST, LogFull.STOP_RECORDING])
def test_what_a_bounded_log_drops_is_told_to_the_byte(engine: Engine, full: LogFull) -> None:
    async def test() -> None:
        async with engine() as worker:
            script = f"for n in 1 2 3 4 5 6 7 8 9 10 11 12; do {WRITE_LINES}; done"
            job = await written(worker, script, 0, LogPolicy(MIB, full), ended=True)
            whole = b"".join(LINES) * 12
            log = await read(worker, job)
            assert len(log.data()) + lost(log.entries) == len(whole)
            kept = log.data()
            oldest = full is LogFull.DROP_OLDEST
            assert whole.endswith(kept) if oldest else whole.startswith(kept)
            assert isinstance(log.entries[0 if oldest else -1], Gap)
            assert MIB // 2 < len(kept) <= MIB
            assert log.end is not None
            assert log.end.complete
            assert log.end.totals.lost_bytes == lost(log.entries)

    run(test())


@pytest.mark.parametrize("cursor", ["x", "2:1:0:0:0:0", "2:73:0:0:0:0", "2:99999999:0:0:0:0", "é"])
def test_a_cursor_of_no_place_in_the_log_is_refused(engine: Engine, cursor: str) -> None:
    async def test() -> None:
        async with engine() as worker:
            job = await written(worker, "echo some output", 0, ended=True)
            with pytest.raises(JobError) as caught:
                await read(worker, job, LogQuery(cursor=cursor))
            assert caught.value.reason is Reason.CURSOR_INVALID

    run(test())


def test_a_pattern_that_is_none_is_refused(engine: Engine) -> None:
    async def test() -> None:
        async with engine() as worker:
            job = await written(worker, "echo some output", 0, ended=True)
            with pytest.raises(JobError) as caught:
                await read(worker, job, LogQuery(grep="(unclosed"))
            assert caught.value.reason is Reason.INVALID_ARGUMENT

    run(test())
