"""What was found: checks, and how they are shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final

from jobruntime.model.errors import JobError

_NAME_WIDTH: Final = 20


@unique
class Level(StrEnum):
    """How good or bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Something is not to be had, or could not be tried: jobd works without."""
    FAILED = "failed"
    """jobd cannot work so, or what is offered does not hold."""


_WORDS: Final = {Level.OK: "ok", Level.WARNING: "warn", Level.FAILED: "FAIL"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and one sentence that says how to mend it."""

    name: str
    level: Level
    found: str
    remedy: str = ""
    measured: Mapping[str, float | str] = field(default_factory=dict)


def good(name: str, found: str, **measured: float | str) -> Check:
    """Return a check that is as it should be."""
    return Check(name, Level.OK, found, "", measured)


def lacking(name: str, found: str, remedy: str, **measured: float | str) -> Check:
    """Return a warning."""
    return Check(name, Level.WARNING, found, remedy, measured)


def failed(name: str, found: str, remedy: str, **measured: float | str) -> Check:
    """Return a failure."""
    return Check(name, Level.FAILED, found, remedy, measured)


def failed_with(name: str, error: JobError) -> Check:
    """Return the failure that the error tells of."""
    return Check(name, Level.FAILED, error.message, error.remedy)


class ReaderGoneError(Exception):
    """Nobody reads the report any more."""


class Report:
    """Collects checks; shows them as they come, or all together as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        """Nothing is shown yet."""
        self._as_json = as_json
        self._checks: list[Check] = []
        self._told: set[str] = set()

    @property
    def ok(self) -> bool:
        """Whether nothing has failed; warnings are allowed."""
        return all(check.level is not Level.FAILED for check in self._checks)

    def begin(self, title: str) -> None:
        """Start a part of the table."""
        gap = "\n" if self._checks else ""
        self._show(f"{gap}{title}")

    def add(self, check: Check) -> None:
        """Take a check and show its line."""
        self._checks.append(check)
        self._show(f"  {_WORDS[check.level]:<5} {check.name:<{_NAME_WIDTH}} {check.found}")
        # What mends one thing often mends ten more; once is enough to read.
        if check.remedy and check.remedy not in self._told:
            self._told.add(check.remedy)
            self._show(f"  {'':<5} {'':<{_NAME_WIDTH}} -> {check.remedy}")

    def end(self) -> None:
        """Show the sum, or everything as one JSON object."""
        if self._as_json:
            _print(json.dumps(self._encode(), indent=2))
            return
        count = dict.fromkeys(Level, 0)
        for check in self._checks:
            count[check.level] += 1
        self._show(
            f"\n{count[Level.OK]} ok, {count[Level.WARNING]} warnings, {count[Level.FAILED]} failed"
        )

    def _encode(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "checks": [
                {
                    "name": check.name,
                    "level": check.level.value,
                    "found": check.found,
                    "remedy": check.remedy or None,
                    "measured": dict(check.measured),
                }
                for check in self._checks
            ],
        }

    def _show(self, text: str) -> None:
        if not self._as_json:
            # A path in it may contain anything.
            _print("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        # The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGoneError from error
