"""What a job uses, while it runs and at its end."""

from __future__ import annotations

import time

from ..linux.usage import read_usage
from ..model.state import State
from ..model.status import JobStatus
from ..model.usage import Usage, parse_usage
from .live import ChangeFailedError, LiveJob


def usage_now(group: str | None, status: JobStatus) -> Usage:
    """Return what the job has used so far, or its receipt.

    Raises FileNotFoundError where it ends at this very moment: its group is gone, its receipt is
    on the way.
    """
    if status.state is State.TERMINATED:
        return status.usage or Usage(wall_ns=_wall_ns(status))
    wall_ns = _wall_ns(status)
    if group is None:
        return Usage(wall_ns=wall_ns)
    usage = read_usage(group, wall_ns, ended=False)
    if usage.cpu_us is None:  # every group of version 2 counts that
        raise FileNotFoundError(group)
    return usage


async def usage_of_keeper(live: LiveJob, timeout_s: float) -> Usage:
    """Return what the job has used so far, as its keeper reads it.

    Raises FileNotFoundError where it ends at this very moment, and JobError (KEEPER_UNREACHABLE).
    """
    try:
        answer = await live.ask({"op": "usage"}, timeout_s)
    except ChangeFailedError as error:
        raise FileNotFoundError(live.record.job_id) from error
    return parse_usage(answer.get("usage"))


def _wall_ns(status: JobStatus) -> int:
    if status.started_at_ns is None:
        return 0
    return max(0, (status.ended_at_ns or time.time_ns()) - status.started_at_ns)
