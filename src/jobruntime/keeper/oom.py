"""Tells the out-of-memory killer's work on a job from every other SIGKILL."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from ..linux.processes import is_dying
from ..linux.usage import OomWatch
from ..model.usage import Oom

_RECENT_NS: Final = 200_000_000

AGAIN_NS: Final = 50_000_000
"""How long after an event to look at a leader again that was alive then."""


class OomBlame:
    """What the OOM killer has done to one job, and whether it ended the job's first process."""

    def __init__(self, memory_events: int) -> None:
        """Take the open memory.events."""
        self._watch = OomWatch(memory_events)
        self._seen_ns = 0

    def look(self, before: Oom | None, leader: int | None) -> Oom | None:
        """Return what is to be recorded now, None for nothing new; `leader` None: it has ended."""
        found = self._watch.look()
        if found is None:
            return None
        self._seen_ns = time.monotonic_ns()
        if before is not None and before.leader:
            return replace(before, kills=found.kills)
        # It may take long to end if it has much memory to give back, so it is looked at now.
        return replace(found, leader=leader is not None and is_dying(leader))

    def look_again(self, known: Oom | None, leader: int | None) -> Oom | None:
        """Return what is to be recorded AGAIN_NS after an event, None for nothing new.

        The kernel counts a kill, then sends the signal: a keeper on another CPU may have looked in
        between. By now the signal is pending, or the leader was not meant.
        """
        if known is None or known.leader or leader is None or not is_dying(leader):
            return None
        return replace(known, leader=True)

    def judge(self, known: Oom | None, *, was_killed: bool, by_keeper: bool) -> Oom | None:
        """Return what is to be recorded of a leader that has ended.

        `was_killed` is whether SIGKILL has ended it, `by_keeper` whether its keeper has sent one.
        """
        if known is not None and not was_killed:
            # It may have been taken for dying: it had ended by itself, and was not reaped yet.
            return replace(known, leader=False)
        if known is None or known.leader or by_keeper:
            return known
        # The event of the leader's own end came just before: the kernel counts it, then sends the
        # signal (__oom_kill_process), so it may not have been seen dying. As a group, too: a leader
        # that has outlived an event was not in the group that ran out of memory.
        recent = time.monotonic_ns() - self._seen_ns < _RECENT_NS
        return replace(known, leader=True) if recent else known
