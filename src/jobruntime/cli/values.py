"""Reads the values of flags, for argparse: each raises ArgumentTypeError with a sentence."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError

DEFAULT_RETRY_MS = 30_000
"""How long a stream looks for a server that went away, unless told otherwise."""


def exact(word: str) -> str:
    """Return a word of the command line as UTF-8 reads it, whatever the locale made of it.

    Bytes that are not UTF-8 are kept in the `surrogateescape` form.
    """
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def duration_ms(text: str) -> int:
    """Return the milliseconds of `90s`, `500ms`, `2m`."""
    from jobruntime.model.durations import parse_duration_ms
    from jobruntime.model.errors import JobError

    try:
        return parse_duration_ms(text)
    except JobError as error:
        raise ArgumentTypeError(str(error)) from error


def positive_duration_ms(text: str) -> int:
    """Return the milliseconds of a duration that is longer than 0."""
    value = duration_ms(text)
    if value == 0:
        raise ArgumentTypeError("cannot wait for a duration of 0; give 500ms or more")
    return value


def signal_number(text: str) -> int:
    """Return the number of the signal `TERM`, `SIGTERM` or `15`."""
    from jobruntime.model.state import parse_signal

    try:
        return parse_signal(text)
    except (KeyError, ValueError) as error:
        raise ArgumentTypeError(
            f"cannot find a signal {text!r}; write it as TERM, SIGTERM or 15"
        ) from error


def key_and_value(text: str) -> tuple[str, str]:
    """Return both sides of the first `=`."""
    key, separator, value = exact(text).partition("=")
    if not separator or not key:
        raise ArgumentTypeError(f"cannot read {text!r}; write it as KEY=VALUE")
    return key, value


def variable(text: str) -> tuple[str, str] | None:
    """Return `NAME=VALUE` in two, `NAME` alone with the caller's own value, or None without one."""
    if "=" in text:
        return key_and_value(text)
    if not text:
        raise ArgumentTypeError("cannot set a variable without a name; write it as NAME=VALUE")
    value = os.environ.get(text)
    return None if value is None else (exact(text), exact(value))
