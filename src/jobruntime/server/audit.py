"""The record of calls on disk: lines chained by hashes, in files that follow one another.

Room for lines to come is taken on the disk ahead of time, so that what changes something can be
refused before it does where its line could not be written. docs/audit.md describes the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from jobruntime import __version__
from jobruntime.model.audit_lines import encode_line
from jobruntime.model.errors import JobError, Reason
from jobruntime.worker.audit_files import (
    create_file,
    first_seq_of,
    open_active,
    rotated_files,
    rotated_path,
)

from .config_audit import Argv, AuditConfig

_logger = logging.getLogger(__name__)

HELD_BYTES: Final = 256 * 1024
"""Room that only calls that change something, and were let in, may use."""
_RETRY_BYTES: Final = 64 * 1024


class AuditLog:
    """Writes the lines, at once and in the caller's thread; another one brings them to the disk."""

    def __init__(self, config: AuditConfig) -> None:
        """Go on where the files end, and tell of a crash.

        Raises JobError: CONFIG_INVALID, INSTANCE_IN_USE.
        """
        self._config = config
        self._pending_bytes = 0
        self._lost = 0
        self._failed_sync = self._told = self._dirty = False
        self._rotate_at = config.max_bytes
        self._syncing = asyncio.Lock()
        self._unsynced: list[int] = []
        self.at_close: set[Callable[[], None]] = set()
        """What calls that are still going on have to say before the last line."""
        with _reporting(config.path):
            self._file, self._head, notes = open_active(config.path, time.time_ns())
            self._take_room(HELD_BYTES)
            for note in notes:
                self._put(note)
            self._put({"event": "server-start", "version": __version__, "pid": os.getpid()})

    @property
    def argv(self) -> Argv:
        """What of a started job's command shall be written."""
        return self._config.argv

    def reserve(self, room_bytes: int) -> None:
        """Make sure that a line of this size can be written later, or refuse the call.

        Raises JobError (AUDIT_UNAVAILABLE). `release` gives the room back.
        """
        if self._failed_sync:
            raise _unavailable("its lines do not reach the disk")
        try:
            self._take_room(room_bytes)
        except OSError as error:
            self._tell(error)
            raise _unavailable(error.strerror or str(error)) from error
        self._pending_bytes += room_bytes

    def release(self, room_bytes: int) -> None:
        """Give reserved room back, for the line that is written now."""
        self._pending_bytes -= room_bytes

    def write(self, fields: Mapping[str, object], *, is_reserved: bool = False) -> int | None:
        """Write one line; return its number, or None where it could not be written.

        How many could not is written as soon as something can be again.
        """
        try:
            if not is_reserved:
                self._take_room(_RETRY_BYTES, spare_held=True)
            if self._lost:
                self._put({"event": "gap", "lost": self._lost})
                self._lost = 0
            self._put(fields)
        except OSError as error:
            self._lost += 1
            self._tell(error)
            return None
        self._told = False
        return self._head.seq

    async def settle(self) -> None:
        """Return when what was written is as safe as the configuration asks for."""
        if self._config.sync_ms == 0:
            await self._sync()

    async def keep_synced(self) -> None:
        """Bring lines to the disk, again and again."""
        while True:
            await asyncio.sleep((self._config.sync_ms or 1000) / 1000)
            await self._sync()

    async def close(self) -> None:
        """Write that the server ends, and bring all to the disk."""
        for say in list(self.at_close):
            say()
        self.write({"event": "server-stop"}, is_reserved=True)
        await self._sync()
        for fd in self._unsynced:
            os.close(fd)
        self._unsynced = []
        self._file.close()

    # -- the disk

    async def _sync(self) -> None:
        async with self._syncing:
            if not self._dirty:
                return
            older, self._unsynced, self._dirty = self._unsynced, [], False
            is_done = False
            try:
                await _sync_copy(self._file.fd, older)
                self._failed_sync, is_done = False, True
            except OSError as error:  # of the disk, or no descriptor is left
                self._failed_sync = True
                self._tell(error)
            finally:
                # Also where the caller gave up meanwhile: the next try takes what is left.
                self._dirty |= not is_done
                self._unsynced[:0] = _still_named(older)

    def _put(self, fields: Mapping[str, object]) -> None:
        self._rotate_if_due()
        line, head = encode_line(self._head, time.time_ns(), fields)
        self._file.append(line)
        self._head = head
        self._dirty = True

    def _take_room(self, room_bytes: int, *, spare_held: bool = False) -> None:
        """Have so much room beside what others reserved; raises OSError.

        With `spare_held`, the held room must be there as well.
        """
        file = self._file
        needed = file.size + self._pending_bytes + room_bytes
        if needed + HELD_BYTES <= file.room_end:
            return
        try:
            file.take_room(needed + 2 * HELD_BYTES)
        except OSError:
            if spare_held or needed > file.room_end:
                raise

    def _tell(self, error: OSError) -> None:
        if not self._told:
            _logger.error("cannot write the audit %s: %s", self._config.path, error)
        self._told = True

    # -- one file after the other

    def _rotate_if_due(self) -> None:
        age_ms = self._config.age_ms
        is_old = age_ms is not None and time.time_ns() - self._file.begun_ns > age_ms * 1_000_000
        if self._file.size < self._rotate_at and not is_old:
            return
        try:
            self._rotate()
            self._rotate_at = self._config.max_bytes
        except OSError as error:
            self._rotate_at = self._file.size + _RETRY_BYTES
            self._file.begun_ns = time.time_ns()
            self._tell(error)

    def _rotate(self) -> None:
        path, old, keep = self._config.path, self._file, self._config.keep
        old_path = rotated_path(path, old.first_seq)
        kept = [*rotated_files(path), old_path]
        surplus = max(0, len(kept) - keep)
        kept, gone = kept[surplus:], kept[:surplus]
        oldest = first_seq_of(kept[0]) if kept else self._head.seq + 1
        copy = os.dup(old.fd)  # first: where no descriptor is left, nothing has changed
        try:
            self._switch(old_path, oldest)
        except OSError:
            os.close(copy)
            raise
        self._unsynced.append(copy)
        old.close()
        for file in gone:
            os.unlink(file)

    def _switch(self, old_path: Path, oldest: int) -> None:
        """Give the file its other name, and go on in a new one; raises OSError."""
        path, room_bytes = self._config.path, self._pending_bytes + 2 * HELD_BYTES
        os.link(path, old_path)
        try:
            self._file, self._head = create_file(
                path, self._head, old_path, oldest, room_bytes, time.time_ns()
            )
        except OSError:
            os.unlink(old_path)
            raise


