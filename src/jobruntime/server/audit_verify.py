"""Finds what somebody has changed, removed, reordered or cut in an audit."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from jobruntime.model.audit_lines import GENESIS, Head, Line, parse_line
from jobruntime.worker.audit_files import rotated_files

_MAX_LINE_BYTES: Final = 8 << 20
_TRIES: Final = 100
_PAUSE_S: Final = 0.01

_Named = tuple[str, BinaryIO]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where: the line's number in its file, from 1 on."""

    file: str
    line: int
    cause: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.cause}"


@dataclass(slots=True)
class Findings:
    """What a look at the files gave."""

    files: list[str] = field(default_factory=list)
    lines: int = 0
    first_seq: int | None = None
    head: Head | None = None
    faults: list[Fault] = field(default_factory=list)


def files_of(path: Path) -> list[Path]:
    """Return the files of the audit at `path`, the oldest first; raises OSError."""
    return [*rotated_files(path), *([path] if os.path.lexists(path) else [])]


def verify_audit(
    paths: Sequence[Path], wanted: tuple[int | None, str] | None = None, *, is_whole: bool = True
) -> Findings:
    """Look at all lines of the files, the oldest first; `wanted` is a head to be found there.

    With `is_whole`, they should be all that are kept. Raises OSError where a file cannot be read.
    """
    return _verify(_one_by_one(paths), wanted, is_whole=is_whole)


def verify_kept(path: Path, wanted: tuple[int | None, str] | None = None) -> Findings:
    """Look at all lines of the audit at `path`, which a server may be writing; raises OSError."""
    with contextlib.ExitStack() as stack:
        return _verify(_open_all(path, stack), wanted, is_whole=True)


def _one_by_one(paths: Iterable[Path]) -> Iterator[_Named]:
    for path in paths:
        with path.open("rb") as file:
            yield str(path), file


def _open_all(path: Path, stack: contextlib.ExitStack) -> list[_Named]:
    """Return the files of one moment: no rotation came while they were opened."""
    for _ in range(_TRIES):
        names = files_of(path)
        with contextlib.ExitStack() as opened, contextlib.suppress(FileNotFoundError):
            files: list[_Named] = [
                (str(name), opened.enter_context(name.open("rb"))) for name in names
            ]
            if _are_all(path, names, files):
                stack.push(opened.pop_all())
                return files
        time.sleep(_PAUSE_S)
    raise OSError(errno.EBUSY, "its files change all the time", str(path))


def _are_all(path: Path, names: list[Path], files: list[_Named]) -> bool:
    """Tell whether these are still the files; raises FileNotFoundError.

    With the same names another file may be there as the last. It cannot have its inode, as that
    one is open.
    """
    if files_of(path) != names:
        return False
    return path not in names or os.path.samestat(path.stat(), os.fstat(files[-1][1].fileno()))


def _verify(
    files: Iterable[_Named], wanted: tuple[int | None, str] | None, *, is_whole: bool
) -> Findings:
    chain = _Chain(None if wanted is None else wanted[1])
    seen: set[tuple[int, int]] = set()
    for name, file in files:
        about = os.fstat(file.fileno())
        if (about.st_dev, about.st_ino) in seen:
            continue  # a rotation is going on: one file, two names
        seen.add((about.st_dev, about.st_ino))
        chain.take_file(name, file)
    if is_whole:
        chain.check_beginning()
    chain.check_wanted(wanted)
    return chain.findings


class _Chain:
    def __init__(self, wanted_hash: str | None) -> None:
        self.findings = Findings()
        self._wanted_hash = wanted_hash
        self._found_seq: int | None = None
        self._before: Head | None = None
        self._oldest: int | None = None
        self._first_place = ("", 0)

    def take_file(self, name: str, file: BinaryIO) -> None:
        self.findings.files.append(name)
        number = 0
        while data := file.readline(_MAX_LINE_BYTES):
            number += 1
            self._take(name, number, data)
        if number == 0:
            self._fault(name, 1, "the file is empty")

    def _take(self, name: str, number: int, data: bytes) -> None:
        self.findings.lines += 1
        try:
            line = parse_line(data.removesuffix(b"\n"))
        except ValueError as error:
            cause = f"it was changed: {error}"
            if not data.endswith(b"\n"):
                cause = (
                    "it is cut off: either its end was removed, or jobd was killed while it wrote, "
                    "which its next start records"
                )
            self._fault(name, number, cause)
            self._before = None if self._before is None else Head(self._before.seq + 1, "")
            return
        if not data.endswith(b"\n"):
            self._fault(name, number, "its end was changed: there is no line feed")
        if number == 1 and line.event != "file":
            self._fault(name, 1, "the file's first lines were removed: it begins with another")
        if line.oldest is not None:
            self._oldest = line.oldest
        self._link(name, number, line)

    def _link(self, name: str, number: int, line: Line) -> None:
        before = self._before
        if before is None:
            if self.findings.first_seq is None:
                self.findings.first_seq = line.head.seq
                self._first_place = (name, number)
                if line.head.seq == 1 and line.prev != GENESIS.hash:
                    self._fault(name, number, "it is the first of all, and refers to another")
        elif line.head.seq != before.seq + 1:
            self._fault(name, number, _order_fault(before.seq, line.head.seq))
        elif before.hash and line.prev != before.hash:
            self._fault(name, number, "the line before it is another than when it was written")
        self._before = self.findings.head = line.head
        if line.head.hash == self._wanted_hash:
            self._found_seq = line.head.seq

    def check_beginning(self) -> None:
        """Compare the first line with what the last file's first line says is kept."""
        first, oldest = self.findings.first_seq, self._oldest
        if first is not None and oldest is not None and first > oldest:
            name, number = self._first_place
            self._fault(name, number, f"lines {oldest} to {first - 1} before it were removed")

    def check_wanted(self, wanted: tuple[int | None, str] | None) -> None:
        if wanted is None:
            return
        seq, first = wanted[0], self.findings.first_seq
        name = self.findings.files[-1] if self.findings.files else ""
        if self._found_seq is not None:
            if seq not in (None, self._found_seq):
                cause = f"the head's hash is that of line {self._found_seq}, and it tells of {seq}"
                self._fault(name, self.findings.lines, cause)
            return
        last = 0 if self.findings.head is None else self.findings.head.seq
        if seq is not None and first is not None and seq < first:
            cause = f"the head's line {seq} is older than the first one here, {first}"
        elif seq is not None and seq > last:
            cause = f"lines {last + 1} to {seq}, which the head tells of, were removed"
        else:
            cause = "the line that the head tells of is not here: it was removed or changed"
        self._fault(name, self.findings.lines, cause)

    def _fault(self, name: str, number: int, cause: str) -> None:
        self.findings.faults.append(Fault(name, number, cause))


def _order_fault(before: int, seq: int) -> str:
    if seq > before + 2:
        return f"lines {before + 1} to {seq - 1} are missing before it"
    if seq == before + 2:
        return f"line {before + 1} is missing before it"
    return f"it is line {seq}, and stands behind line {before}"
