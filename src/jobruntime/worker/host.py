"""What of the host an operator wants to know before jobs run on it: looked up, never changed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Final

from ..linux.block import DeviceError
from ..linux.block import disk_of as _disk_of
from ..linux.controllers import v1_controllers
from ..linux.libc import is_clock_synchronized as _is_clock_synchronized
from ..model.limits import Controller

_KIB: Final = 1024
_TRIAL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system on which a path lies, and what is free for this user."""

    kind: str
    size_bytes: int
    free_bytes: int
    inodes: int
    """0: it has no limit of them."""
    free_inodes: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk below a path as `MAJOR:MINOR`; empty where none can be named, for this cause."""

    device: str
    cause: str = ""


def existing(path: str) -> str:
    """Return the path, or the nearest directory above it that is there."""
    while not os.path.lexists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def read_file_system(path: str) -> FileSystem:
    """Return the file system of an existing path; raises OSError."""
    found = os.statvfs(path)
    return FileSystem(
        kind=_kind_of(path),
        size_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        free_inodes=found.f_favail,
    )


def disk_of(path: str) -> Disk:
    """Return the disk whose I/O can be limited for files at `path`."""
    try:
        return Disk(_disk_of(path))
    except DeviceError as error:
        return Disk("", error.cause)


def sync_once(directory: str) -> int:
    """Bring a page to the disk that `directory` lies on; return how many ns it took.

    The file has no name, or only for a moment. Raises OSError.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        began_ns = time.monotonic_ns()
        file.write(bytes(4 * _KIB))
        file.flush()
        os.fsync(file.fileno())
        return time.monotonic_ns() - began_ns


def is_clock_synchronized() -> bool | None:
    """Return whether something keeps the wall clock right; None: this host does not tell."""
    try:
        return _is_clock_synchronized()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        return None


def missing_pidfds() -> str | None:
    """Return why processes can't be held by descriptors here; None: they can."""
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    try:
        signal.pidfd_send_signal(fd, 0)
    except OSError as error:
        return f"pidfd_send_signal: {error.strerror}"
    finally:
        os.close(fd)
    return None


def missing_isolation() -> str | None:
    """Return why bubblewrap cannot make a view for isolated jobs here; None: it can.

    Tried with what a view needs most. Without root it takes a user namespace.
    """
    words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    words += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--", "true"]
    try:
        done = subprocess.run(
            ["bwrap", *words],  # noqa: S607 - the same that the spawner looks for
            env={"PATH": os.defpath, "LANG": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_S,
            check=False,
        )
    except FileNotFoundError:
        return "bubblewrap (bwrap) is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap (bwrap) cannot be run: {error}"
    if done.returncode == 0:
        return None
    words_of_it = done.stderr.decode(errors="replace").strip().splitlines()
    return words_of_it[-1] if words_of_it else f"bwrap ends with {done.returncode}"


def free_swap_bytes() -> int | None:
    """Return how much swap is free; None: this host has none."""
    with open("/proc/swaps", encoding="utf-8", errors="surrogateescape") as file:
        areas = [line.split() for line in file.readlines()[1:]]
    if not areas:
        return None
    return sum(int(fields[-3]) - int(fields[-2]) for fields in areas) * _KIB


def is_hybrid() -> bool:
    """Return whether this host has controllers that limit jobs as cgroup version 1."""
    return not v1_controllers().isdisjoint({"blkio", *Controller})


def unmapped_uid(uids: range) -> int | None:
    """Return a uid of the range that this user namespace does not have; None: it has them all."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        maps = [[int(word) for word in line.split()] for line in file]
    uid = uids.start
    while uid < uids.stop:
        end = next((a + size for a, _, size in maps if a <= uid < a + size), None)
        if end is None:
            return uid
        uid = end
    return None


def _kind_of(path: str) -> str:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if left.split(" ", 1)[0] == mount:
                return right.split(" ", 1)[0]
    return "unknown"
