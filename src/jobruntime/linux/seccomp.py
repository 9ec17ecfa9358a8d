"""The filter of system calls for isolated jobs: what no ordinary program needs is refused.

What is on the list, and why: calls that change the host or reach past namespaces (mounts, clocks,
modules, swap, reboot, quotas, ports), that make namespaces (and with them a kernel's rarely tried
code for whoever asks), that look into other processes, and those parts of the kernel in which most
of the holes of the last years were (bpf, io_uring, userfaultfd, perf, keyrings). It follows the
reasons of docker's default profile (https://docs.docker.com/engine/security/seccomp/), systemd's
groups @mount, @module, @raw-io, @reboot, @swap, @clock, @debug, @obsolete and @keyring
(systemd.exec(5), SystemCallFilter=) and flatpak's list (flatpak-run.c: TIOCSTI, namespaces).

 - clone3 answers ENOSYS and not EPERM: a filter cannot see its flags, which lie in memory, and libc
   then takes clone (moby pull request 42681).
 - AF_VSOCK knows no network namespace: it reaches the hypervisor (containerd's profile).
 - Calls of another architecture, x32 too, have other numbers and are refused whole (seccomp(2)).

A list of what is refused, not of what is allowed: a job is anybody's program, and its kernel may be
newer than this list. It is one wall of several, not the one that everything hangs on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_RET_ALLOW: Final = 0x7FFF_0000
_RET_ERRNO: Final = 0x0005_0000

# Classic BPF (linux/bpf_common.h), and where struct seccomp_data has its fields.
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16

_X32_BIT: Final = 0x4000_0000
_AF_VSOCK: Final = 40
_TERMINAL_INPUT: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into somebody's terminal
_CLONE_NEWTIME: Final = 0x80  # of unshare only: in clone these bits are the exit signal
_NAMESPACES: Final = (
    CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
)

# From 424 on the numbers are the same everywhere.
_COMMON: Final[Mapping[str, int]] = MappingProxyType(
    {
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "fsconfig": 431,
        "fsmount": 432,
        "fspick": 433,
        "clone3": 435,
        "pidfd_getfd": 438,
        "process_madvise": 440,
        "mount_setattr": 442,
        "quotactl_fd": 443,
        "process_mrelease": 448,
        "open_tree_attr": 467,
    }
)
# arch/x86/entry/syscalls/syscall_64.tbl
_X86_64: Final[Mapping[str, int]] = MappingProxyType(
    {
        "ioctl": 16,
        "socket": 41,
        "clone": 56,
        "ptrace": 101,
        "syslog": 103,
        "uselib": 134,
        "vhangup": 153,
        "pivot_root": 155,
        "_sysctl": 156,
        "chroot": 161,
        "acct": 163,
        "settimeofday": 164,
        "mount": 165,
        "umount2": 166,
        "swapon": 167,
        "swapoff": 168,
        "reboot": 169,
        "sethostname": 170,
        "setdomainname": 171,
        "iopl": 172,
        "ioperm": 173,
        "create_module": 174,
        "init_module": 175,
        "delete_module": 176,
        "quotactl": 179,
        "nfsservctl": 180,
        "lookup_dcookie": 212,
        "clock_settime": 227,
        "kexec_load": 246,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "migrate_pages": 256,
        "unshare": 272,
        "move_pages": 279,
        "perf_event_open": 298,
        "fanotify_init": 300,
        "open_by_handle_at": 304,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "finit_module": 313,
        "kexec_file_load": 320,
        "bpf": 321,
        "userfaultfd": 323,
    }
)
# include/uapi/asm-generic/unistd.h
_AARCH64: Final[Mapping[str, int]] = MappingProxyType(
    {
        "lookup_dcookie": 18,
        "ioctl": 29,
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "nfsservctl": 42,
        "chroot": 51,
        "vhangup": 58,
        "quotactl": 60,
        "acct": 89,
        "unshare": 97,
        "kexec_load": 104,
        "init_module": 105,
        "delete_module": 106,
        "clock_settime": 112,
        "syslog": 116,
        "ptrace": 117,
        "reboot": 142,
        "sethostname": 161,
        "setdomainname": 162,
        "settimeofday": 170,
        "socket": 198,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "clone": 220,
        "swapon": 224,
        "swapoff": 225,
        "migrate_pages": 238,
        "move_pages": 239,
        "perf_event_open": 241,
        "fanotify_init": 262,
        "open_by_handle_at": 265,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "finit_module": 273,
        "bpf": 280,
        "userfaultfd": 282,
        "kexec_file_load": 294,
    }
)
_MACHINES: Final[Mapping[str, tuple[int, Mapping[str, int]]]] = MappingProxyType(
    {
        "x86_64": (0xC000_003E, _X86_64),  # AUDIT_ARCH_X86_64
        "aarch64": (0xC000_00B7, _AARCH64),  # AUDIT_ARCH_AARCH64
    }
)
_INSTRUCTION: Final = struct.Struct("HBBI")


def assemble_filter(machine: str) -> bytes | None:
    """Return the program for `machine` as uname names it; None where its numbers are not known."""
    if machine not in _MACHINES:
        return None
    arch, own = _MACHINES[machine]
    numbers = {**own, **_COMMON}
    conditional = {"clone", "unshare", "ioctl", "socket"}
    code = [
        _op(_LOAD, _ARCH),
        _op(_JUMP_EQUAL, arch, 1, 0),
        _refuse(errno.ENOSYS),
        _op(_LOAD, _NUMBER),
        _op(_JUMP_AT_LEAST, _X32_BIT, 0, 1),
        _refuse(errno.ENOSYS),
        *_when(numbers["clone3"], [_refuse(errno.ENOSYS)]),
        *_when(numbers["clone"], _if_any_bit(_NAMESPACES)),
        *_when(numbers["unshare"], _if_any_bit(_NAMESPACES | _CLONE_NEWTIME)),
        *_when(numbers["ioctl"], _if_argument(1, _TERMINAL_INPUT)),
        *_when(numbers["socket"], _if_argument(0, (_AF_VSOCK,))),
    ]
    for name, number in numbers.items():
        if name not in conditional | {"clone3"}:
            code += _when(number, [_refuse(errno.EPERM)])
    return b"".join([*code, _op(_RETURN, _RET_ALLOW)])


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def _refuse(code: int) -> bytes:
    return _op(_RETURN, _RET_ERRNO | code)


def _when(number: int, then: list[bytes]) -> list[bytes]:
    # `then` always returns, so the call's number stays loaded for what follows.
    return [_op(_JUMP_EQUAL, number, 0, len(then)), *then]


def _argument(index: int) -> bytes:
    # The lower half, which comes first on both machines: all that the kernel takes of these.
    return _op(_LOAD, _ARGUMENTS + 8 * index)


def _if_any_bit(bits: int) -> list[bytes]:
    decide = [_op(_JUMP_ANY_BIT, bits, 0, 1), _refuse(errno.EPERM), _op(_RETURN, _RET_ALLOW)]
    return [_argument(0), *decide]


def _if_argument(index: int, values: tuple[int, ...]) -> list[bytes]:
    refusals = [
        part for value in values for part in (_op(_JUMP_EQUAL, value, 0, 1), _refuse(errno.EPERM))
    ]
    return [_argument(index), *refusals, _op(_RETURN, _RET_ALLOW)]


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


# Made once, when the spawner loads this; every job shares the pages.
_CODE: Final = assemble_filter(os.uname().machine)
_PROGRAM: Final = _Program(len(_CODE or b"") // _INSTRUCTION.size, _CODE)
_ADDRESS: Final = ctypes.byref(_PROGRAM)
_prctl: Final = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def filter_code() -> bytes:
    """Return the program as others take it: an array of struct sock_filter.

    Raises OSError (ENOSYS) on a machine whose numbers are not known here.
    """
    if _CODE is None:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {os.uname().machine}")
    return _CODE


def install_filter() -> None:
    """Hold this process and all that it becomes and forks to the filter, for good.

    Needs no_new_privs. Raises OSError, also as `filter_code` does.
    """
    filter_code()
    if _prctl(_PR_SET_SECCOMP, _MODE_FILTER, _ADDRESS) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")
