"""Tells when something changes in a few directories: inotify, one call for a burst of changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Final

from ..linux.libc import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    inotify_add_watch,
    inotify_init,
)

_MASK: Final = IN_ATTRIB | IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
_BURST_S: Final = 0.1
"""Files that belong together are mostly replaced one right after the other."""


class DirectoryWatch:
    """Calls back in the event loop's thread after changes in the watched directories."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Register with the running loop; raises OSError where the user has no inotify left."""
        self._changed = changed
        self._fd = inotify_init()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._fd, self._on_events)

    def add(self, directories: Iterable[str]) -> None:
        """Watch these, too; one that is watched already is no error. Raises OSError."""
        for directory in directories:
            inotify_add_watch(self._fd, directory, _MASK)

    def close(self) -> None:
        """End the watch."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _on_events(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 65536)  # what it was does not matter: whoever is called looks himself
        if self._timer is None:
            self._timer = self._loop.call_later(_BURST_S, self._call)

    def _call(self) -> None:
        self._timer = None
        self._changed()
