"""Which part of a job's output somebody asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import invalid
from .frames import Stream

BOTH: Final = frozenset(Stream)
MAX_TAIL_LINES: Final = 1 << 40
MAX_GREP_TAIL_LINES: Final = 100_000
"""Of matching lines; each has to be remembered until the last is found."""
MAX_GREP_CHARS: Final = 4096


@dataclass(frozen=True, slots=True)
class LogQuery:
    """A part of a log: what all of its conditions hold for."""

    follow: bool = True
    """Go on after the present end until the job ends."""
    cursor: str = ""
    """Where an earlier answer to the same query ended; empty: at the first byte, or as said."""
    tail_lines: int | None = None
    """Only so many lines before the present end, and what follows; None: all."""
    since_ns: int | None = None
    """Only what was captured then (UTC ns) or later."""
    until_ns: int | None = None
    """Only what was captured then or earlier."""
    streams: frozenset[Stream] = BOTH
    grep: str = ""
    """Only lines in which this regular expression (RE2) matches; empty: all."""

    def __post_init__(self) -> None:
        """Refuse what breaks a rule; raises JobError (INVALID_ARGUMENT)."""
        tail = self.tail_lines
        if tail is not None and not 0 <= tail <= MAX_TAIL_LINES:
            raise invalid(f"cannot read the last {tail} lines", "give 0 or more")
        if self.grep and tail is not None and tail > MAX_GREP_TAIL_LINES:
            raise invalid(
                f"cannot read the last {tail} lines that match",
                f"give at most {MAX_GREP_TAIL_LINES}",
            )
        if len(self.grep) > MAX_GREP_CHARS:
            raise invalid(
                f"cannot search for a pattern of {len(self.grep)} characters",
                f"give at most {MAX_GREP_CHARS}",
            )
        if not self.streams:
            raise invalid(
                "cannot read the log of no stream", "name stdout, stderr, or none of them"
            )


WHOLE_LOG: Final = LogQuery()
