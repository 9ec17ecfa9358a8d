"""Why a job ended, in one word, worked out from the facts of its record."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Final

from .state import Exited, Lost, Signaled
from .status import JobStatus
from .usage import OomScope

_SIGKILL: Final = 9


@unique
class Cause(StrEnum):
    """What ended a job."""

    EXITED = "exited"
    """Its first process ended by itself."""
    SIGNAL = "signal"
    """A signal that neither a stop nor a limit of this server's sent."""
    STOP = "stop"
    """Somebody asked for it, and it ended on its stop signal."""
    STOP_KILL = "stop_kill"
    """Somebody asked for it, and it was killed: at once, or when its grace was over."""
    TIMEOUT = "timeout"
    """Its time was over, and it ended on its stop signal."""
    TIMEOUT_KILL = "timeout_kill"
    """Its time was over, and it was killed when its grace was over, too."""
    OOM = "oom"
    """It reached its own limit of memory, and the kernel killed its first process."""
    OOM_ABOVE = "oom_above"
    """The kernel killed it for lack of memory above it: all jobs' together, or the host's."""
    LOST = "lost"


def cause_of(status: JobStatus) -> Cause | None:
    """Return why the job ended; None for one that has not."""
    if status.outcome is None:
        return None
    if isinstance(status.outcome, Lost):
        return Cause.LOST
    if status.oom is not None and status.oom.leader:
        return Cause.OOM if status.oom.scope is OomScope.JOB else Cause.OOM_ABOVE
    if status.killed:
        by_time = status.timed_out and status.stop_requested is None
        return Cause.TIMEOUT_KILL if by_time else Cause.STOP_KILL
    if _ended_on_request(status):
        by_time = status.timed_out and status.stop_requested is None
        return Cause.TIMEOUT if by_time else Cause.STOP
    return Cause.EXITED if isinstance(status.outcome, Exited) else Cause.SIGNAL


def _ended_on_request(status: JobStatus) -> bool:
    if status.stop_requested is None and not status.timed_out:
        return False
    # A SIGKILL that the keeper did not send is not the stop's doing, whenever it came.
    return not (isinstance(status.outcome, Signaled) and status.outcome.signo == _SIGKILL)
