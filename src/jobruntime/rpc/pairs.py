"""Replaces a certificate together with its key, so that a crash in between loses neither.

There is no rename(2) of two files. The new key is written as `KEY.new` first; then the certificate
is renamed, then the key. Whoever reads the pair in between, or after a crash there, finds that the
key is not the certificate's, and that `KEY.new` is. Whoever has read one file before a rename and
the next one after it finds no key that fits, and has to read again. `read_fitting_pair` in
`rpc/tls.py` does both.

Two replacements at once would take each other's `KEY.new`: they wait for each other, by the lock of
the key's directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PENDING_SUFFIX: Final = ".new"
_KEY_MODE: Final = 0o600
_CERTIFICATE_MODE: Final = 0o644


class _Held(threading.local):
    """The directories whose lock this thread has, by device and inode."""

    def __init__(self) -> None:
        self.directories: set[tuple[int, int]] = set()


_held: Final = _Held()


@contextlib.contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Hold the exclusive lock (flock(2)) of a directory, waiting for it. Raises OSError.

    A thread that has it already goes on: `jobd cert` replaces pairs in a directory that it holds.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        about = os.fstat(fd)
        which = about.st_dev, about.st_ino
        if which in _held.directories:
            yield
            return
        fcntl.flock(fd, fcntl.LOCK_EX)
        _held.directories.add(which)
        try:
            yield
        finally:
            _held.directories.discard(which)
    finally:
        os.close(fd)


def replace_pair(cert_path: Path, key_path: Path, certificate: bytes, key: bytes) -> None:
    """Replace both, whether they are there or not; links are followed. Raises OSError.

    Where root replaces a key of somebody else's, the new one is his, too. One file for both stays
    one. When this returns, both are on the disk. Of two at once, the later one's pair stays.
    """
    cert_path, key_path = (Path(os.path.realpath(path)) for path in (cert_path, key_path))
    if cert_path == key_path:
        replace_file(cert_path, certificate + key, _KEY_MODE, like=key_path)
        return
    pending = key_path.with_name(f"{key_path.name}{PENDING_SUFFIX}")
    with holding(key_path.parent):
        replace_file(pending, key, _KEY_MODE, like=key_path)
        replace_file(cert_path, certificate, _CERTIFICATE_MODE)
        pending.replace(key_path)
        _sync_directory(key_path.parent)


def replace_file(path: Path, data: bytes, mode: int, *, like: Path | None = None) -> None:
    """Replace a file as a whole, and bring it to the disk; raises OSError.

    Root gives it the owner of `like`, where that exists.
    """
    partial = path.with_name(f".{secrets.token_hex(16)}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(partial, flags, _KEY_MODE), "wb") as file:
            file.write(data)
            file.flush()
            if like is not None and os.geteuid() == 0 and like.exists():
                os.fchown(file.fileno(), like.stat().st_uid, like.stat().st_gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
