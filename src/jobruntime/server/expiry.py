"""Which certificates end soon, in the words of the log and of `jobd doctor`."""

from __future__ import annotations

import datetime as dt
from typing import Final

from cryptography import x509

LONG_BEFORE: Final = dt.timedelta(days=30)
"""A warning comes so long before the end; of a short-lived one, in the last third."""


def is_ending(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Return whether it is time to think of a new one."""
    return is_near_end(certificate.not_valid_before_utc, certificate.not_valid_after_utc, now)


def is_near_end(begin: dt.datetime, end: dt.datetime, now: dt.datetime) -> bool:
    """Return the same for a time of validity."""
    return end - now < min(LONG_BEFORE, (end - begin) / 3)


def format_left(left: dt.timedelta) -> str:
    """Return how long something is still valid, in days or, where few are left, in hours."""
    if left <= dt.timedelta(0):
        return "has expired"
    hours = left // dt.timedelta(hours=1)
    return f"{hours} hours left" if left.days < 2 else f"{left.days} days left"
