"""Tasks that nobody awaits: held while they run, and what they meet is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

_logger = logging.getLogger(__name__)


class Tasks:
    """The tasks of one worker."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` on the event loop."""
        task = asyncio.ensure_future(_reporting(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled at once, it has never begun

    def cancel(self) -> None:
        """Cancel all that run."""
        for task in self._running:
            task.cancel()


async def _reporting(work: Coroutine[None, None, None]) -> None:
    # The boundary of a task that nobody awaits: what it meets must not vanish.
    try:
        await work
    except Exception as error:  # noqa: BLE001
        _logger.error("%s", error)
