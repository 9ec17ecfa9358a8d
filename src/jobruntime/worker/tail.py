"""Wake-ups for followers: one inotify descriptor, one watch per followed job, no polling."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ..linux.libc import (
    IN_CREATE,
    IN_MODIFY,
    IN_Q_OVERFLOW,
    inotify_add_watch,
    inotify_init,
    inotify_rm_watch,
)

K = TypeVar("K")
V = TypeVar("V")

_SHARED: Final = 8
_EVENT: Final = struct.Struct("iIII")
_WAKE_S: Final = 0.0003
"""What is allowed for one follower's wake-up. It takes about half of that; the rest is for whoever
else wants the loop, above all for new calls, which would starve behind a thousand followers."""


class SharedTail(Generic[K, V]):
    """What one follower of a log has found at its end, for the others that come to the same place.

    A thousand followers then cost one reading, and nothing of it is kept for long.
    """

    def __init__(self) -> None:
        self.changes = 0
        """How often the log has changed."""
        self._found: dict[K, V] = {}
        self._end: tuple[K, int] | None = None

    def find(self, place: K) -> V | None:
        """Return what was found at `place`."""
        return self._found.get(place)

    def put(self, place: K, found: V) -> None:
        """Keep what was found at `place`, for a while."""
        if len(self._found) >= _SHARED:
            del self._found[next(iter(self._found))]
        self._found[place] = found

    def is_end(self, place: K) -> bool:
        """Return whether nothing was at `place` since the last change."""
        return self._end == (place, self.changes)

    def put_end(self, place: K, changes: int) -> None:
        """Note that nothing was at `place`, looked for after so many changes."""
        self._end = (place, changes)


@dataclass(frozen=True, slots=True)
class Following(Generic[K, V]):
    """One follower's view: an event that is set at every change, and what it shares with others."""

    changed: asyncio.Event
    shared: SharedTail[K, V]


class _Watch(Generic[K, V]):
    """A followed directory: the kernel's number of the watch, and who waits for a change."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.shared: SharedTail[K, V] = SharedTail()
        self.waiting: set[asyncio.Event] = set()
        self.is_due = False

    def wake(self) -> None:
        self.is_due = False
        for event in self.waiting:
            event.set()


class TailHub(Generic[K, V]):
    """Sets the events of those who follow a directory whenever a file in it grows or comes.

    At once, as long as there are few; many are woken at a pace that the server can keep, and then
    find all that has come meanwhile.
    """

    def __init__(self) -> None:
        """Register with the running loop; raises OSError where the user has no inotify left."""
        self._fd = inotify_init()
        self._watches: dict[str, _Watch[K, V]] = {}
        self._by_number: dict[int, _Watch[K, V]] = {}
        self._busy_until = 0.0
        asyncio.get_running_loop().add_reader(self._fd, self._on_events)

    def close(self) -> None:
        """End all watches."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    @contextmanager
    def following(self, path: str) -> Iterator[Following[K, V]]:
        """Follow the directory `path` while this lasts."""
        watch = self._watches.get(path)
        if watch is None:
            number = inotify_add_watch(self._fd, path, IN_CREATE | IN_MODIFY)
            watch = self._watches[path] = self._by_number[number] = _Watch(number)
        event = asyncio.Event()
        watch.waiting.add(event)
        try:
            yield Following(event, watch.shared)
        finally:
            watch.waiting.discard(event)
            if not watch.waiting:
                del self._watches[path], self._by_number[watch.number]
                self._end(watch)

    def _end(self, watch: _Watch[K, V]) -> None:
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
                    self._wake_in_turn(watch)
            elif followed := self._by_number.get(number):
                self._wake_in_turn(followed)

    def _wake_in_turn(self, watch: _Watch[K, V]) -> None:
        watch.shared.changes += 1
        if watch.is_due:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._busy_until <= now:
            self._busy_until = now
            watch.wake()
        else:
            watch.is_due = True
            loop.call_at(self._busy_until, watch.wake)
        self._busy_until += _WAKE_S * len(watch.waiting)
