"""The record of a job's end."""

from __future__ import annotations

import os
from typing import Final

from ..linux.files import create_exclusive, write_all
from ..model.protocol import OUTCOME_FILE


class OutcomeFile:
    """The record of the end, its room reserved at the start so that a full disk can't lose it."""

    _RESERVED_BYTES: Final = 4096
    _PARTIAL: Final = f"{OUTCOME_FILE}.new"

    def __init__(self, directory: int) -> None:
        """Reserve the room in the job's directory; raises OSError with nothing left behind."""
        self._directory = directory
        self._fd = create_exclusive(self._PARTIAL, directory)
        try:
            os.posix_fallocate(self._fd, 0, self._RESERVED_BYTES)
        except OSError:
            self.discard()
            raise

    def write(self, record: bytes) -> None:
        """Put `record` in place, whole and on disk when this returns."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        write_all(self._fd, record)
        os.ftruncate(self._fd, len(record))
        os.fsync(self._fd)
        os.rename(
            self._PARTIAL, OUTCOME_FILE, src_dir_fd=self._directory, dst_dir_fd=self._directory
        )
        os.fsync(self._directory)
        self.close()

    def close(self) -> None:
        """Close this process's descriptor."""
        os.close(self._fd)

    def discard(self) -> None:
        """Give the room back: the job never started."""
        self.close()
        os.unlink(self._PARTIAL, dir_fd=self._directory)
