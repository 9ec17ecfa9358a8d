"""Request ids and names that a start under way has spoken for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..model.errors import JobError, Reason
from ..model.spec import JobSpec


class Reservations:
    """Keeps two starts at once from using one request id or one name twice."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], asyncio.Future[str | None]] = {}
        self._names: set[tuple[str, str]] = set()

    @asynccontextmanager
    async def held(self, owner: str, spec: JobSpec) -> AsyncIterator[str | None]:
        """Hold the spec's request id and name while its job is started.

        Gives the id of the job that a start at the same time made with this request id, or None.
        Raises JobError (NAME_IN_USE).
        """
        request = None if spec.request_id is None else (owner, spec.request_id)
        while request is not None and request in self._requests:
            job_id = await asyncio.shield(self._requests[request])
            if job_id is not None:
                yield job_id
                return
        name = None if spec.name is None else (owner, spec.name)
        if name in self._names:
            raise JobError(
                Reason.NAME_IN_USE,
                f"cannot start two jobs named {spec.name!r} at once",
                "choose another name",
            )
        if name is not None:
            self._names.add(name)
        if request is not None:
            self._requests[request] = asyncio.get_running_loop().create_future()
        try:
            yield None
        finally:
            if name is not None:
                self._names.discard(name)
            if request is not None:
                future = self._requests.pop(request)
                if not future.done():
                    future.set_result(None)

    def keep(self, owner: str, spec: JobSpec, job_id: str) -> None:
        """Tell those who wait with the same request id which job it made."""
        if spec.request_id is not None:
            future = self._requests.get((owner, spec.request_id))
            if future is not None and not future.done():
                future.set_result(job_id)
