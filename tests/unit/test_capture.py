"""What goes from a pipe into a log, where there is no room for some of it."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobruntime.keeper.capture import Capture
from jobruntime.keeper.segments import Segments
from jobruntime.model.frames import (
    BLOCK_HEADER,
    FRAME_HEADER,
    BlockHeader,
    Chunk,
    Entry,
    Stream,
    block_bytes_for,
    encode_block_header,
    segment_name,
)
from jobruntime.model.log_policy import MIN_LOG_BYTES, LogFull, LogPolicy
from jobruntime.worker.log_files import LogFiles
from jobruntime.worker.log_reader import LogReader

FRAME = block_bytes_for(MIN_LOG_BYTES) - BLOCK_HEADER.size - FRAME_HEADER.size
"""The most data that a block takes."""


class Recorder:
    """A log in a directory, and the pipe that it is fed from."""

    def __init__(self, directory: Path, policy: LogPolicy) -> None:
        self.directory = directory
        first = os.open(directory / segment_name(0), os.O_RDWR | os.O_CREAT)
        os.write(first, encode_block_header(BlockHeader(block_bytes_for(policy.max_bytes), 0)))
        self._directory_fd = os.open(directory, os.O_RDONLY)
        self.capture = Capture(Segments(first, self._directory_fd, policy, 0), policy)
        self._pipe, self._end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def feed(self, data: bytes) -> None:
        """Have the capture take this in one read."""
        assert os.write(self._end, data) == len(data)
        assert self.capture.read_once(Stream.STDOUT, self._pipe)

    def entries(self) -> list[Entry]:
        """Return what a reader finds."""
        return asyncio.run(self._read())

    async def _read(self) -> list[Entry]:
        files = LogFiles(str(self.directory))
        await files.check_format()
        reader, found = LogReader(files), list[Entry]()
        while batch := await reader.read_batch():
            found += [placed.entry for placed in batch.placed]
        files.close()
        return found

    def close(self) -> None:
        for fd in (self._pipe, self._end, self._directory_fd):
            os.close(fd)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path, LogPolicy(MIN_LOG_BYTES, LogFull.DROP_OLDEST))
    yield recorder
    recorder.close()


@contextmanager
def no_room(size: int = 0) -> Iterator[None]:
    """Let no file grow beyond `size`; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sizes(entries: list[Entry]) -> list[int]:
    """Return the bytes of each entry; those of gaps are negative."""
    return [len(e.data) if isinstance(e, Chunk) else -e.lost_bytes for e in entries]


@pytest.mark.parametrize("room", [0, 50, BLOCK_HEADER.size + 20])
def test_a_segment_that_found_no_room_at_its_start_is_begun_again(
    recorder: Recorder, room: int
) -> None:
    recorder.feed(bytes(FRAME))
    recorder.feed(bytes(FRAME - 1000))  # too little is left of the first segment for a read
    with no_room(room):
        recorder.feed(bytes(2000))
        recorder.feed(bytes(3000))
    assert sizes(recorder.entries()) == [FRAME, FRAME - 1000]

    recorder.feed(bytes(10))
    recorder.feed(bytes(20))

    # The gap comes in the new segment, for nothing more goes to the one before.
    assert sizes(recorder.entries()) == [FRAME, FRAME - 1000, -5000, 10, 20]


def test_a_gap_goes_to_the_end_of_a_block_that_takes_no_read_any_more(recorder: Recorder) -> None:
    recorder.feed(bytes(FRAME - 1000))
    with no_room():
        recorder.feed(bytes(2000))
    recorder.feed(bytes(3000))
    assert sizes(recorder.entries()) == [FRAME - 1000, -2000, 3000]


def test_the_pieces_of_a_log_are_its_jobs_bytes_whatever_was_dropped(recorder: Recorder) -> None:
    for n in range(400):
        if n % 7 == 3:
            with no_room():
                recorder.feed(bytes(n * 17 + 1))
        recorder.feed(bytes(n * 19 + 1))
    recorder.capture.finish()
    written = sum(n * 19 + 1 for n in range(400)) + sum(
        n * 17 + 1 for n in range(400) if n % 7 == 3
    )
    found = sizes(recorder.entries())
    assert sum(map(abs, found)) == written
    assert sum(path.stat().st_size for path in recorder.directory.iterdir()) <= MIN_LOG_BYTES
    assert not recorder.capture.gaps
