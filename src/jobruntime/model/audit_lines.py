"""The form of the audit's lines: each is chained to the one before it by a hash. Pure.

A line is one JSON object in ASCII. `hash` is its last member: the SHA-256 of all that stands before
`,"hash":` in the line. `prev` is the `hash` of the line before. docs/audit.md describes the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

_LINE = re.compile(rb'(\{"seq":[0-9]+,.*),"hash":"([0-9a-f]{64})"\}')
_HEAD = re.compile(r"(?:([0-9]{1,18}):)?([0-9a-fA-F]{64})")
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain: what the next one refers to, and all that is before it."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


GENESIS: Final = Head(0, "0" * 64)
"""What the first line of all refers to."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line whose own hash is right."""

    head: Head
    prev: str
    event: str
    oldest: int | None
    """Of a file's first line: the number of the first line that is kept from then on."""


def encode_line(before: Head, time_ns: int, fields: Mapping[str, object]) -> tuple[bytes, Head]:
    """Return the next line, with its end, and what it is to the one after it."""
    seq = before.seq + 1
    values = {"seq": seq, "time": format_time(time_ns)} | dict(fields) | {"prev": before.hash}
    body = json.dumps(values, separators=(",", ":")).encode("ascii")[:-1]
    digest = sha256(body).hexdigest()
    return b'%b,"hash":"%b"}\n' % (body, digest.encode()), Head(seq, digest)


def parse_line(data: bytes) -> Line:
    """Return the line in `data`, which is without its end; raises ValueError with the cause."""
    found = _LINE.fullmatch(data)
    if found is None:
        raise ValueError("it is no line of an audit")
    if sha256(found[1]).hexdigest() != found[2].decode():
        raise ValueError("its hash is not that of its bytes")
    values = json.loads(data)
    seq, prev, event = values.get("seq"), values.get("prev"), values.get("event")
    oldest = values.get("oldest")
    if not isinstance(seq, int) or not isinstance(prev, str) or not isinstance(event, str):
        raise ValueError("it lacks seq, prev or event")
    oldest = oldest if isinstance(oldest, int) else None
    return Line(Head(seq, values["hash"]), prev, event, oldest)


def parse_head(text: str) -> tuple[int | None, str]:
    """Return number and hash in `SEQ:HASH` or `HASH`; raises ValueError."""
    found = _HEAD.fullmatch(text.strip())
    if found is None:
        raise ValueError("a head is SEQ:HASH or HASH, with 64 hex digits")
    return None if found[1] is None else int(found[1]), found[2].lower()


def format_time(time_ns: int) -> str:
    """Return the time in UTC, as RFC 3339 with nanoseconds."""
    at = datetime.fromtimestamp(time_ns // _NS, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{time_ns % _NS:09d}Z"
