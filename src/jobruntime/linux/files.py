"""Files as records: written once or replaced atomically, never through a link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from typing import Final

_MAX_RECORD_BYTES: Final = 64 * 1024 * 1024


@contextlib.contextmanager
def acting_as(uid: int | None) -> Iterator[None]:
    """Have no more rights to files than user `uid`; None, or this process's own: as it is.

    For root in a directory of somebody else's: whatever links he puts there lead nowhere that he
    could not go himself, and what is made is his. Not for a process with threads.
    """
    own = os.geteuid()
    if uid is None or uid == own:
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


def make_private_directory(path: str, mode: int = 0o700, *, gid: int = -1) -> None:
    """Make `path` (and missing parents) with `mode`; an existing one must be the caller's own.

    Its group becomes `gid`, where one is given.

    Raises PermissionError where it belongs to somebody else, who could swap what is in it, and
    where it is open to others and has something in it: it may be anybody's, /srv or /run, say.
    """
    os.makedirs(path, mode=0o755, exist_ok=True)
    about = os.stat(path, follow_symlinks=False)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM, f"{path} is not a directory of user {os.geteuid()}'s own", path
        )
    found = stat.S_IMODE(about.st_mode)
    if found & ~mode and os.listdir(path):
        raise PermissionError(
            errno.EPERM, f"it is there with mode {found:04o}, open to others, and not empty", path
        )
    if gid not in (-1, about.st_gid):
        os.chown(path, -1, gid)
    if found != mode:
        os.chmod(path, mode)


def open_directory(path: str, dir_fd: int | None = None) -> int:
    """Return a descriptor of the directory `path`; a symbolic link is refused with ENOTDIR."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)


def create_exclusive(name: str, dir_fd: int, mode: int = 0o600) -> int:
    """Create `name` for writing; raises FileExistsError where anything has that name already."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.open(name, flags, mode, dir_fd=dir_fd)


def open_as(uid: int | None, directory: str, name: str, flags: int) -> int:
    """Open or make `name` in `directory` with user `uid`'s rights there, never through a link.

    The way to the directory itself is the caller's. None: all with his.
    """
    dir_fd = open_directory(directory)
    try:
        with acting_as(uid):
            return os.open(name, flags | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
    finally:
        os.close(dir_fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def encode_json(value: object) -> bytes:
    """Return `value` as one line of JSON; lone surrogates survive as escapes."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def replace_json(name: str, value: object, dir_fd: int, *, sync: bool) -> None:
    """Replace the record `name` as a whole; with `sync` it is on disk when this returns."""
    partial = f"{name}.new"
    try:
        fd = create_exclusive(partial, dir_fd)
    except FileExistsError:  # a writer died here before; there is one writer per file
        os.unlink(partial, dir_fd=dir_fd)
        fd = create_exclusive(partial, dir_fd)
    try:
        write_all(fd, encode_json(value))
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(partial, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    if sync:
        os.fsync(dir_fd)


def read_json(name: str, dir_fd: int) -> dict[str, object] | None:
    """Return the record `name`, None where there is none; raises ValueError if damaged."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    try:
        return parse_json(read_whole(fd))
    finally:
        os.close(fd)


def parse_json(data: bytes) -> dict[str, object]:
    """Return the JSON object in `data`; raises ValueError for anything else."""
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_whole(fd: int) -> bytes:
    """Return all bytes of a regular file or memfd, from its start."""
    size = os.fstat(fd).st_size
    if size > _MAX_RECORD_BYTES:
        raise ValueError(f"a record of {size} bytes")
    parts = []
    offset = 0
    while block := os.pread(fd, size - offset + 1, offset):
        parts.append(block)
        offset += len(block)
    return b"".join(parts)


def try_lock(fd: int) -> bool:
    """Take the lock of an open file (flock(2)) if nobody has it; return whether it was taken.

    It belongs to the open file, not to the process: it is held until the last copy of the
    descriptor is closed, in whichever process that is.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def boot_id() -> str:
    """Return the random id of this boot of the host (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
