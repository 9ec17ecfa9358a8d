"""Namespaces, through ctypes, each result checked."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000

_NS_GET_PARENT: Final = 0xB702  # ioctl_ns(2)
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFFLAGS: Final = 0x8914  # netdevice(7)

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Looked up now: in a freshly forked process each look-up copies pages.
_setns: Final = _libc.setns


def join_namespaces(pidfd: int, kinds: int) -> None:
    """Move this process into those namespaces (CLONE_NEW*) in which the held process is.

    Its own children only, for CLONE_NEWPID (setns(2)). Needs Linux 5.8; raises OSError.
    """
    _check(_setns(pidfd, kinds), "setns")


def parent_namespace(namespace: int) -> int:
    """Return a descriptor of the user namespace in which that of `namespace` was made."""
    return fcntl.ioctl(namespace, _NS_GET_PARENT)


def is_same_namespace(namespace: int, path: str) -> bool:
    """Return whether the open namespace is the one at `path`, such as /proc/self/ns/user."""
    one, other = os.fstat(namespace), os.stat(path)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def take_loopback_down() -> None:
    """Take the loopback interface of this network namespace down; raises OSError."""
    # struct ifreq: the name, then an address (none), or flags, of which none is IFF_UP. With its
    # address left a connection to 127.0.0.1 would hang, instead of being refused at once.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFADDR, struct.pack("16sH22x", b"lo", socket.AF_INET))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", 0))


def _check(result: int, call: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
