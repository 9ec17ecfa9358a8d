"""How a keeper holds all processes of its job together: by their cgroup, else as subreaper."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod

from ..linux import cgroup, processes


class Tracker(ABC):
    """The processes of one job."""

    procs: int | None = None
    """Open cgroup.procs through which the first process joins, if there is a cgroup."""
    events: int | None = None
    """Open cgroup.events, which polls POLLPRI when the group fills or empties, if there is one."""

    @abstractmethod
    def members(self) -> set[int]:
        """Return the pids of the job's processes at this moment."""

    @abstractmethod
    def belongs(self, pid: int) -> bool:
        """Return whether `pid` is one of the job's processes now."""

    @abstractmethod
    def kill_all(self) -> None:
        """Send SIGKILL to all of them; to be called again while `is_empty` says no."""

    @abstractmethod
    def is_empty(self, *, childless: bool) -> bool:
        """Return whether none is left; `childless` is whether the keeper has no child any more."""

    @abstractmethod
    def remove(self) -> None:
        """Give back what the tracker holds on the host."""

    def close(self) -> None:
        """Close this process's descriptors; what is on the host stays."""
        for fd in (self.procs, self.events):
            if fd is not None:
                os.close(fd)
        self.procs = self.events = None

    def signal_all(self, signo: int) -> None:
        """Send `signo` to each process of the job once."""
        processes.signal_each(signo, self.members, self.belongs)


class CgroupTracker(Tracker):
    """A job in a cgroup of its own: nothing that it forks can leave, one write kills all of it."""

    def __init__(self, path: str) -> None:
        """Make the group; raises OSError with nothing left behind."""
        self._path = path
        os.mkdir(path, 0o755)
        try:
            self.procs = os.open(f"{path}/cgroup.procs", os.O_WRONLY)
            self.events = os.open(f"{path}/cgroup.events", os.O_RDONLY)
        except OSError:
            self.remove()
            raise

    def members(self) -> set[int]:
        """Return the pids in the group and in those that the job made below it."""
        return cgroup.member_pids(self._path)

    def belongs(self, pid: int) -> bool:
        """Return whether `pid` is in the group or below it."""
        return cgroup.holds(self._path, pid)

    def kill_all(self) -> None:
        """Kill the group; on a kernel without cgroup.kill each member, as often as it takes."""
        if not cgroup.kill(self._path):
            self.signal_all(signal.SIGKILL)

    def is_empty(self, *, childless: bool) -> bool:
        """Return whether the group has no process that still runs."""
        return self.events is None or not cgroup.is_populated(self.events)

    def remove(self) -> None:
        """Remove the group's directory, with those that the job made in it."""
        self.close()
        cgroup.remove(self._path)


class SubreaperTracker(Tracker):
    """A job on a host without a writable cgroup v2: its orphans become the keeper's children."""

    def members(self) -> set[int]:
        """Return the keeper's descendants."""
        return processes.descendant_pids(os.getpid())

    def belongs(self, pid: int) -> bool:
        """Return whether `pid` descends from the keeper."""
        return processes.is_descendant(pid, os.getpid())

    def kill_all(self) -> None:
        """Kill every descendant; what they forked meanwhile is met at the next call."""
        self.signal_all(signal.SIGKILL)

    def is_empty(self, *, childless: bool) -> bool:
        """Return whether the keeper has no child: orphans end with it, so no descendant either."""
        return childless

    def remove(self) -> None:
        """Nothing is held."""
