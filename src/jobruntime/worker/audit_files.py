"""The files of the audit: the one that is written, and those before it.

The one that is written has the configured path; an older one has the number of its first line
behind its name. Each begins with a line that tells what was before it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from ..linux.files import create_exclusive, make_private_directory, try_lock
from ..linux.libc import allocate_behind_end
from ..model.audit_lines import GENESIS, Head, encode_line, parse_line
from ..model.errors import JobError, Reason
from ..model.instants import parse_instant_ns

_BLOCK: Final = 64 * 1024
_SHOWN_TORN_BYTES: Final = 4096
_CANNOT_RESERVE: Final = (errno.EOPNOTSUPP, errno.ENOSYS)

Note = Mapping[str, object]


@dataclass(slots=True)
class ActiveFile:
    """The file that is written: its lines end at `size`, room on the disk at `room_end`."""

    fd: int
    size: int
    first_seq: int
    begun_ns: int
    room_end: int = 0
    has_rest: bool = False
    """A torn line stands behind `size`."""

    def append(self, line: bytes) -> None:
        """Write a whole line, or nothing; raises OSError."""
        try:
            written = os.pwrite(self.fd, line, self.size)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # What there is of it is overwritten by the next line, or told at the next start.
            if not self.has_rest:
                self._end_here()
            raise
        self.size += written
        if self.has_rest:  # only now: until its loss is told, it stays
            self._end_here()
            self.has_rest = False

    def _end_here(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, self.size)
        self.room_end = self.size

    def take_room(self, end: int) -> None:
        """Have room on the disk up to `end`; raises OSError where there is none."""
        if end <= self.room_end:
            return
        try:
            allocate_behind_end(self.fd, self.size, end - self.size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
            about = os.fstatvfs(self.fd)
            if about.f_bavail * about.f_frsize < end - self.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            return  # nothing was taken, so it is asked again for the next line
        self.room_end = end

    def close(self) -> None:
        """Give back the room behind the last line, and the lock."""
        self._end_here()
        os.close(self.fd)
        self.fd = -1


def rotated_path(path: Path, first_seq: int) -> Path:
    """Return the name of an older file."""
    return path.with_name(f"{path.name}.{first_seq:012d}")


def rotated_files(path: Path) -> list[Path]:
    """Return the older files, the oldest first; raises OSError."""
    name = re.compile(re.escape(path.name) + r"\.([0-9]{12,18})")
    found = [
        (int(m[1]), entry) for entry in os.listdir(path.parent) if (m := name.fullmatch(entry))
    ]
    return [path.with_name(entry) for _, entry in sorted(found)]


def first_seq_of(path: Path) -> int:
    """Return the number of an older file's first line."""
    return int(path.name.rpartition(".")[2])


def open_active(path: Path, now_ns: int) -> tuple[ActiveFile, Head, list[Note]]:
    """Return the file to go on with, the last line so far, and what is to be told in the next ones.

    Raises OSError, and JobError (INSTANCE_IN_USE) where another server writes it.
    """
    make_private_directory(str(path.parent))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_partial(path))  # of a rotation that a crash has cut short
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _open_first(path, now_ns)
    _lock(fd, path)
    first = _first_line(fd)
    if first is None:  # empty, or cut within its first line
        rest = _torn_note(os.pread(fd, _BLOCK, 0))
        os.close(fd)
        os.unlink(path)
        file, head, notes = _open_first(path, now_ns)
        return file, head, [rest, *notes]
    first_seq, begun_ns = first
    _forget_double(path, fd, first_seq)
    head, size, notes = _read_end(fd)
    file = ActiveFile(fd, size, first_seq, begun_ns, size, os.fstat(fd).st_size > size)
    return file, head, notes


