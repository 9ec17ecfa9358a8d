"""What a process gives up before it becomes a job's: capabilities, keys, core files of itself."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SYS_KEYCTL: Final = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1

_MOST_CAPABILITIES: Final = 64
_HEADER = ctypes.create_string_buffer(b"\x22\x05\x08\x20" + bytes(4), 8)
"""_LINUX_CAPABILITY_VERSION_3 and pid 0, this thread (capset(2)), little endian as all of ours."""
_NO_CAPABILITIES = ctypes.create_string_buffer(24)
_ZERO = ctypes.c_ulong(0)
_keyctl_number = _SYS_KEYCTL.get(os.uname().machine)


def _prctl(option: int, value: int) -> int:
    # prctl is variadic: the kernel reads five longs, so all five are given (prctl(2)).
    done: int = _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), _ZERO, _ZERO, _ZERO)
    return 0 if done >= 0 else ctypes.get_errno()


def _check(code: int, call: str) -> None:
    if code:
        raise OSError(code, f"{call}: {os.strerror(code)}")


def forbid_inspection() -> None:
    """Keep this process, and what it forks, from being traced or dumped by anybody without rights.

    Until an exec, which sets it back (prctl(2), PR_SET_DUMPABLE).
    """
    _check(_prctl(_PR_SET_DUMPABLE, 0), "prctl dumpable")


def clear_ambient_capabilities() -> None:
    """Keep the capabilities that this process was started with from all that it execs."""
    code = _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if code != errno.EINVAL:  # a kernel that has none of them
        _check(code, "prctl ambient")


def drop_bounding_set() -> None:
    """Empty the bounding set: no exec gives a capability any more. Needs CAP_SETPCAP."""
    for capability in range(_MOST_CAPABILITIES):
        code = _prctl(_PR_CAPBSET_DROP, capability)
        if code == errno.EINVAL:
            return  # this kernel has no more of them
        if code == errno.EPERM and not _is_in_bounding_set(capability):
            continue  # whoever started this had not got it
        _check(code, "prctl bounding set")


def _is_in_bounding_set(capability: int) -> bool:
    option, number = ctypes.c_int(_PR_CAPBSET_READ), ctypes.c_ulong(capability)
    return bool(_libc.prctl(option, number, _ZERO, _ZERO, _ZERO))


def drop_capabilities() -> None:
    """Empty the permitted, effective and inheritable sets, and so the ambient one, for good."""
    done = _libc.capset(_HEADER, _NO_CAPABILITIES)
    _check(0 if done == 0 else ctypes.get_errno(), "capset")


def join_new_session_keyring() -> None:
    """Leave the session keyring that was inherited for an empty one of this process's own.

    Whoever shares one possesses the keys in it, whatever his uid (keyrings(7)).
    """
    if _keyctl_number is None:
        return
    join = ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING)
    if _libc.syscall(ctypes.c_long(_keyctl_number), join, None) < 0:
        code = ctypes.get_errno()
        # A kernel without keys, or a container that keeps them from everybody in it.
        if code not in (errno.ENOSYS, errno.EPERM):
            _check(code, "keyctl")
