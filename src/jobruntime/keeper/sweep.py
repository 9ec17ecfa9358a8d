"""The end of a job whose keeper is gone: its processes killed, its group and socket removed.

And the end of its own directory, which is its owner's, so that only root may delete it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import Final

from ..linux import cgroup
from ..linux.processes import kill_each
from ..model.protocol import KEEPER_SOCKETS, Failure, Step, StepError
from .order import Site

_WAIT_S: Final = 10.0


def sweep(site: Site, job_id: str) -> None:
    """Kill what is left of the job and remove its group; nothing there is no error.

    Raises StepError: ETIMEDOUT where processes do not die in time, else what kept the group from
    being removed. The caller holds the job's lock.
    """
    if site.cgroup_root is not None:
        path = f"{site.cgroup_root}/jobs/{job_id}"
        try:
            _kill_group(path)
        except OSError as error:
            raise StepError(Failure(Step.CGROUP, error.errno or 0, path)) from error
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{site.runtime_dir}/{KEEPER_SOCKETS}/{job_id}")
    with contextlib.suppress(OSError):  # absent, or not empty: then it stays with the record
        os.rmdir(f"{site.work_dir}/{job_id}")


def remove_home(site: Site, job_id: str, reply: int) -> int:
    """Delete the job's own directory; return how many bytes that freed.

    Ends early where nobody waits at the other end of `reply` any more. Raises StepError.
    """
    # Here, in a process of its own: it brings modules that no keeper needs.
    from ..linux.trees import InterruptedRemovalError, remove_tree

    listener = select.poll()
    listener.register(reply, 0)  # its hang-up is told without being asked for
    path = f"{site.work_dir}/{job_id}"
    try:
        return remove_tree(path, lambda: not listener.poll(0))
    except OSError as error:
        raise StepError(Failure(Step.HOME, error.errno or errno.EIO, path)) from error
    except InterruptedRemovalError as error:
        raise StepError(Failure(Step.HOME, errno.EINTR, path)) from error


def _kill_group(path: str) -> None:
    if os.geteuid() != 0:
        cgroup.reopen(path)  # the job was of this user, and could close it
    if not cgroup.kill(path):
        # No cgroup.kill here: one by one, again for those that were forked meanwhile.
        while not cgroup.wait_empty(path, 0):
            kill_each(lambda: cgroup.member_pids(path), lambda pid: cgroup.holds(path, pid))
    if not cgroup.wait_empty(path, _WAIT_S):
        raise TimeoutError(errno.ETIMEDOUT, "processes do not die")
    cgroup.remove(path)
