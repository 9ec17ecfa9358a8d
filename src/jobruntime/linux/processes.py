"""Processes held by descriptors (pidfds), so that no signal ever reaches a reused pid."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Final

PF_FORKNOEXEC: Final = 0x40
"""The kernel's mark of a process that forked and has not exec'd (include/linux/sched.h)."""


def set_process_name(name: str) -> None:
    """Set the name that `ps -o comm` shows, cut to 15 bytes by the kernel (proc(5))."""
    fd = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(fd, name.encode())
    os.close(fd)


def has_execed(pid: int) -> bool:
    """Return whether a child, alive or not yet reaped, has gone through exec since its fork."""
    # Not open(): a fresh keeper would copy a hundred pages for its buffering.
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    # The name in parentheses may contain anything; the fields after it do not.
    fields = os.read(fd, 4096).rpartition(b")")[2].split()
    os.close(fd)
    return not int(fields[6]) & PF_FORKNOEXEC


def namespace_pid(pid: int, namespace: int) -> int:
    """Return the pid that a process has in that process namespace (by inode); 0: it is not there.

    In the innermost namespace of those that it is in, for one that the process itself has made.
    """
    try:
        if os.stat(f"/proc/{pid}/ns/pid").st_ino != namespace:
            return 0
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[-1]) for line in file if line.startswith("NSpid:"))
    except OSError:  # gone, or another user's
        return 0


def is_dying(pid: int) -> bool:
    """Return whether a child has SIGKILL pending, or is about to end, or has ended."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    pending = int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)
    kill = 1 << (signal.SIGKILL - 1)
    return bool(pending & kill) or fields.get("State", "X")[0] in "ZX"


def signal_verified(pid: int, signo: int, belongs: Callable[[int], bool]) -> None:
    """Send `signo` to `pid` if it still is one that `belongs`; a gone process is no error.

    The pidfd is taken first: if `belongs` then says yes and the signal goes through, both spoke of
    one and the same process, for a pid is not given away again while its process lives.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if belongs(pid):
            signal.pidfd_send_signal(fd, signo)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def signal_each(signo: int, pids: Iterable[int], belongs: Callable[[int], bool]) -> None:
    """Send `signo` to each of `pids` that still `belongs`, in their order."""
    for pid in pids:
        signal_verified(pid, signo, belongs)


def kill_each(members: Callable[[], set[int]], belongs: Callable[[int], bool]) -> None:
    """Send SIGKILL to every member, also to those that are forked meanwhile.

    Bounded: to be called again while any is left.
    """
    done: set[int] = set()
    for _ in range(16):
        fresh = members() - done
        if not fresh:
            return
        signal_each(signal.SIGKILL, fresh, belongs)
        done |= fresh


def _parents() -> dict[int, int]:
    # One pass over /proc: the `children` files miss what a thread other than the first has forked.
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parents[int(entry)] = _parent_of(int(entry))
    return parents


def _parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descendant_pids(root: int) -> set[int]:
    """Return all descendants of `root` at one moment; what forks meanwhile can slip through."""
    parents = _parents()
    found: set[int] = set()
    generation = {root}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation} - found
        found |= generation
    return found


def is_descendant(pid: int, root: int) -> bool:
    """Return whether `pid` descends from `root` now."""
    while pid > 1:
        pid = _parent_of(pid)
        if pid == root:
            return True
    return False
