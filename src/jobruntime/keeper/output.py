"""The output of a running job, on its way from two pipes into the log."""

from __future__ import annotations

import os
import select
import time

from ..model.frames import Stream
from .capture import Capture, LogFullError
from .deadlines import NS_PER_MS, Deadlines


class Output:
    """Reads the pipes when poll says so, and holds the job where its log has no room."""

    def __init__(
        self,
        pipes: dict[int, Stream],
        capture: Capture,
        poll: select.poll,
        deadlines: Deadlines,
    ) -> None:
        """Take pipes that are registered with `poll`; `deadlines.room` is set and cleared here."""
        self._pipes = pipes
        self._capture = capture
        self._poll = poll
        self._deadlines = deadlines
        self._is_held = False

    def __contains__(self, fd: int) -> bool:
        """Return whether `fd` is one of the pipes that are not at their end."""
        return fd in self._pipes

    def take(self, pipe: int) -> None:
        """Read once from a pipe."""
        if self._is_held:
            return
        try:
            more = self._capture.read_once(self._pipes[pipe], pipe)
        except BlockingIOError:
            return  # the job has read it itself, through /dev/stdout
        except LogFullError:
            self._hold()
            return
        if self._capture.wants_room and self._deadlines.room is None:
            self._look_later()
        if not more:
            self._poll.unregister(pipe)
            del self._pipes[pipe]
            os.close(pipe)

    def look_for_room(self) -> None:
        """Go on where the log has room again."""
        # No file system tells when it has, so this is asked now and then.
        try:
            self._capture.retry()
        except LogFullError:
            self._look_later()
            return
        if self._capture.wants_room:
            self._look_later()
        if self._is_held:
            self._is_held = False
            for pipe in self._pipes:
                self._poll.register(pipe, select.POLLIN)

    def finish(self) -> Capture:
        """Take what is left in the pipes, and end the log; return what knows how it ended."""
        self._capture.drain(self._pipes)
        self._capture.finish()
        return self._capture

    def _hold(self) -> None:
        # The job is to wait for room: nobody reads its pipes meanwhile.
        self._is_held = True
        for pipe in self._pipes:
            self._poll.unregister(pipe)
        self._look_later()

    def _look_later(self) -> None:
        self._deadlines.room = time.monotonic_ns() + self._capture.retry_ms * NS_PER_MS
