"""From when to when a certificate is valid, read without a library: jobc's start-up time counts."""

from __future__ import annotations

import base64
import binascii
import re
import time
from calendar import timegm
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .failure import tell

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_DAY_S: Final = 86_400
_WARN_S: Final = 14 * _DAY_S
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


@dataclass(frozen=True, slots=True)
class Validity:
    """Begin and end in seconds since 1970, UTC."""

    begin: float
    end: float

    def left_s(self, now: float) -> float:
        """Return for how many seconds it is still valid; not positive where it has expired."""
        return self.end - now

    def is_ending(self, now: float) -> bool:
        """Return whether two weeks are left, or the last third of a short-lived one."""
        return self.left_s(now) < min(_WARN_S, (self.end - self.begin) / 3)


def read_validity(path: Path) -> Validity | None:
    """Return the validity of the first certificate in the file; None where it cannot be read."""
    try:
        found = _PEM.search(path.read_bytes())
        return None if found is None else parse_validity(base64.b64decode(found[1]))
    except (OSError, ValueError, IndexError, binascii.Error):
        return None


def parse_validity(der: bytes) -> Validity:
    """Return the validity in a certificate (RFC 5280, 4.1); raises ValueError or IndexError."""
    _, certificate, _ = _take(der)
    _, tbs, _ = _take(certificate)
    tag, _, rest = _take(tbs)
    if tag == _VERSION:
        _, _, rest = _take(rest)  # the serial
    _, _, rest = _take(rest)  # the signature's algorithm
    _, _, rest = _take(rest)  # the issuer
    tag, validity, _ = _take(rest)
    if tag != _SEQUENCE:
        raise ValueError("no validity")
    begin_tag, begin, rest = _take(validity)
    end_tag, end, _ = _take(rest)
    return Validity(_parse_time(begin_tag, begin), _parse_time(end_tag, end))


def warn_of_end(path: Path) -> None:
    """Say on stderr that the certificate ends soon; silent where it does not or is unreadable."""
    validity = read_validity(path)
    now = time.time()
    if validity is None or not validity.left_s(now) > 0 or not validity.is_ending(now):
        return  # one that has expired is told of by the refusal
    tell(
        f"your certificate {path} ends in {format_left(validity.left_s(now))}; "
        "get the next one: jobc renew"
    )


def format_left(left_s: float) -> str:
    """Return a time in the largest unit of which there are two."""
    for unit_s, name in ((_DAY_S, "days"), (3600, "hours"), (60, "minutes")):
        if left_s >= 2 * unit_s:
            return f"{int(left_s // unit_s)} {name}"
    return f"{int(left_s)} seconds"


def _take(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element in `data`, and what comes behind it."""
    tag, length, begin = data[0], data[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin])
    if begin + length > len(data):
        raise ValueError("it is cut off")
    return tag, data[begin : begin + length], data[begin + length :]


def _parse_time(tag: int, data: bytes) -> float:
    text = data.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: 50 and above is in the 20th century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))
