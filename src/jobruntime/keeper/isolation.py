"""The view of an isolated job: namespaces that bubblewrap builds, and that the keeper holds.

bubblewrap does not run the payload. It makes the namespaces, mounts what is seen in them, starts
`cat` on a socket as a sleeping first process, and is itself process 1 there, which reaps orphans.
The keeper then has its children born into the process namespace, and forks the payload as ever:
its own child, with its true wait status, and no process 1. The payload enters the other namespaces
by itself, before it drops its user and joins its group.

When the keeper lets go of the socket, or dies, cat reads the end of its input; with it process 1
ends, and the kernel kills whatever is still in the namespace (pid_namespaces(7)). All of it is
outside the job's cgroup, so no limit of the job's ever counts or hits it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Final

from ..linux.files import parse_json, write_all
from ..linux.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    is_same_namespace,
    join_namespaces,
    parent_namespace,
    take_loopback_down,
)
from ..linux.privileges import drop_bounding_set, drop_capabilities
from ..linux.processes import namespace_pid
from ..linux.seccomp import filter_code, install_filter
from ..model.isolation import Isolation
from ..model.protocol import Failure, Step, StepError
from .tracking import SubreaperTracker

PROGRAM: Final = "bwrap"
_NAME: Final = "jobd-view"
_READY: Final = b"\0"
_READY_S: Final = 10.0
_END_S: Final = 5.0
_HIGH: Final = 16
_HOLDER_PIDS: Final = 2
"""In the namespace bubblewrap is process 1 and cat 2; all above are the job's."""

_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - these are the job's own
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108
_HIDDEN: Final = ("/home", "/root", "/run", "/var/lib/jobd")
_RESOLVER: Final = "/etc/resolv.conf"


def start_view(job_id: str, isolation: Isolation, home: str, hidden: Sequence[str]) -> int:
    """Have bubblewrap make a view; return the socket that holds it, for `View`.

    Called in the spawner, and waits for nothing. `hidden` are directories and files that the job
    shall not see, `home` is its own directory. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            ours.send(_READY)  # cat gives it back once everything before it has been done
            _start_bubblewrap(job_id, theirs, _arguments(job_id, isolation, home, hidden))
        except BaseException:
            ours.close()
            raise
    return ours.detach()


def _start_bubblewrap(job_id: str, end: socket.socket, words: Sequence[str]) -> None:
    with contextlib.ExitStack() as stack:
        # The words travel in a file: a job can read the command line of its process 1. That and cat
        # are under the filter, too: without a uid of its own a job could write their memory, and
        # have them do what it may not.
        files = [b"".join(os.fsencode(word) + b"\0" for word in words), filter_code()]
        fds = [_memfd(data) for data in files]
        fds.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _HIGH))
        for fd in fds:
            stack.callback(os.close, fd)
        os.posix_spawnp(
            PROGRAM,
            [f"{_NAME}:{job_id}", "--args", "4", "--seccomp", "5", "--", "cat"],
            {"PATH": os.defpath, "LANG": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, fds[0], 4),
                (os.POSIX_SPAWN_DUP2, fds[1], 5),
                *((os.POSIX_SPAWN_DUP2, fds[2], place) for place in (0, 1, 2, 3)),
            ],
            setsid=True,
            setsigdef=(signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ),
        )


def _memfd(data: bytes) -> int:
    """Return a nameless file with the data, to be read from its start, above all places in use."""
    file = os.memfd_create("view", os.MFD_CLOEXEC)
    try:
        write_all(file, data)
        os.lseek(file, 0, os.SEEK_SET)
        return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    finally:
        os.close(file)


def _arguments(job_id: str, isolation: Isolation, home: str, hidden: Sequence[str]) -> list[str]:
    words = ["--info-fd", "3", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    words += ["--hostname", job_id[:8], "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    if isolation.has_own_network:
        words.append("--unshare-net")
    for path in ("/proc/sys", "/proc/sysrq-trigger"):  # root may write there without capabilities
        words += ["--ro-bind-try", path, path]
    for path in (*_TEMPORARY, _SHARED_MEMORY):
        words += ["--perms", "1777", "--tmpfs", path]
    directories, files = _to_hide(hidden)
    for path in directories:
        words += ["--tmpfs", path]
    for path in files:
        words += ["--ro-bind", "/dev/null", path]
    covered = (*_TEMPORARY, *directories)
    if not isolation.has_own_network and _is_below(resolver := os.path.realpath(_RESOLVER), "/run"):
        words += _way_to(resolver, covered)
        words += ["--ro-bind-try", resolver, resolver]  # or no name could be looked up
    words += [*_way_to(home, covered), "--bind", home, home]
    for path in (*directories, "/dev"):
        words += ["--remount-ro", path]
    return [*words, "--chdir", "/"]


def _way_to(path: str, covered: Sequence[str]) -> list[str]:
    """Return the words that make anew the directories above `path`, where they are covered.

    bubblewrap would make them by itself, but so that nobody can pass.
    """
    words: list[str] = []
    parent = os.path.dirname(path)
    while any(_is_below(parent, above) for above in covered):
        words = ["--perms", "0755", "--dir", parent, *words]
        parent = os.path.dirname(parent)
    return words


def _to_hide(hidden: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the directories and files to cover, without those below another that is."""
    directories: list[str] = []
    files: list[str] = []
    for path in sorted({os.path.realpath(path) for path in (*_HIDDEN, *hidden)}):
        if any(_is_below(path, above) for above in (*_TEMPORARY, *directories)):
            continue
        if os.path.isdir(path):
            directories.append(path)
        elif os.path.exists(path):
            files.append(path)
    return directories, files


