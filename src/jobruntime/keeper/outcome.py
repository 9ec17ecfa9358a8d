"""The record of a job's end."""

from __future__ import annotations

import os
from typing import Final, Self

from ..linux.files import create_exclusive, write_all
from ..model.protocol import OUTCOME_FILE, PARTIAL_OUTCOME_FILE


class OutcomeFile:
    """The record of the end, its room reserved at the start so that a full disk can't lose it."""

    _RESERVED_BYTES: Final = 4096

    def __init__(self, directory: int, fd: int) -> None:
        """Take the reserved file in the job's directory."""
        self._directory = directory
        self.fd = fd

    @classmethod
    def reserve(cls, directory: int) -> Self:
        """Reserve the room in the job's directory; raises OSError with nothing left behind."""
        file = cls(directory, create_exclusive(PARTIAL_OUTCOME_FILE, directory))
        try:
            os.posix_fallocate(file.fd, 0, cls._RESERVED_BYTES)
        except OSError:
            file.discard()
            raise
        return file

    def write(self, record: bytes) -> None:
        """Put `record` in place; it is whole and on disk when this returns.

        Its name may not be: after a crash of the host, recovery takes a whole record under the
        partial name for what it is, which saves each job's end a second wait for the disk.
        """
        os.lseek(self.fd, 0, os.SEEK_SET)
        write_all(self.fd, record)
        os.ftruncate(self.fd, len(record))
        os.fsync(self.fd)
        os.rename(
            PARTIAL_OUTCOME_FILE,
            OUTCOME_FILE,
            src_dir_fd=self._directory,
            dst_dir_fd=self._directory,
        )
        os.close(self.fd)

    def discard(self) -> None:
        """Give the room back: the job never started."""
        os.close(self.fd)
        os.unlink(PARTIAL_OUTCOME_FILE, dir_fd=self._directory)
