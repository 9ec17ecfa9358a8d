"""What the server reads anew on SIGHUP, one thing after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from jobruntime.model.errors import JobError

_logger = logging.getLogger("jobd")


class Reloads:
    """The list of what can be reloaded. One that fails keeps none of the others from it."""

    def __init__(self) -> None:
        self._actions: list[tuple[str, Callable[[], Awaitable[str]]]] = []
        self._wanted = asyncio.Event()

    def add(self, what: str, action: Callable[[], Awaitable[str]]) -> None:
        """Have `action` called on each request; it returns what has changed, as words.

        It raises JobError with nothing changed: `what` (as `the policy`) then stays as it was.
        """
        self._actions.append((what, action))

    def request(self) -> None:
        """Have everything reloaded, soon; for a signal's handler."""
        self._wanted.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve requests while this lasts, also one that came before."""
        task = asyncio.ensure_future(self._run())
        try:
            yield
        finally:
            task.cancel()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for what, action in self._actions:
                try:
                    _logger.info("reloaded %s: %s", what, await action())
                except JobError as error:
                    _logger.error("cannot reload %s, the old one stays: %s", what, error)
                except Exception:
                    # The boundary of a task that nobody awaits: it must be there for the next one.
                    _logger.exception("cannot reload %s: a defect", what)
