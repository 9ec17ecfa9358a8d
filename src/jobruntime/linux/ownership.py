"""Directories that root makes for another user, or gives to him."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator


def make_directory_of(path: str, uid: int, gid: int) -> None:
    """Make `path` (and missing parents) with mode 0700 for this user; an existing one must be his.

    Raises PermissionError where it is somebody else's, or open to others.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        about = os.stat(path, follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode) and about.st_uid == uid:
            if about.st_mode & 0o077:
                why = f"it is open to others: run chmod go= {path}"
                raise PermissionError(errno.EPERM, why, path) from None
            return
        why = f"it belongs to user {about.st_uid}, and the server is user {uid}: with no job "
        why += f"running, run chown -R {uid}:{gid} {path}"
        raise PermissionError(errno.EPERM, why, path) from None
    os.chown(path, uid, gid, follow_symlinks=False)


def is_roots_own(path: str) -> bool:
    """Return whether `path` is a directory of root's that nobody else gets into."""
    try:
        about = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == 0 and not about.st_mode & 0o077


def give_tree(path: str, uid: int, gid: int) -> None:
    """Give a directory that `is_roots_own` to this user, with all in it; no link is followed.

    From below upwards: until the last step nobody else gets in. Raises OSError.
    """
    for _, directories, files, fd in os.fwalk(path, topdown=False, follow_symlinks=False):
        for name in (*directories, *files):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    os.chown(path, uid, gid, follow_symlinks=False)


def let_pass(path: str, gid: int) -> bool:
    """Let the group look into a directory of root's that is closed to all; return whether it was.

    To look into it, not only to pass it: inotify wants no less.
    """
    about = os.stat(path, follow_symlinks=False)
    if about.st_uid != 0 or about.st_mode & 0o077 or not stat.S_ISDIR(about.st_mode):
        return False
    os.chown(path, -1, gid, follow_symlinks=False)
    os.chmod(path, stat.S_IMODE(about.st_mode) | 0o050)  # noqa: S103 - that is the point
    return True


def give_key(path: str, uid: int) -> bool:
    """Give a private key of root's to this user; return whether that was done.

    What is no regular file, has several names or is somebody else's is left as it is.
    """
    with _roots_file(path) as fd:
        if fd is not None:
            os.fchown(fd, uid, -1)
    return fd is not None


def let_read(path: str, gid: int) -> bool:
    """Let the group read a file of root's that nobody else can; return whether that was done."""
    with _roots_file(path) as fd:
        if fd is None or os.fstat(fd).st_mode & 0o077:
            return False
        os.fchown(fd, -1, gid)
        os.fchmod(fd, 0o640)
        return True


@contextlib.contextmanager
def _roots_file(path: str) -> Iterator[int | None]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        about = os.fstat(fd)
        is_plain = stat.S_ISREG(about.st_mode) and about.st_nlink == 1
        yield fd if is_plain and about.st_uid == 0 else None
    finally:
        os.close(fd)
