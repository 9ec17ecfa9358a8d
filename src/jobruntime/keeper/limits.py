"""The limits of one job in its keeper: I/O rates before the start, changes while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..linux.block import DeviceError
from ..linux.limits import LimitError, Write, apply_writes, io_writes, limit_writes
from ..model.limits import IoLimit, Limits, parse_limits
from ..model.protocol import Detail, Failure, Step, StepError
from .assignment import Program


def apply_limits(group: str, writes: Callable[[], list[Write]]) -> None:
    """Make the writes in the group; raises StepError with none of them in force."""
    try:
        apply_writes(group, writes())
    except LimitError as error:
        detail = Detail.NONE if error.code else Detail.NOT_HELD
        failure = Failure(Step.LIMIT, error.code, f"{error.file} = {error.value}", detail)
        raise StepError(failure) from error
    except DeviceError as error:
        raise StepError(Failure(Step.DEVICE, error.code, f"{error.path}: {error.cause}")) from error


def apply_io(group: str, limits: tuple[IoLimit, ...], user: Program) -> None:
    """Limit the I/O rates of a job that is about to start; raises StepError."""
    apply_limits(group, lambda: io_writes(limits, _opener(user)))


def update_limits(group: str, raw: object, user: Program) -> Limits:
    """Bring the group's limits from what they are to those in `raw`, and return these.

    Raises StepError with none of them changed.
    """
    try:
        limits = parse_limits(raw)
    except (TypeError, ValueError) as error:
        raise StepError(Failure(Step.ORDER, 22)) from error
    files = os.listdir(group)
    apply_limits(
        group, lambda: [*limit_writes(limits, files), *io_writes(limits.io, _opener(user))]
    )
    return limits


def _opener(user: Program) -> Callable[[str], int]:
    """Return what opens a path as the job's own user, who must not learn of others' files by it."""

    def open_path(path: str) -> int:
        if user.uid is None or user.gid is None:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        try:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        finally:
            os.seteuid(0)
            os.setegid(0)

    return open_path