def create_file(
    path: Path, before: Head, previous: Path | None, oldest: int, room: int, now_ns: int
) -> tuple[ActiveFile, Head]:
    """Begin a new file in the place of the present one, which keeps its other name, if it has one.

    It is seen only once its first line is whole. Raises OSError with nothing changed.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_partial(path))
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = create_exclusive(_partial(path).name, directory)
    finally:
        os.close(directory)
    fields = {
        "event": "file",
        "continues": None if previous is None else previous.name,
        "oldest": oldest,
    }
    line, head = encode_line(before, now_ns, fields)
    file = ActiveFile(fd, 0, head.seq, now_ns)
    try:
        _lock(fd, path)
        file.take_room(len(line) + room)
        file.append(line)
        os.rename(_partial(path), path)
    except OSError:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(_partial(path))
        raise
    return file, head


def _open_first(path: Path, now_ns: int) -> tuple[ActiveFile, Head, list[Note]]:
    """Begin the first file, or the one after the last that there is."""
    older = rotated_files(path)
    if not older:
        file, head = create_file(path, GENESIS, None, 1, 0, now_ns)
        return file, head, []
    fd = os.open(older[-1], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        before, size, notes = _read_end(fd)
        if notes:
            os.ftruncate(fd, size)
    finally:
        os.close(fd)
    file, head = create_file(path, before, older[-1], first_seq_of(older[0]), 0, now_ns)
    return file, head, notes


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _lock(fd: int, path: Path) -> None:
    if not try_lock(fd):
        os.close(fd)
        raise JobError(
            Reason.INSTANCE_IN_USE,
            f"cannot write the audit {path}: another server does",
            "give each its own `path` in [audit]",
        )


def _forget_double(path: Path, fd: int, first_seq: int) -> None:
    # A crash came between the two steps of a rotation: it never happened.
    double = rotated_path(path, first_seq)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(double, follow_symlinks=False), os.fstat(fd)):
            os.unlink(double)


def _first_line(fd: int) -> tuple[int, int] | None:
    """Return number and time of the first line; None where there is no whole one."""
    line, end, _ = os.pread(fd, _BLOCK, 0).partition(b"\n")
    if not end:
        return None
    try:
        time = str(json.loads(line)["time"])
        return parse_line(line).head.seq, parse_instant_ns(time, 0)
    except (ValueError, KeyError, TypeError, JobError):
        return 0, 0  # damaged, which `jobd audit verify` tells


def _torn_note(torn: bytes) -> Note:
    return {
        "event": "recovered",
        "torn_bytes": len(torn),
        "torn_sha256": sha256(torn).hexdigest(),
        "torn": torn[:_SHOWN_TORN_BYTES].decode("ascii", "backslashreplace"),
    }


def _read_end(fd: int) -> tuple[Head, int, list[Note]]:
    """Return the last whole line, where it ends, and what is to be told of what comes after it."""
    data, start = _tail(fd)
    whole, end, torn = data.rpartition(b"\n")
    size = start + len(whole) + len(end)
    notes = [_torn_note(torn)] if torn else []
    head, event = _last_head(whole.split(b"\n"))
    if event != "server-stop":
        notes.append({"event": "crash", "after": event})
    return head, size, notes


def _tail(fd: int) -> tuple[bytes, int]:
    """Return the end of a file, with at least one whole line that can be read if there is one."""
    size = os.fstat(fd).st_size
    length = _BLOCK
    while True:
        start = max(0, size - length)
        data = os.pread(fd, size - start, start)
        first = data.find(b"\n") + 1 if start else 0
        if start == 0 or any(map(_is_line, data[first:].split(b"\n"))):
            return data[first:], start + first
        length *= 2


def _last_head(lines: Sequence[bytes]) -> tuple[Head, str]:
    # Behind a line that somebody has damaged the numbers go on as if it were whole.
    for behind, data in enumerate(reversed(lines)):
        if _is_line(data):
            line = parse_line(data)
            seq = line.head.seq + behind
            return (line.head, line.event) if not behind else (Head(seq, line.head.hash), "damage")
    return GENESIS, "damage"


def _is_line(data: bytes) -> bool:
    try:
        parse_line(data)
    except ValueError:
        return False
    return True
