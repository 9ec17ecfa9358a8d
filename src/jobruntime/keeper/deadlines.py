"""The moments at which a keeper acts by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

NS_PER_MS: Final = 1_000_000
_LONGEST_WAIT_MS: Final = 24 * 3600 * 1000


@dataclass(slots=True)
class Deadlines:
    """Moments on the monotonic clock, in ns, at which the keeper acts; None: not set."""

    timeout: int | None = None
    kill: int | None = None
    room: int | None = None
    """When to look again whether the log has room."""
    oom: int | None = None
    """When to look again whether the OOM killer's event was the end of the leader."""

    def wait_ms(self) -> int | None:
        """Return how long to wait for the next, for poll(2); None: there is none."""
        every = (self.timeout, self.kill, self.room, self.oom)
        moments = [moment for moment in every if moment is not None]
        if not moments:
            return None
        left = min(moments) - time.monotonic_ns()
        # Rounded up: never early, never a busy loop. poll(2) takes an int, about 24 days.
        return min(max(0, -(-left // NS_PER_MS)), _LONGEST_WAIT_MS)
