"""Makes lines from a log's chunks, without losing a byte whatever the bytes are.

A JSON object without `"partial": true` ends with a newline that is not in it; all objects of a
stream, joined in this way, give the stream back (from `log_base64` where there is one, else from
`log`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from binascii import b2a_base64
from json.encoder import encode_basestring
from time import gmtime, strftime
from typing import Final

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""A longer line comes in pieces, so that no job can fill the memory of who reads its log."""
BLOCK_BYTES: Final = 16 * 1024
"""Texts of many lines stay small, or the allocator maps and unmaps pages for each of them, which
takes as long as all the rest."""

_NS = 1_000_000_000
_ESCAPES: Final = (
    (b"\\", rb"\\"),
    (b'"', rb"\""),
    (b"\t", rb"\t"),
    (b"\r", rb"\r"),
    (b"\x1b", rb"\u001b"),
)
"""What lines often have that JSON escapes; the backslash, which all others bring, is the first."""
_RARE: Final = bytes(char for char in range(32) if char not in b"\n\t\r\x1b")
"""What else it escapes."""


class _Open:
    """The line of one stream that has not ended yet."""

    __slots__ = ("data", "time_ns")

    def __init__(self) -> None:
        self.data = bytearray()
        self.time_ns = 0


class Lines(ABC):
    """The lines of a log, each stream's assembled on its own, told as text of some form."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._open: dict[str, _Open] = {}
        self._second = -1
        self._second_text = ""

    def take_chunk(self, stream: str, time_ns: int, data: bytes) -> list[bytes]:
        """Return the lines that `data` ends, whole ones in texts of about `BLOCK_BYTES`.

        What is behind the last newline is kept.
        """
        line = self._open.get(stream)
        if line is None:
            line = self._open[stream] = _Open()
        first = data.find(b"\n")
        if first < 0:
            return self._hold(stream, line, time_ns, data)
        texts = []
        begin = 0
        if line.data:
            texts = self._hold(stream, line, time_ns, data[:first])
            texts.append(self._block(stream, line.time_ns, bytes(line.data)))
            line.data.clear()
            begin = first + 1
        end = data.rfind(b"\n") + 1
        while begin < end:
            block_end = data.find(b"\n", begin + BLOCK_BYTES, end)
            block_end = end - 1 if block_end < 0 else block_end
            texts.append(self._block(stream, time_ns, data[begin:block_end]))
            begin = block_end + 1
        return texts if end == len(data) else texts + self._hold(stream, line, time_ns, data[end:])

    def end(self, stream: str) -> list[bytes]:
        """Return what is left of a stream's line that no newline has ended; at most one text."""
        line = self._open.get(stream)
        if line is None or not line.data:
            return []
        text = self._piece(stream, line.time_ns, bytes(line.data))
        line.data.clear()
        return [text]

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of which something came."""
        return tuple(self._open)

    def time_text(self, time_ns: int) -> str:
        """Return UTC nanoseconds since 1970 as RFC 3339."""
        second, rest = divmod(time_ns, _NS)
        if second != self._second:
            self._second = second
            self._second_text = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        return f"{self._second_text}.{rest:09d}Z"

    @abstractmethod
    def _block(self, stream: str, time_ns: int, block: bytes) -> bytes:
        """Return the lines of `block`, at least one; the newline of the last is not in it."""

    @abstractmethod
    def _piece(self, stream: str, time_ns: int, piece: bytes) -> bytes:
        """Return a part of a line, with no newline in it or behind it."""

    def _hold(self, stream: str, line: _Open, time_ns: int, data: bytes) -> list[bytes]:
        """Add to the open line; return the pieces of it that have become too long to keep."""
        pieces = []
        while data:
            room = self._max_line_bytes - len(line.data)
            if room <= 0:
                # Up to three bytes more, so that no character of UTF-8 is cut.
                room = _continuation_bytes(data[: max(0, room + 3)])
            if room == 0:
                pieces += self.end(stream)
                continue
            if not line.data:
                line.time_ns = time_ns
            line.data += data[:room]
            data = data[room:]
        return pieces


class JsonLines(Lines):
    """An object on each line."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES, job: str = "") -> None:
        """`job`, where it is given, is the value of a key "job" in each object."""
        super().__init__(max_line_bytes)
        self._job = f', "job": {encode_basestring(job)}' if job else ""

    def gap(self, stream: str, lost_bytes: int, first_ns: int, last_ns: int, cause: str) -> bytes:
        """Return the line for lost output."""
        gap = (
            f'{{"bytes": {lost_bytes}, "cause": {encode_basestring(cause)}, '
            f'"until": "{self.time_text(last_ns)}"}}'
        )
        return b'{"gap": %b%b}\n' % (gap.encode(), self._told(stream, first_ns))

    def _block(self, stream: str, time_ns: int, block: bytes) -> bytes:
        return _encode_block(block, self._told(stream, time_ns))

    def _piece(self, stream: str, time_ns: int, piece: bytes) -> bytes:
        return _encode_line(piece, self._told(stream, time_ns) + b', "partial": true')

    def _told(self, stream: str, time_ns: int) -> bytes:
        told = f', "stream": "{stream}", "time": "{self.time_text(time_ns)}"{self._job}'
        return told.encode()


class TextLines(Lines):
    """The lines themselves, with something before each."""

    def __init__(self, prefixes: dict[str, bytes], *, has_times: bool) -> None:
        """`prefixes` has what stands before each line of a stream; the time comes behind it."""
        super().__init__()
        self._prefixes = prefixes
        self._has_times = has_times

    def _block(self, stream: str, time_ns: int, block: bytes) -> bytes:
        prefix = self._prefixes.get(stream, b"")
        if self._has_times:
            prefix += f"{self.time_text(time_ns)} ".encode()
        return b"%b%b\n" % (prefix, block.replace(b"\n", b"\n" + prefix))

    def _piece(self, stream: str, time_ns: int, piece: bytes) -> bytes:
        # With a newline, too: what comes next on the terminal may be of another job.
        return self._block(stream, time_ns, piece)


def _encode_block(block: bytes, told: bytes) -> bytes:
    """Return the lines of `block`, at least one, of the same stream and time.

    The usual case is done by a few passes in C, whatever the number of lines.
    """
    if not _is_utf8(block) or len(block.translate(None, _RARE)) < len(block):
        return b"".join(_encode_line(line, told) for line in block.split(b"\n"))
    for char, escaped in _ESCAPES:
        block = block.replace(char, escaped)
    body = block.replace(b"\n", b'"%b}\n{"log": "' % told)
    return b'{"log": "%b"%b}\n' % (body, told)


def _encode_line(line: bytes, told: bytes) -> bytes:
    log = encode_basestring(line.decode("utf-8", "replace")).encode()
    if not _is_utf8(line):
        told = b'%b, "log_base64": "%b"' % (told, b2a_base64(line, newline=False))
    return b'{"log": %b%b}\n' % (log, told)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _continuation_bytes(data: bytes) -> int:
    """Return how many bytes at the start of `data` go on with a character of UTF-8."""
    for count, byte in enumerate(data):
        if byte & 0xC0 != 0x80:
            return count
    return len(data)
