"""Where a log goes: as lines of JSON, as text, or as the bytes themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from .failure import tell
from .lines import JsonLines, TextLines
from .output import STDERR_FD, STDOUT_FD, write_all
from .times import time_text

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb

WRITE_BYTES: Final = 32 * 1024
"""JSON is written in pieces of this length, or less at the end of a message."""

_STREAM_NAMES: Final = {1: "stdout", 2: "stderr"}


def stream_name(stream: int) -> str:
    """Return the word for a LogStream; a number for one that a newer server may have."""
    return _STREAM_NAMES.get(stream) or f"stream {stream}"


class Sink(Protocol):
    """Where the pieces of one job's log go. Every method raises Failure."""

    def take_chunk(self, stream: str, time_ns: int, data: bytes) -> None:
        """Take what one read of the job's output gave."""

    def take_gap(self, gap: pb.LogGap) -> None:
        """Take the word of output that is not there."""

    def flush(self) -> None:
        """Write what was taken, but for lines that have not ended."""

    def finish(self) -> None:
        """Write the rest."""


class JsonSink:
    """Lines of JSON on stdout."""

    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines
        self._texts: list[bytes] = []
        self._length = 0

    def take_chunk(self, stream: str, time_ns: int, data: bytes) -> None:
        """Take the lines that end in `data`."""
        for text in self._lines.take_chunk(stream, time_ns, data):
            self._texts.append(text)
            self._length += len(text)
            if self._length >= WRITE_BYTES:
                self.flush()

    def take_gap(self, gap: pb.LogGap) -> None:
        """Take a gap, after what is left of the line that it broke."""
        stream = stream_name(gap.stream)
        self._texts += self._lines.end(stream)
        self._texts.append(
            self._lines.gap(stream, gap.lost_bytes, gap.first_ns, gap.last_ns, gap.cause)
        )

    def flush(self) -> None:
        """Write all lines that have ended."""
        if self._texts:
            write_all(STDOUT_FD, b"".join(self._texts))
            self._texts.clear()
            self._length = 0

    def finish(self) -> None:
        """Write the lines that no newline ended."""
        for stream in self._lines.streams:
            self._texts += self._lines.end(stream)
        self.flush()


class RawSink:
    """Each stream's bytes on the fd of the same name; gaps are told on stderr."""

    def __init__(self, job: str = "") -> None:
        """`job` stands before a gap, where more than one job is shown."""
        self._job = f"{job}: " if job else ""
        self._fd = STDOUT_FD
        self._joined: list[bytes] = []

    def take_chunk(self, stream: str, time_ns: int, data: bytes) -> None:
        """Take `data` as it is."""
        self._add(stream, data)

    def take_gap(self, gap: pb.LogGap) -> None:
        """Tell of the gap where it is."""
        self.flush()
        first, last = time_text(gap.first_ns), time_text(gap.last_ns)
        tell(
            f"{self._job}{gap.lost_bytes} bytes of {stream_name(gap.stream)} are missing here: "
            f"{gap.cause} (captured from {first} to {last})"
        )

    def flush(self) -> None:
        """Write what has come, with one call for neighbours of one stream."""
        joined = self._joined
        if joined:
            write_all(self._fd, joined[0] if len(joined) == 1 else b"".join(joined))
            joined.clear()

    def finish(self) -> None:
        """Write the rest."""
        self.flush()

    def _add(self, stream: str, data: bytes) -> None:
        fd = STDERR_FD if stream == "stderr" else STDOUT_FD
        if fd != self._fd:
            self.flush()
            self._fd = fd
        self._joined.append(data)


class TextSink(RawSink):
    """Whole lines with something before each, on the fd of their stream."""

    def __init__(self, lines: TextLines, job: str = "") -> None:
        super().__init__(job)
        self._lines = lines

    def take_chunk(self, stream: str, time_ns: int, data: bytes) -> None:
        """Take the lines that end in `data`."""
        for text in self._lines.take_chunk(stream, time_ns, data):
            self._add(stream, text)

    def take_gap(self, gap: pb.LogGap) -> None:
        """Tell of the gap, after what is left of the line that it broke."""
        self._end(stream_name(gap.stream))
        super().take_gap(gap)

    def finish(self) -> None:
        """Write the lines that no newline ended."""
        for stream in self._lines.streams:
            self._end(stream)
        self.flush()

    def _end(self, stream: str) -> None:
        for text in self._lines.end(stream):
            self._add(stream, text)
