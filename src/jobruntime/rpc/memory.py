"""The allocator's setting for programs that send and receive messages of a megabyte."""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_BYTES: Final = 32 * 1024 * 1024
_TRIM_BYTES: Final = 64 * 1024 * 1024


def keep_large_blocks() -> None:
    """Have malloc use freed memory of message size again instead of giving it back each time.

    By default glibc maps each such block anew, and every 4 KiB of it is a page fault: encoding a
    message of 1 MiB then takes ten times as long. At most 64 MiB stay with the process
    (mallopt(3)). Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
