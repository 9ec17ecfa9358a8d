"""System calls that Python's standard library lacks, through ctypes, each result checked."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

_STATUS: Final = struct.Struct("i")
_STA_UNSYNC: Final = 0x0040
_TIME_ERROR: Final = 5

_FALLOC_FL_KEEP_SIZE: Final = 1
_CLONE_NEWNS: Final = 0x0002_0000
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x8_0000

_SYS_RT_SIGACTION: Final = {"x86_64": 13, "aarch64": 134, "riscv64": 134}

IN_MODIFY: Final = 0x002
IN_ATTRIB: Final = 0x004
IN_CLOSE_WRITE: Final = 0x008
IN_MOVED_FROM: Final = 0x040
IN_MOVED_TO: Final = 0x080
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_Q_OVERFLOW: Final = 0x4000


def _checked(result: int, call: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
    return result


def _prctl(option: int, value: int) -> None:
    # prctl is variadic: the kernel reads five longs, so all five are given (prctl(2)).
    args = [ctypes.c_ulong(value), *(ctypes.c_ulong(0) for _ in range(3))]
    _checked(_libc.prctl(ctypes.c_int(option), *args), f"prctl {option}")


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that it can reap them all."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_no_new_privileges() -> None:
    """Forbid this process and what it execs to gain privileges by set-uid or capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def unshare_mounts() -> None:
    """Give this process mounts of its own; what is mounted elsewhere later still shows here."""
    _checked(_libc.unshare(ctypes.c_int(_CLONE_NEWNS)), "unshare")
    mount("none", "/", flags=MS_REC | MS_SLAVE)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source` at `target` (mount(2)); raises OSError."""
    _checked(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
        f"mount at {target}",
    )


def set_parent_death_signal(signo: int) -> None:
    """Have `signo` sent to this process when the thread that forked it ends (not kept by fork)."""
    _prctl(_PR_SET_PDEATHSIG, signo)


def reset_internal_signals() -> None:
    """Give signals 32 and 33 their default action again.

    glibc keeps them for its threads, lets nobody set them, and leaves them ignored in whatever
    posix_spawn(3) starts (sysdeps/unix/sysv/linux/spawni.c); exec hands that on to every job.
    """
    number = _SYS_RT_SIGACTION.get(os.uname().machine)
    if number is None:
        return  # no job minds; only the promise of default dispositions is not whole there
    default = ctypes.create_string_buffer(32)  # struct kernel_sigaction: handler 0 is SIG_DFL
    for signo in (32, 33):
        _checked(_libc.syscall(number, signo, default, None, 8), "rt_sigaction")


def inotify_init() -> int:
    """Return a new non-blocking, close-on-exec inotify descriptor."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path` for the events in `mask`; return the watch's number."""
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)), "watch")


def inotify_rm_watch(fd: int, watch: int) -> None:
    """End a watch."""
    _checked(_libc.inotify_rm_watch(fd, watch), "inotify_rm_watch")


def allocate_behind_end(fd: int, offset: int, length: int) -> None:
    """Take room on the disk for these bytes of a file, whose size stays (fallocate(2)).

    Raises OSError: ENOSPC, EDQUOT; EOPNOTSUPP where the file system cannot.
    """
    size, room = ctypes.c_int64(offset), ctypes.c_int64(length)
    _checked(_libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE, size, room), "fallocate")


def is_clock_synchronized() -> bool:
    """Return whether something keeps the wall clock right (adjtimex(2)); raises OSError."""
    # struct timex of 64-bit Linux: `modes` 0 only asks; `status` stands behind four longs.
    timex = ctypes.create_string_buffer(256)
    state = _checked(_libc.adjtimex(timex), "adjtimex")
    return state != _TIME_ERROR and not _STATUS.unpack_from(timex, 40)[0] & _STA_UNSYNC
