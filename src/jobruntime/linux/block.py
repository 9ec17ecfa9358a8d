"""Block devices: which disk a file lies on, as io.max wants it named (sysfs, proc(5))."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

_SYS: Final = "/sys/dev/block"


class DeviceError(Exception):
    """No disk can be named for a path; the text says why, `code` is the errno, 0 without one."""

    def __init__(self, path: str, cause: str, code: int = 0) -> None:
        super().__init__(cause)
        self.path = path
        self.cause = cause
        self.code = code


def open_path(path: str) -> int:
    """Return a descriptor that only names the file; raises OSError."""
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def disk_of(path: str, open_path: Callable[[str], int] = open_path) -> str:
    """Return `MAJOR:MINOR` of the disk on which `path` lies, or which it is.

    A partition stands for its disk; what lies on others (device mapper, RAID) for the disk below.
    Raises DeviceError where there is none, or more than one.
    """
    try:
        fd = open_path(path)
    except OSError as error:
        cause = os.strerror(error.errno or errno.EIO)
        raise DeviceError(path, cause, error.errno or errno.EIO) from error
    try:
        about = os.fstat(fd)
        if stat.S_ISBLK(about.st_mode):
            return _whole_disk(path, about.st_rdev)
        if stat.S_ISCHR(about.st_mode):
            raise DeviceError(path, "it is a character device, not a block device")
        if os.path.exists(f"{_SYS}/{_name(about.st_dev)}"):
            return _whole_disk(path, about.st_dev)
        return _whole_disk(path, _source_of_mount(path, fd))
    finally:
        os.close(fd)


def _name(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _source_of_mount(path: str, fd: int) -> int:
    """Return the device of a file system that shows none of its own, as btrfs does."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        fields = next((line.split() for line in file if line.split(" ", 1)[0] == mount), [])
    behind = fields[fields.index("-") + 1 :] if "-" in fields else []
    kind, source = behind[:2] if len(behind) >= 2 else ("unknown", "")
    if source.startswith("/dev/"):
        about = os.stat(source)
        if stat.S_ISBLK(about.st_mode):
            _refuse_several(path, kind, about.st_rdev)
            return about.st_rdev
    raise DeviceError(path, f"it lies on {kind}, which has no block device")


def _refuse_several(path: str, kind: str, device: int) -> None:
    if kind != "btrfs" or not os.path.isdir("/sys/fs/btrfs"):
        return
    name = os.path.basename(os.path.realpath(f"{_SYS}/{_name(device)}"))
    for system in os.listdir("/sys/fs/btrfs"):
        devices = f"/sys/fs/btrfs/{system}/devices"
        names = os.listdir(devices) if os.path.isdir(devices) else []
        if name in names and len(names) > 1:
            raise DeviceError(path, f"it lies on {len(names)} devices ({', '.join(names)})")


def _whole_disk(path: str, device: int) -> str:
    name = _name(device)
    for _ in range(16):  # far more layers than anybody stacks
        place = os.path.realpath(f"{_SYS}/{name}")
        if not os.path.isdir(place):
            raise DeviceError(path, f"the block device {name} is not in sysfs")
        if os.path.exists(f"{place}/partition"):
            place = os.path.dirname(place)
        below = sorted(os.listdir(f"{place}/slaves")) if os.path.isdir(f"{place}/slaves") else []
        if len(below) > 1:
            raise DeviceError(path, f"it lies on several disks ({', '.join(below)})")
        if not below:
            return _dev(place)
        name = _dev(f"{place}/slaves/{below[0]}")
    raise DeviceError(path, "its devices are stacked too deep")


def _dev(place: str) -> str:
    with open(f"{place}/dev", encoding="ascii") as file:
        return file.read().strip()
