"""Control groups, version 2 only (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_FREEZE_S: Final = 0.2
_USED: Final = frozenset({"cgroup.kill", "cgroup.procs", "cgroup.freeze", "cgroup.events"})
"""Those of a group's files that a keeper opens after the job has begun."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The mounted v2 hierarchy and this process's own place in it."""

    mount: str
    own: str


def find_hierarchy() -> Hierarchy | None:
    """Return where cgroup v2 is mounted, or None; on a hybrid host that is beside the v1 mounts."""
    mount = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if right.startswith("cgroup2 "):
                mount = _unescape(left.split(" ")[4])
                break
    if mount is None:
        return None
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("0::"):
                return Hierarchy(mount, line[3:].rstrip("\n"))
    return None


def _unescape(path: str) -> str:
    # mountinfo writes blanks and backslashes as octal (proc(5)).
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path


def make(path: str) -> None:
    """Make the group `path` (and missing parents); an existing one is kept."""
    os.makedirs(path, mode=0o755, exist_ok=True)


def join(path: str) -> None:
    """Move this process into the group `path`."""
    move(path, 0)


def move(path: str, pid: int) -> None:
    """Move a process into the group `path`; raises ProcessLookupError where it is gone."""
    fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)


def own_pids(path: str) -> list[int]:
    """Return the pids in the group itself."""
    with open(f"{path}/cgroup.procs", encoding="ascii") as file:
        return [int(line) for line in file]


def is_root(mount: str) -> bool:
    """Return whether this is the host's own root group, and not that of a namespace."""
    return not os.path.exists(f"{mount}/cgroup.type")  # cgroup-v2.rst: on non-root groups only


def is_populated(events: int) -> bool:
    """Return whether any process lives in the group or below it; `events` is its cgroup.events."""
    try:
        return b"populated 1" in os.pread(events, 4096, 0)
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed, by a job of this process' own user
            raise
        return False


def wait_empty(path: str, timeout_s: float) -> bool:
    """Wait until no process lives in the group or below it; return whether it came to that."""
    try:
        events = os.open(f"{path}/cgroup.events", os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        deadline = time.monotonic() + timeout_s
        while is_populated(events):
            if time.monotonic() >= deadline:
                return False
            poll.poll(max(1, round((deadline - time.monotonic()) * 1000)))
        return True
    finally:
        os.close(events)


def member_pids(path: str) -> set[int]:
    """Return the pids in the group and below it; empty where the group is gone."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(path):
        try:
            with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                pids.update(int(line) for line in file)
        except OSError as error:
            # A threaded group (EOPNOTSUPP) has its processes listed above it. One that cannot be
            # opened a job without a uid of its own has made so; cgroup.kill reaches it.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EACCES):
                raise
    pids.discard(0)  # 0 stands for a process of another pid namespace
    return pids


def holds(path: str, pid: int) -> bool:
    """Return whether the process is in the group or below it now."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    own = next((line[3:] for line in lines if line.startswith("0::")), "")
    # Job groups are named by a UUID, so the name alone is exact, whatever the cgroup namespace.
    return os.path.basename(path) in own.split("/")


@contextlib.contextmanager
def frozen(path: str, events: int) -> Iterator[None]:
    """Hold all processes of the group still (cgroup.freeze); `events` is its cgroup.events.

    A signal sent meanwhile is taken when they go on; SIGKILL at once. Where they can't be stopped
    in a moment (one hangs in the kernel, the kernel is older than 5.2, or a job of this process'
    own user has closed the file) it goes on without.
    """
    try:
        fd = os.open(f"{path}/cgroup.freeze", os.O_WRONLY)
    except (FileNotFoundError, PermissionError):
        yield
        return
    try:
        os.write(fd, b"1")
        try:
            wait_frozen(events, _FREEZE_S)
            yield
        finally:
            os.write(fd, b"0")
    finally:
        os.close(fd)


def set_frozen(path: str, frozen: bool) -> None:  # noqa: FBT001 - the value of the file
    """Have all processes of the group held still (cgroup.freeze), or let them go on."""
    fd = os.open(f"{path}/cgroup.freeze", os.O_WRONLY)
    try:
        os.write(fd, b"1" if frozen else b"0")
    finally:
        os.close(fd)


def wait_frozen(events: int, timeout_s: float) -> bool:
    """Return whether all processes of the group are held still, waiting so long for it."""
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    deadline = time.monotonic() + timeout_s
    while b"frozen 1" not in os.pread(events, 4096, 0):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        poll.poll(max(1, round(left_s * 1000)))
    return True


def kill(path: str) -> bool:
    """Kill every process of the group at once; False where the kernel lacks it (before 5.14)."""
    try:
        fd = _open_kill(path)
    except FileNotFoundError:
        return not os.path.isdir(path)
    try:
        os.write(fd, b"1")
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed meanwhile
            raise
    finally:
        os.close(fd)
    return True


def _open_kill(path: str) -> int:
    try:
        return os.open(f"{path}/cgroup.kill", os.O_WRONLY)
    except PermissionError:
        reopen(path)
        return os.open(f"{path}/cgroup.kill", os.O_WRONLY)


def reopen(path: str) -> None:
    """Make the group and all below it accessible to their owner again.

    A job of this process' own user can have taken the modes away (chmod 000). Root needs none.
    """
    with contextlib.suppress(FileNotFoundError):
        os.chmod(path, 0o700)
    # From the top down: each directory is listed only after its own mode was mended.
    for directory, names, files in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(f"{directory}/{name}", 0o700)
        for name in _USED & {*files}:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(f"{directory}/{name}", 0o600)


def remove(path: str) -> None:
    """Remove the group and all below it; one that is gone is no error, a populated one EBUSY."""
    try:
        os.rmdir(path)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        # EBUSY stands for processes and for groups below alike: these the job made itself.
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    try:
        _remove_all(path)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.EACCES):
            raise
        reopen(path)  # what could not be listed was passed over
        _remove_all(path)


def _remove_all(path: str) -> None:
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


def is_delegated(path: str) -> bool:
    """Return whether a service manager has given the group away (systemd's `Delegate=yes`).

    systemd marks it by an extended attribute, `trusted.` or, for user managers, `user.`
    (systemd's CGROUP_DELEGATION.md).
    """
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False
