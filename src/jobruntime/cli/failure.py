"""How jobc ends: its exit codes, and the error that carries one with its sentence."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import IntEnum, unique


@unique
class Exit(IntEnum):
    """What jobc exits with; `jobc --help` tells the same."""

    OK = 0
    REFUSED = 1
    """The server refused or failed, or could not give all of what was asked for."""
    USAGE = 2
    OWN_FAILURE = 125
    """The server cannot be reached, or jobc itself failed."""
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class Failure(Exception):
    """The end of jobc: a sentence "cannot <verb> <object>: <cause>", a remedy, an exit code."""

    def __init__(self, exit_code: Exit, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def printable(text: str) -> str:
    """Return `text` with all that could move a cursor or forge a line escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tell(text: str) -> None:
    """Write `text` to stderr as one line, whatever it contains."""
    data = f"jobc: {printable(text)}\n".encode("utf-8", "replace")
    # Nobody is left to be told where stderr is closed or full.
    with suppress(OSError):
        os.write(2, data)
