"""Small file systems, and jobs' output that can be told by its place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.support import MIB

BASES: Final[Mapping[int, int]] = {
    pb.LOG_STREAM_STDOUT: 100_000_000_000,
    pb.LOG_STREAM_STDERR: 200_000_000_000,
}
LINE_BYTES: Final = 13


@contextmanager
def mounted_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of this size at `path`, for the server's user alone."""
    if os.geteuid() != 0:
        assert not os.environ.get("CI"), "this test needs root"
        pytest.skip("only root can mount")
    path.mkdir()
    options = f"size={size_bytes},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "jobd-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Take all the room that there is, but for so many bytes."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.strerror == "No space left on device"  # noqa: PT017
        file.truncate(file.tell() - leave_bytes)
    return path


def numbers(stream: int, lines: int) -> str:
    """Return the shell command that writes so many lines to the stream, each another."""
    first = BASES[stream] + 1
    return f"seq {first} {first + lines - 1} >&{1 if stream == pb.LOG_STREAM_STDOUT else 2}"


@dataclass(frozen=True)
class Tally:
    """What of one stream was read, and what its gaps say is missing."""

    kept_bytes: int
    lost_bytes: int

    @property
    def bytes(self) -> int:
        return self.kept_bytes + self.lost_bytes


def tally(entries: Sequence[pb.LogEntry], stream: int) -> Tally:
    """Count a stream that `numbers` wrote; fails where a byte is not the one of its place."""
    place = kept = lost = 0
    for entry in entries:
        if entry.HasField("gap") and entry.gap.stream == stream:
            assert entry.gap.lost_bytes > 0
            assert 0 < entry.gap.first_ns <= entry.gap.last_ns
            lost += entry.gap.lost_bytes
            place += entry.gap.lost_bytes
        elif entry.HasField("chunk") and entry.chunk.stream == stream:
            data = entry.chunk.data
            edge = 2 * LINE_BYTES
            assert data[:edge] == _expected(stream, place, len(data[:edge]))
            last = data[-edge:]
            assert last == _expected(stream, place + len(data) - len(last), len(last))
            kept += len(data)
            place += len(data)
    return Tally(kept, lost)


def _expected(stream: int, place: int, length: int) -> bytes:
    line, skip = divmod(place, LINE_BYTES)
    first = BASES[stream] + 1 + line
    text = b"".join(b"%d\n" % n for n in range(first, first + length // LINE_BYTES + 2))
    return text[skip : skip + length]