def _is_below(path: str, above: str) -> bool:
    return path.startswith(f"{above}/")


class View:
    """The keeper's side of a view: waits for it, has the payload forked into it, ends it."""

    __slots__ = ("_holder", "_isolation", "_outer", "pidfd")

    def __init__(self, holder: int, isolation: Isolation) -> None:
        """Wait until the view is whole; raises StepError with bubblewrap's own word of why not."""
        self._holder = holder
        self._isolation = isolation
        told = _wait_ready(holder)
        try:
            self.pidfd = _open_first(parse_json(told))
            self._outer = self._outer_users()
        except (OSError, ValueError) as error:
            raise _failure(str(error), getattr(error, "errno", None) or errno.EIO) from error

    def _outer_users(self) -> int | None:
        """Return the user namespace that the others belong to; None: there is no new one.

        Without root bubblewrap makes two: one that may mount, and within it the one for use, in
        which nobody may.
        """
        users = os.open(f"/proc/{_pid_of(self.pidfd)}/ns/user", os.O_RDONLY)
        try:
            if is_same_namespace(users, "/proc/self/ns/user"):
                return None
            return parent_namespace(users)
        finally:
            os.close(users)

    def fork(self) -> int:
        """Fork, the child within the process namespace; raises OSError.

        Without root this process passes through the user namespace that owns the others, and stays
        in the one within, where uids are as outside and it has no more rights than before.
        """
        if self._outer is not None:
            join_namespaces(self._outer, CLONE_NEWUSER)
        join_namespaces(self.pidfd, CLONE_NEWPID)
        pid = os.fork()
        if pid and self._outer is not None:
            join_namespaces(self.pidfd, CLONE_NEWUSER)
        return pid

    def enter(self) -> None:
        """Move this forked process into the rest of the view; raises OSError."""
        kinds = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
        if self._isolation.has_own_network:
            kinds |= CLONE_NEWNET
        join_namespaces(self.pidfd, kinds)
        if self._isolation is Isolation.NO_NETWORK:
            take_loopback_down()  # bubblewrap has brought it up
        if self._outer is not None:
            join_namespaces(self.pidfd, CLONE_NEWUSER)

    def confine(self) -> None:
        """Give up every capability and refuse calls that no job needs, for good; raises OSError."""
        if os.geteuid() == 0:
            drop_bounding_set()
            drop_capabilities()
        install_filter()

    def kill(self) -> None:
        """Kill all that is in the view."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def is_over(self) -> bool:
        """Return whether nothing of it is left: process 1 ends after all others."""
        return _wait_readable(self.pidfd, 0)

    def close(self) -> None:
        """End it, and wait until it has ended."""
        os.close(self._holder)
        _wait_readable(self.pidfd, _END_S)
        os.close(self.pidfd)


class ViewTracker(SubreaperTracker):
    """An isolated job on a host without a writable cgroup v2: whatever is in its view.

    Its orphans go to the view's process 1 and not to the keeper; in return nothing can leave.
    """

    def __init__(self, view: View) -> None:
        """Take the view."""
        self._view = view
        self._namespace = os.stat(f"/proc/{_pid_of(view.pidfd)}/ns/pid").st_ino

    def members(self) -> set[int]:
        """Return the pids of the processes in the view, without those that hold it."""
        return {
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self.belongs(pid)
        }

    def belongs(self, pid: int) -> bool:
        """Return whether the process is in the view, and none that holds it."""
        return namespace_pid(pid, self._namespace) > _HOLDER_PIDS

    def kill_all(self, leader: int) -> None:
        """Kill them all with the namespace."""
        self._view.kill()

    def is_empty(self, *, childless: bool) -> bool:
        """Return whether nothing is left, the first process reaped."""
        return childless and self._view.is_over()


def _wait_ready(holder: int) -> bytes:
    """Return what bubblewrap told of the namespaces, once cat runs in them."""
    told = b""
    while not told.endswith(_READY):
        if not _wait_readable(holder, _READY_S):
            raise _failure(f"{PROGRAM} has not made it within {_READY_S:.0f} s", errno.ETIMEDOUT)
        try:
            data = os.read(holder, 4096)
        except ConnectionResetError:  # it ended without having read what it was to give back
            data = b""
        if not data:
            lines = told.decode(errors="replace").strip().splitlines() or ["it ended"]
            raise _failure(lines[-1], errno.EPERM)
        told += data
    return told[: told.rindex(b"}") + 1]


def _open_first(about: dict[str, object]) -> int:
    """Return a pidfd of process 1, checked to be the one that bubblewrap told of."""
    pid, namespace = int(str(about["child-pid"])), about["pid-namespace"]
    pidfd = os.pidfd_open(pid)
    if os.stat(f"/proc/{pid}/ns/pid").st_ino != namespace:
        os.close(pidfd)
        raise ValueError(f"process {pid} is not in the namespace that {PROGRAM} has made")
    return pidfd


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def _wait_readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _failure(cause: str, code: int) -> StepError:
    return StepError(Failure(Step.ISOLATION, code, cause))
