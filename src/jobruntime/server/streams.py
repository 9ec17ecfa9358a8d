"""Streams that are open, each with the certificate it was opened with: they end when that does."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeVar

from jobruntime.model.errors import JobError

from .identity import Identity

T = TypeVar("T")

# The wall clock may be set: an end is looked at again after so long at the latest.
_LONGEST_SLEEP_S: Final = 60.0


class OpenStream:
    """One stream. All methods are for the event loop's thread, and its own task for `watched`."""

    def __init__(self, identity: Identity, check: Callable[[Identity], None]) -> None:
        """Start to watch the certificate for the running task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: gRPC runs handlers in tasks
        self._task = task
        self._identity = identity
        self._check = check
        self._is_waiting = False
        self._refusal: JobError | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sleep()

    def close(self) -> None:
        """End the watch."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Cut the stream if its certificate does not count any more."""
        if self._refusal is not None:
            return
        try:
            self._identity.check_validity()
            self._check(self._identity)
        except JobError as error:
            self._cut(error)
        else:
            self._sleep()

    async def watched(self, responses: AsyncIterator[T]) -> AsyncIterator[T]:
        """Pass the responses on; raises the JobError that cuts them, also while none comes."""
        while True:
            if self._refusal is not None:
                raise self._refusal
            self._is_waiting = True
            try:
                response = await anext(responses)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                refusal = self._cut_by()
                if refusal is None or self._task.uncancel():
                    raise
                raise refusal from None
            finally:
                self._is_waiting = False
            yield response

    def _cut_by(self) -> JobError | None:
        return self._refusal

    def _sleep(self) -> None:
        self.close()
        end = self._identity.certificate.not_valid_after_utc
        # A certificate counts up to and with its last second.
        left_s = (end - dt.datetime.now(dt.UTC)).total_seconds() + 0.01
        self._timer = self._loop.call_later(max(0.0, min(left_s, _LONGEST_SLEEP_S)), self.look)

    def _cut(self, error: JobError) -> None:
        self._refusal = error
        self.close()
        # Otherwise gRPC is sending, and the refusal comes right behind that message. A client that
        # does not read gets neither before it does. (To cancel the task there would leave the call
        # without any end: grpc.aio sends none then.)
        if self._is_waiting:
            self._task.cancel()


class OpenStreams:
    """All open streams of a server."""

    def __init__(self, check: Callable[[Identity], None]) -> None:
        """Watch them with `check`, which raises the JobError that refuses a certificate."""
        self._check = check
        self._open: set[OpenStream] = set()

    @contextlib.contextmanager
    def entered(self, identity: Identity) -> Iterator[OpenStream]:
        """Count the running task's stream as open while this lasts."""
        stream = OpenStream(identity, self._check)
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)
            stream.close()

    def look(self) -> None:
        """Cut all whose certificate does not count any more."""
        for stream in list(self._open):
            stream.look()

    def __len__(self) -> int:
        return len(self._open)
