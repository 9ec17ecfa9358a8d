"""How a keeper holds all processes of its job together: by their cgroup, else as subreaper."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final

from ..linux import cgroup, processes
from ..model.protocol import Failure, Step, StepError

_FREEZE_S: Final = 2.0


class Tracker(ABC):
    """The processes of one job."""

    @abstractmethod
    def members(self) -> set[int]:
        """Return the pids of the job's processes at this moment."""

    @abstractmethod
    def belongs(self, pid: int) -> bool:
        """Return whether `pid` is one of the job's processes now."""

    @abstractmethod
    def kill_all(self, leader: int) -> None:
        """Send SIGKILL to all of them; to be called again while `is_empty` says no.

        `leader` is the job's first process, wherever it is now, or 0 where it was reaped.
        """

    @abstractmethod
    def is_empty(self, *, childless: bool) -> bool:
        """Return whether none is left; `childless` is whether the keeper has no child any more."""

    @abstractmethod
    def freeze(self) -> None:
        """Hold all of them still; when this returns they are. Raises StepError if they are not."""

    @abstractmethod
    def thaw(self) -> None:
        """Let them go on; raises StepError."""

    def signal_all(self, signo: int, leader: int) -> None:
        """Send `signo` once to each process that the job has now.

        Not to those that are forked afterwards: what a handler of this signal starts, to clean up,
        is to be left alone. To the leader first: a shell that sees its child die of the signal
        before it has its own would end with an exit code of its making (143). `leader` is as in
        `kill_all`: a child that was not reaped, so its pid is its own.
        """
        members = self.members() | ({leader} if leader else set())
        pids = sorted(members, key=lambda pid: (pid != leader, pid))
        processes.signal_each(signo, pids, lambda pid: pid == leader or self.belongs(pid))


@contextlib.contextmanager
def _freezing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepError(Failure(Step.FREEZE, error.errno or errno.EIO)) from error


class CgroupTracker(Tracker):
    """A job in a cgroup of its own: nothing that it forks can leave, one write kills all of it."""

    def __init__(self, path: str, events: int = -1) -> None:
        """Take the group at `path`; `events` is its open cgroup.events, which `is_empty` needs."""
        self._path = path
        self._events = events

    def members(self) -> set[int]:
        """Return the pids in the group and in those that the job made below it."""
        return cgroup.member_pids(self._path)

    def belongs(self, pid: int) -> bool:
        """Return whether `pid` is in the group or below it."""
        return cgroup.holds(self._path, pid)

    def kill_all(self, leader: int) -> None:
        """Kill the group; on a kernel without cgroup.kill each member, as often as it takes.

        A job of the server's own user may have moved its leader out of the group.
        """
        try:
            if not cgroup.kill(self._path):
                processes.kill_each(self.members, self.belongs)
        finally:
            if leader:
                os.kill(leader, signal.SIGKILL)

    def signal_all(self, signo: int, leader: int) -> None:
        """Send `signo` to each process, all of them held still while it is done.

        So none is missed that is forked meanwhile, and no handler runs before the last has it.
        """
        with cgroup.frozen(self._path, self._events):
            super().signal_all(signo, leader)

    def is_empty(self, *, childless: bool) -> bool:
        """Return whether the group has no process that still runs."""
        return not cgroup.is_populated(self._events)

    def freeze(self) -> None:
        """Freeze the group (cgroup.freeze); it is thawed again if that takes too long."""
        with _freezing():
            cgroup.set_frozen(self._path, True)
            if not cgroup.wait_frozen(self._events, _FREEZE_S):
                cgroup.set_frozen(self._path, False)
                raise TimeoutError(errno.ETIMEDOUT, "processes hang in the kernel")

    def thaw(self) -> None:
        """Thaw the group."""
        with _freezing():
            cgroup.set_frozen(self._path, False)

    def remove(self) -> None:
        """Remove the group's directory, with those that the job made in it."""
        cgroup.remove(self._path)


class SubreaperTracker(Tracker):
    """A job on a host without a writable cgroup v2: its orphans become the keeper's children."""

    def members(self) -> set[int]:
        """Return the keeper's descendants."""
        return processes.descendant_pids(os.getpid())

    def belongs(self, pid: int) -> bool:
        """Return whether `pid` descends from the keeper."""
        return processes.is_descendant(pid, os.getpid())

    def kill_all(self, leader: int) -> None:
        """Kill every descendant; what they forked meanwhile is met at the next call."""
        processes.kill_each(self.members, self.belongs)

    def freeze(self) -> None:
        """Refuse: SIGSTOP would miss what is forked meanwhile, and the job can tell."""
        raise StepError(Failure(Step.FREEZE, errno.EOPNOTSUPP))

    def thaw(self) -> None:
        """Refuse, as there is nothing frozen."""
        raise StepError(Failure(Step.FREEZE, errno.EOPNOTSUPP))

    def is_empty(self, *, childless: bool) -> bool:
        """Return whether the keeper has no child: orphans end with it, so no descendant either."""
        return childless
