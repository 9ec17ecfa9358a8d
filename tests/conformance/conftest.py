"""The engines that the conformance tests run on; another one is added to `ENGINES`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import pytest

from jobruntime.server.search import compile_search
from jobruntime.worker import LocalWorker, Settings, Worker

Engine = Callable[[], AbstractAsyncContextManager[Worker]]
"""Opens the engine, each time on the same jobs; leaving it leaves them alone."""


def local(directory: Path) -> Iterator[Engine]:
    """Give the engine of one host; end what a test has left."""
    settings = Settings(state_dir=f"{directory}/state", runtime_dir=f"{directory}/run")
    yield lambda: LocalWorker(settings, compile_search)

    async def end() -> None:
        async with LocalWorker(settings) as worker:
            await worker.stop_all(by="the test's end")
            await worker.retire()

    asyncio.run(end())


ENGINES: Final = {"local": local}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """One engine after the other."""
    yield from ENGINES[request.param](tmp_path)