@contextlib.asynccontextmanager
async def open_audit(config: AuditConfig) -> AsyncIterator[AuditLog]:
    """Open the record of calls, and bring it to the disk until the end."""
    audit = AuditLog(config)
    syncing = asyncio.create_task(audit.keep_synced())
    try:
        yield audit
    finally:
        syncing.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await syncing
        finally:
            await audit.close()


async def _sync_copy(fd: int, older: list[int]) -> None:
    """Bring the older files to the disk, and this one; raises OSError.

    Those that are done are closed and leave the list.
    """
    copy = os.dup(fd)  # a rotation may close the file meanwhile
    try:
        while older:
            await asyncio.to_thread(os.fdatasync, older[0])
            os.close(older.pop(0))
        await asyncio.to_thread(os.fdatasync, copy)
    finally:
        os.close(copy)


def _still_named(fds: list[int]) -> list[int]:
    """Close those whose files were removed, which nobody can read any more; return the others.

    So there are never more of them than files are kept, however long the disk fails.
    """
    named = []
    for fd in fds:
        if os.fstat(fd).st_nlink:
            named.append(fd)
        else:
            os.close(fd)
    return named


def _unavailable(cause: str) -> JobError:
    return JobError(
        Reason.AUDIT_UNAVAILABLE,
        f"cannot do it: no record can be written of it ({cause.lower()})",
        "free space on the server's host; the operator finds more in the server's log",
    )


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot write the audit {path}: {(error.strerror or str(error)).lower()}",
            f"free space, let uid {os.geteuid()} write in its directory, or name another `path` in "
            "[audit]",
        ) from error
