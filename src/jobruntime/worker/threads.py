"""Where calls that may wait for a disk are made, so that the event loop never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

_T = TypeVar("_T")


class Threads:
    """One thread for what is not safe in several (catalogue, owners), a few for files.

    And one for what may take long: deleting them.
    """

    def __init__(self) -> None:
        self._index = ThreadPoolExecutor(1, "index")
        self._files = ThreadPoolExecutor(4, "files")
        self._removal = ThreadPoolExecutor(1, "removal")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._index.shutdown()
        self._files.shutdown()
        self._removal.shutdown()

    async def in_index(self, call: Callable[[], _T]) -> _T:
        """Return what `call` returns, made in the one thread of the catalogue."""
        return await asyncio.get_running_loop().run_in_executor(self._index, call)

    async def in_files(self, call: Callable[[], _T]) -> _T:
        """Return what `call` returns, made in a thread for files."""
        return await asyncio.get_running_loop().run_in_executor(self._files, call)

    async def in_removal(self, call: Callable[[], _T]) -> _T:
        """Return what `call` returns, made in the one thread for removing files."""
        return await asyncio.get_running_loop().run_in_executor(self._removal, call)
