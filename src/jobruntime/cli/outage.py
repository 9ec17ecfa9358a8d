"""What to do about a stream that breaks: look for the server for a while, and go on."""

from __future__ import annotations

import time
from threading import Lock
from typing import Final

from jobruntime.rpc.errors import RemoteError

from .connection import backoff_seconds, failure_of, is_lost, never_sent
from .failure import tell
from .settings import Settings

LASTING_SECONDS: Final = 5
"""A stream that lasted so long counts as the end of an outage, though nothing was told."""


class Notices:
    """Tells of an outage once, whatever number of streams it breaks."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._broken = 0

    def begin(self, text: str) -> None:
        """Note that a stream broke; says `text` if the others have not."""
        with self._lock:
            self._broken += 1
            if self._broken == 1:
                tell(text)

    def end(self, text: str = "") -> None:
        """Note that it is back, or given up where there is no `text`; the last one says it."""
        with self._lock:
            self._broken -= 1
            if text and not self._broken:
                tell(text)


class Outage:
    """The time between a lost connection and the next that works, if there is one now."""

    def __init__(self, settings: Settings, retry_ms: int, notices: Notices | None = None) -> None:
        """Share `notices` among streams that break together."""
        self._settings = settings
        self._retry_seconds = retry_ms / 1000
        self._notices = notices or Notices()
        self._began_at: float | None = None
        self._attempt = 0

    def end(self) -> None:
        """Note that the server has answered again; says so if there was an outage."""
        if self._began_at is not None:
            self._notices.end("the connection is back; going on where it broke")
            self._began_at = None
            self._attempt = 0

    def wait(self, error: RemoteError, lasted_seconds: float, *, was_answered: bool) -> None:
        """Return when it is time to try again; raises Failure when it is not worth it.

        `was_answered` is whether the server has told anything since the command began.
        """
        now = time.monotonic()
        first = self._began_at is None
        if not is_lost(error) or (first and not was_answered and never_sent(error)):
            self._give_up()
            raise failure_of(self._settings, error)
        if first or (lasted_seconds > LASTING_SECONDS and not never_sent(error)):
            self._give_up()
            self._began_at, self._attempt = now, 0
            where = self._settings.addr
            self._notices.begin(
                f"lost the connection to {where}; trying for {self._retry_seconds:g}s"
            )
        elif self._began_at is not None and now - self._began_at > self._retry_seconds:
            self._give_up()
            failure = failure_of(self._settings, error)
            failure.message += f" (for {self._retry_seconds:g}s)"
            raise failure
        time.sleep(backoff_seconds(self._attempt))
        self._attempt += 1

    def _give_up(self) -> None:
        if self._began_at is not None:
            self._notices.end()
            self._began_at = None
