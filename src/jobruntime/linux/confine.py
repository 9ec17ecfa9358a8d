"""A process of root's gives up what it can do, for good; and finds its way to its files after that.

Single-threaded processes only, between fork and exec.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from .libc import (
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_REC,
    mount,
    set_no_new_privileges,
    set_parent_death_signal,
    unshare_mounts,
)
from .privileges import drop_bounding_set

_MOST_LINKS: Final = 40  # as the kernel (path_resolution(7))


def become(uid: int, gid: int, parent: int) -> None:
    """Be this user and nobody else: no other group, no capability, no way to gain any.

    Killed when the process `parent` ends.
    """
    drop_bounding_set()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    set_no_new_privileges()
    # After the change of user, which clears the setting (prctl(2)); the check closes the race.
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def closed_ways(paths: Iterable[str], uid: int, gid: int) -> dict[str, set[str]]:
    """Return the directories on the ways to `paths` that the user cannot pass, and what in them."""
    closed: dict[str, set[str]] = {}
    for path in paths:
        for directory, name in lookups(path):
            if not may_pass(os.stat(directory), uid, gid):
                closed.setdefault(directory, set()).add(name)
    return closed


def may_pass(about: os.stat_result, uid: int, gid: int) -> bool:
    """Return whether this user, who is in no other group, may pass the directory."""
    if about.st_uid == uid:
        return bool(about.st_mode & stat.S_IXUSR)
    if about.st_gid == gid:
        return bool(about.st_mode & stat.S_IXGRP)
    return bool(about.st_mode & stat.S_IXOTH)


def is_roots_way(path: str) -> bool:
    """Return whether root alone decides where `path` leads. Raises OSError where it leads nowhere.

    In a directory that others can write to, as /tmp, what belongs to root must be safe by its
    sticky bit.
    """
    for directory, name in lookups(path):
        about = os.stat(directory)
        if about.st_uid != 0:
            return False
        if about.st_mode & 0o022:
            is_safe = about.st_mode & stat.S_ISVTX
            if not is_safe or os.lstat(f"{directory}/{name}").st_uid != 0:
                return False
    return True


def open_ways(closed: dict[str, set[str]]) -> None:
    """Let anybody pass these directories, for this process and its children only.

    In mounts of their own, each of them is covered by an empty directory in which only what leads
    on is there, at its own path. Raises OSError, as in a container that may not mount.
    """
    if not closed:
        return
    unshare_mounts()
    for directory in sorted(closed):  # what is above comes first
        fds = {
            name: os.open(f"{directory}/{name}", os.O_PATH | os.O_NOFOLLOW)
            for name in closed[directory]
        }
        mount("none", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711,size=64k")
        for name, fd in fds.items():
            _show(f"{directory}/{name}", fd)
            os.close(fd)


def _show(place: str, fd: int) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink("", dir_fd=fd), place)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    mount(f"/proc/self/fd/{fd}", place, flags=MS_BIND | MS_REC)


def lookups(path: str) -> Iterator[tuple[str, str]]:
    """Yield each directory that the kernel looks into on its way to `path`, and for what name."""
    names = path.split("/")[::-1]
    directory, links = "/", 0
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            directory = os.path.dirname(directory)
            continue
        yield directory, name
        found = os.path.join(directory, name)
        if not os.path.islink(found):
            directory = found
            continue
        links += 1
        if links > _MOST_LINKS:
            return  # whoever opens it is told
        target = os.readlink(found)
        if target.startswith("/"):
            directory = "/"
        names += target.split("/")[::-1]
