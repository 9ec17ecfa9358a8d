"""Wake-ups for followers: one inotify descriptor, one watch per followed job, no polling."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..linux.libc import (
    IN_CREATE,
    IN_MODIFY,
    IN_Q_OVERFLOW,
    inotify_add_watch,
    inotify_init,
    inotify_rm_watch,
)

_EVENT: Final = struct.Struct("iIII")


class _Watch:
    """A followed directory: the kernel's number of the watch, and who waits for a change."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: set[asyncio.Event] = set()

    def wake(self) -> None:
        for event in self.waiting:
            event.set()


class TailHub:
    """Sets the events of those who follow a directory whenever a file in it grows or comes."""

    def __init__(self) -> None:
        """Register with the running loop; raises OSError where the user has no inotify left."""
        self._fd = inotify_init()
        self._watches: dict[str, _Watch] = {}
        self._by_number: dict[int, _Watch] = {}
        asyncio.get_running_loop().add_reader(self._fd, self._on_events)

    def close(self) -> None:
        """End all watches."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    @contextmanager
    def following(self, path: str) -> Iterator[asyncio.Event]:
        """Give an event that is set at every change in the directory `path` while this lasts."""
        watch = self._watches.get(path)
        if watch is None:
            number = inotify_add_watch(self._fd, path, IN_CREATE | IN_MODIFY)
            watch = self._watches[path] = self._by_number[number] = _Watch(number)
        event = asyncio.Event()
        watch.waiting.add(event)
        try:
            yield event
        finally:
            watch.waiting.discard(event)
            if not watch.waiting:
                del self._watches[path], self._by_number[watch.number]
                self._end(watch)

    def _end(self, watch: _Watch) -> None:
        try:
            inotify_rm_watch(self._fd, watch.number)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the directory has gone, and its watch with it
                raise

    def wake(self, path: str) -> None:
        """Wake the followers of `path` for a reason other than a change in it."""
        if watch := self._watches.get(path):
            watch.wake()

    def _on_events(self) -> None:
        data = os.read(self._fd, 65536)
        position = 0
        while position < len(data):
            number, mask, _cookie, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            if mask & IN_Q_OVERFLOW:  # events were lost: everybody looks for himself
                for watch in self._watches.values():
                    watch.wake()
            elif followed := self._by_number.get(number):
                followed.wake()
