"""Makes lines of JSON from a log's chunks, without losing a byte whatever the bytes are.

An object without `"partial": true` ends with a newline that is not in it; all objects of a stream,
joined in this way, give the stream back (from `log_base64` where there is one, else from `log`).
"""

from __future__ import annotations

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
_SEPARATOR = "\x7f"
"""A character that JSON leaves as it is, in the place of newlines while a block is encoded."""


class _Open:
    """The line of one stream that has not ended yet."""

    __slots__ = ("data", "time_ns")

    def __init__(self) -> None:
        self.data = bytearray()
        self.time_ns = 0


class JsonLines:
    """The lines of a log, each stream's assembled on its own, told as JSON text."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._open: dict[str, _Open] = {}
        self._second = -1
        self._second_text = ""

    def take_chunk(self, stream: str, time_ns: int, data: bytes) -> list[str]:
        """Return the lines that `data` ends, whole ones in texts of about `BLOCK_BYTES`.

        What is behind the last newline is kept.
        """
        line = self._open.setdefault(stream, _Open())
        first = data.find(b"\n")
        if first < 0:
            return self._hold(stream, line, time_ns, data)
        texts = []
        begin = 0
        if line.data:
            texts = self._hold(stream, line, time_ns, data[:first])
            texts.append(_encode_line(bytes(line.data), self._told(stream, line.time_ns)))
            line.data.clear()
            begin = first + 1
        end = data.rfind(b"\n") + 1
        told = self._told(stream, time_ns)
        while begin < end:
            block_end = data.find(b"\n", begin + BLOCK_BYTES, end)
            block_end = end - 1 if block_end < 0 else block_end
            texts.append(_encode_block(data[begin:block_end], told))
            begin = block_end + 1
        return texts + self._hold(stream, line, time_ns, data[end:])

    def take_gap(
        self, stream: str, lost_bytes: int, first_ns: int, last_ns: int, cause: str
    ) -> str:
        """Return the line for lost output, after what is left of the line that it broke."""
        gap = (
            f'{{"bytes": {lost_bytes}, "cause": {encode_basestring(cause)}, '
            f'"until": "{self.time_text(last_ns)}"}}'
        )
        return f'{self._end(stream)}{{"gap": {gap}{self._told(stream, first_ns)}}}\n'

    def finish(self) -> str:
        """Return what is left of lines that no newline ended, marked as partial."""
        return "".join(self._end(stream) for stream in self._open)

    def time_text(self, time_ns: int) -> str:
        """Return UTC nanoseconds since 1970 as RFC 3339."""
        second, rest = divmod(time_ns, _NS)
        if second != self._second:
            self._second = second
            self._second_text = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        return f"{self._second_text}.{rest:09d}Z"

    def _hold(self, stream: str, line: _Open, time_ns: int, data: bytes) -> list[str]:
        """Add to the open line; return the pieces of it that have become too long to keep."""
        pieces = []
        while data:
            room = self._max_line_bytes - len(line.data)
            if room <= 0:
                # Up to three bytes more, so that no character of UTF-8 is cut.
                room = _continuation_bytes(data[: max(0, room + 3)])
            if room == 0:
                pieces.append(self._end(stream))
                continue
            if not line.data:
                line.time_ns = time_ns
            line.data += data[:room]
            data = data[room:]
        return pieces

    def _end(self, stream: str) -> str:
        line = self._open.get(stream)
        if line is None or not line.data:
            return ""
        told = self._told(stream, line.time_ns) + ', "partial": true'
        text = _encode_line(bytes(line.data), told)
        line.data.clear()
        return text

    def _told(self, stream: str, time_ns: int) -> str:
        return f', "stream": "{stream}", "time": "{self.time_text(time_ns)}"'


def _encode_block(block: bytes, told: str) -> str:
    """Return the lines of `block`, at least one, of the same stream and time.

    The usual case is done by a few passes in C, whatever the number of lines.
    """
    try:
        text = block.decode()
    except UnicodeDecodeError:
        return "".join(_encode_line(line, told) for line in block.split(b"\n"))
    between = f'"{told}}}\n{{"log": "'
    if _SEPARATOR in text:
        body = between.join(encode_basestring(line)[1:-1] for line in text.split("\n"))
    else:
        body = encode_basestring(text.replace("\n", _SEPARATOR))[1:-1]
        body = body.replace(_SEPARATOR, between)
    return f'{{"log": "{body}"{told}}}\n'


def _encode_line(line: bytes, told: str) -> str:
    try:
        return f'{{"log": {encode_basestring(line.decode())}{told}}}\n'
    except UnicodeDecodeError:
        log = encode_basestring(line.decode("utf-8", "replace"))
        exact = b2a_base64(line, newline=False).decode()
        return f'{{"log": {log}{told}, "log_base64": "{exact}"}}\n'


def _continuation_bytes(data: bytes) -> int:
    """Return how many bytes at the start of `data` go on with a character of UTF-8."""
    for count, byte in enumerate(data):
        if byte & 0xC0 != 0x80:
            return count
    return len(data)
