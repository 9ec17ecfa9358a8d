"""What a job uses now, and what it has used in all."""

from __future__ import annotations

import errno
import time

from ..linux.usage import read_usage, usage_of_children
from ..model.protocol import Failure, Step, StepError
from ..model.usage import Usage


def usage_now(group: str, started_ns: int) -> Usage:
    """Return what a running job has used; raises StepError. `started_ns` is monotonic."""
    try:
        return read_usage(group, time.monotonic_ns() - started_ns, ended=False)
    except OSError as error:
        raise StepError(Failure(Step.CGROUP, error.errno or errno.EIO, group)) from error


def receipt_of(group: str | None, started_ns: int) -> Usage:
    """Return what a job that has ended has used; raises OSError and ValueError.

    Without a group that is what the kernel tells of reaped children.
    """
    wall_ns = time.monotonic_ns() - started_ns
    if group is None:
        return usage_of_children(wall_ns)
    return read_usage(group, wall_ns, ended=True)
