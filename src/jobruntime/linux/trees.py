"""Removing a directory with all that is in it, where somebody else may have made it, or still is.

Nothing is reached by a path: each step goes from an open directory to a name in it, and never
through a link. A directory found inside is moved up to the top before it is looked into, so that no
depth of nesting costs descriptors or stack, and whoever moves one meanwhile leads nowhere.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from typing import Final

from .files import open_directory

_BLOCK: Final = 512  # the unit of st_blocks (stat(2))
_CHANGED: Final = (
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
    *(errno.ENOTEMPTY, errno.EEXIST),
)
"""What a name answers that was made, removed or replaced since it was listed."""
_MOST_CHANGES: Final = 1000


class InterruptedRemovalError(Exception):
    """The removal was no longer wanted; it can be begun again."""


def remove_tree(path: str, wanted: Callable[[], bool] = lambda: True) -> int:
    """Remove the directory `path` and return the room that it had, in bytes; absent, it had none.

    Raises OSError, also where another file system is mounted inside, and InterruptedRemovalError
    once `wanted` denies it.
    """
    parent, name = os.path.split(path)
    try:
        above = open_directory(parent)
    except FileNotFoundError:
        return 0
    try:
        top = _open_locked(name, above)
        try:
            return _Removal(top, wanted).run(lambda: os.rmdir(name, dir_fd=above))
        finally:
            os.close(top)
    except FileNotFoundError:
        return 0
    finally:
        os.close(above)


class _Removal:
    """The removal of one directory."""

    def __init__(self, top: int, wanted: Callable[[], bool]) -> None:
        self._top = top
        self._wanted = wanted
        about = os.fstat(top)
        self._device = about.st_dev
        self._prefix = f".removed-{secrets.token_hex(8)}"
        self._moved = 0
        self._freed = about.st_blocks * _BLOCK
        self._changes = 0
        if os.geteuid() == 0:
            os.fchown(top, 0, 0)  # nobody else gets in by its path any more
        os.fchmod(top, stat.S_IRWXU)

    def run(self, finish: Callable[[], None]) -> int:
        while True:
            while directories := self._empty(self._top):
                for name in directories:
                    self._remove_directory(name)
            try:
                finish()
            except OSError as error:
                self._check_changed(error)
            else:
                return self._freed

    def _empty(self, fd: int) -> list[str]:
        """Unlink what is in the directory; return the names of the directories in it."""
        directories = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if not self._wanted():
                    raise InterruptedRemovalError
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                else:
                    self._unlink(entry, fd)
        return directories

    def _unlink(self, entry: os.DirEntry[str], fd: int) -> None:
        try:
            about = entry.stat(follow_symlinks=False)
            os.unlink(entry.name, dir_fd=fd)
        except OSError as error:
            self._check_changed(error)
            return
        if about.st_nlink == 1:
            self._freed += about.st_blocks * _BLOCK

    def _remove_directory(self, name: str) -> None:
        """Remove a directory in the top one; what is in it and not empty moves up."""
        try:
            fd = _open_locked(name, self._top)
            try:
                about = os.fstat(fd)
                if about.st_dev != self._device:
                    raise OSError(errno.EXDEV, "another file system is mounted there", name)
                for inner in self._empty(fd):
                    self._move_up(inner, fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=self._top)
        except OSError as error:
            self._check_changed(error)
            return
        self._freed += about.st_blocks * _BLOCK

    def _move_up(self, name: str, fd: int) -> None:
        try:
            os.rmdir(name, dir_fd=fd)
            return
        except OSError as error:
            if error.errno not in _CHANGED:
                raise
        self._moved += 1
        place = f"{self._prefix}-{self._moved}"
        os.close(_open_locked(name, fd))  # a move changes its "..", which takes the right to write
        os.rename(name, place, src_dir_fd=fd, dst_dir_fd=self._top)

    def _check_changed(self, error: OSError) -> None:
        # The next round sees what is there then; but not for ever, against somebody who goes on.
        self._changes += 1
        if error.errno not in _CHANGED or self._changes > _MOST_CHANGES:
            raise error


def _open_locked(name: str, parent: int) -> int:
    """Open a directory in `parent`, also one that its owner, this user, has locked himself out."""
    held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        if os.geteuid() != 0 and os.fstat(held).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{held}", stat.S_IRWXU)
        return open_directory(".", held)
    finally:
        os.close(held)
