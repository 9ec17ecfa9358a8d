"""Which file a start would execute, and what the entries of a role's `commands` stand for."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, TypeVar

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.programs import DEFAULT_PATH, program_candidates
from jobruntime.model.spec import JobSpec

_T = TypeVar("_T")
_MAX_LINKS: Final = 40  # as the kernel's (path_resolution(7))
_AT_ONCE: Final = 8
_PATIENCE_S: Final = 10.0


class Programs:
    """Looks at the host's files in threads of its own: a file system that hangs costs no more.

    Where jobs run as other users than the server (`for_others`), it sees only what everybody can
    reach. Else its answers would tell callers of files that their jobs cannot see.
    """

    def __init__(self, *, for_others: bool) -> None:
        self._for_others = for_others
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def look(
        self, spec: JobSpec, commands: Iterable[str]
    ) -> tuple[str | None, dict[str, str]]:
        """Return the file that `spec` means, or None, and each of `commands` that is there.

        All of them absolute and without links. Raises JobError (RESOURCE_EXHAUSTED) where the host
        does not answer.
        """
        entries = list(commands)
        return await self._apart(
            lambda: (find_program(spec, for_others=self._for_others), resolve_all(entries))
        )

    async def _apart(self, call: Callable[[], _T]) -> _T:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._room.acquire()
                return await _in_thread(call, self._room.release)
        except TimeoutError as error:
            raise JobError(
                Reason.RESOURCE_EXHAUSTED,
                "cannot tell which program is meant: the host has not answered for "
                f"{_PATIENCE_S:.0f} s",
                "try again later; the operator should look for a file system that hangs",
            ) from error


async def _in_thread(call: Callable[[], _T], release: Callable[[], None]) -> _T:
    """Return what `call` returns in a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def take(result: _T | None, error: Exception | None) -> None:
        release()
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type] # it is there without an error

    def run() -> None:
        result: _T | None = None
        failure: Exception | None = None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - the thread's boundary: it is raised in the loop
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(take, result, failure)

    threading.Thread(target=run, name="programs", daemon=True).start()
    return await answer


def find_program(spec: JobSpec, *, for_others: bool) -> str | None:
    """Return the first file in the order of the start's own search that can be executed, or None.

    What is relative starts at the working directory; without one it is in the job's own, which does
    not exist yet.
    """
    path = dict(spec.env).get("PATH", DEFAULT_PATH)
    for candidate in program_candidates(spec.argv[0], path):
        place = os.fsdecode(candidate)
        if not place.startswith("/"):
            if spec.working_directory is None:
                continue
            place = os.path.join(spec.working_directory, place)
        found = resolve(place, for_others=for_others)
        if found is not None and _is_executable(found):
            return found
    return None


def resolve_all(entries: Iterable[str]) -> dict[str, str]:
    """Return each entry of a role's `commands` that is there, with what it stands for."""
    found = {entry: resolve(entry, for_others=False) for entry in entries}
    return {entry: place for entry, place in found.items() if place is not None}


def resolve(path: str, *, for_others: bool) -> str | None:
    """Return the absolute `path` without links and dots; None where it leads to nothing.

    With `for_others` also where not everybody may pass a directory on the way.
    """
    place, left, links = "/", _parts(path), 0
    while left:
        part = left.pop()
        if part == "..":
            place = os.path.dirname(place)
            continue
        here = os.path.join(place, part)
        try:
            mode = os.lstat(here).st_mode
            target = os.readlink(here) if stat.S_ISLNK(mode) else None
        except (OSError, ValueError):  # ValueError: a NUL
            return None
        if target is not None:
            links += 1
            if links > _MAX_LINKS:
                return None
            place = "/" if target.startswith("/") else place
            left += _parts(target)
            continue
        if stat.S_ISDIR(mode) and for_others and not mode & stat.S_IXOTH:
            return None
        place = here
    return place


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _is_executable(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def open_to_others(entry: str) -> list[str]:
    """Return what of a role's `commands` others than root could replace or change, as paths.

    That is the entry, what it stands for, and every directory on the way.
    """
    found: list[str] = []
    ends = dict.fromkeys((entry.rstrip("/"), resolve(entry, for_others=False) or ""))
    for path in ends:
        while path and path != "/":
            with suppress(OSError):
                status = os.stat(path)
                # On the way, nobody can replace what is not his own in a sticky directory; but to
                # one that stands for all below it anybody adds a program.
                loose = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                on_the_way = not entry.endswith("/") or path not in ends
                sticky = (
                    on_the_way and stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
                )
                if (loose and not sticky) or status.st_uid not in (0, os.geteuid()):
                    found.append(path)
            path = os.path.dirname(path)
    return sorted(set(found))
