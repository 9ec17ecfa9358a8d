"""Trial jobs: started, watched and ended, whatever comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from jobruntime.model.cause import cause_of
from jobruntime.model.errors import JobError
from jobruntime.model.frames import Chunk, Stream
from jobruntime.model.limits import NO_LIMITS, Limits
from jobruntime.model.state import format_state
from jobruntime.model.usage import Usage
from jobruntime.worker import JobSpec, JobStatus, LogBatch, LogQuery
from jobruntime.worker.trial import BY, Trial

_OWNER: Final = "doctor"
_LONGEST_MS: Final = 60_000
"""A trial job ends by itself, too: a doctor that is killed leaves none running."""
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trial job ended, and what it has said."""

    status: JobStatus
    chunks: tuple[Chunk, ...]

    @property
    def stdout(self) -> str:
        """All of its standard output."""
        return _text(self.chunks, Stream.STDOUT)

    @property
    def complaint(self) -> str:
        """The first line on its standard error, else how it ended."""
        lines = _text(self.chunks, Stream.STDERR).splitlines()
        return lines[0] if lines else self.end

    @property
    def end(self) -> str:
        """How it ended, in words."""
        return describe_end(self.status)

    @property
    def usage(self) -> Usage:
        """Its receipt."""
        return self.status.usage or Usage()

    @property
    def between_s(self) -> float:
        """The time between its first and its last word on standard output."""
        times = [chunk.time_ns for chunk in self.chunks if chunk.stream is Stream.STDOUT]
        return (max(times) - min(times)) / 1e9 if times else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What a job had used at one moment."""

    at_s: float
    usage: Usage


class Bench:
    """Runs trial jobs."""

    def __init__(self, trial: Trial) -> None:
        """Take the open trial."""
        self.trial = trial
        self._worker = trial.worker

    @contextlib.asynccontextmanager
    async def running(self, *argv: str, limits: Limits = NO_LIMITS) -> AsyncIterator[str]:
        """Start a job and give its id; it is killed at the end of the block. Raises JobError."""
        spec = JobSpec(
            argv=argv,
            env=(("LC_ALL", "C"),),
            grace_ms=0,
            timeout_ms=_LONGEST_MS,
            limits=limits,
        )
        starting = asyncio.ensure_future(self._worker.start(spec, owner=_OWNER))
        try:
            yield await asyncio.shield(starting)
        finally:
            # It goes on where this is cancelled meanwhile; there is no job where it has failed.
            with contextlib.suppress(JobError):
                await self._worker.stop(await starting, by=BY)

    async def run(self, *argv: str, limits: Limits = NO_LIMITS) -> Ended:
        """Run a job to its end. Raises JobError."""
        async with self.running(*argv, limits=limits) as job_id:
            status = await self._worker.wait(job_id)
            return Ended(status, await self._output(job_id))

    async def sample(self, job_id: str) -> Sample:
        """Return what the job has used so far."""
        usage, _ = await self._worker.stats(job_id)
        return Sample(time.monotonic(), usage)

    async def wait_until(
        self, job_id: str, condition: Callable[[Usage], bool], within_s: float
    ) -> Usage:
        """Return what the job uses once `condition` holds, or after so long; look for yourself."""
        give_up_at = time.monotonic() + within_s
        while True:
            found = await self.sample(job_id)
            if condition(found.usage) or found.at_s >= give_up_at:
                return found.usage
            await asyncio.sleep(_LOOK_S)

    async def wait_word(self, job_id: str) -> None:
        """Return once the job has written something."""
        async for event in self._worker.logs(job_id):
            if isinstance(event, LogBatch) and event.entries:
                return

    async def pause(self, job_id: str) -> None:
        """Hold the job still."""
        await self._worker.pause(job_id)

    async def resume(self, job_id: str) -> None:
        """Let it go on."""
        await self._worker.resume(job_id)

    async def stop(self, job_id: str, grace_ms: int) -> JobStatus:
        """End the job as a caller would."""
        return await self._worker.stop(job_id, by=BY, grace_ms=grace_ms)

    def has_group(self, job_id: str) -> bool:
        """Return whether the job's cgroup is still there."""
        group = self.trial.group_of(job_id)
        return group is not None and os.path.isdir(group)

    async def _output(self, job_id: str, *, follow: bool = True) -> tuple[Chunk, ...]:
        chunks: list[Chunk] = []
        async for event in self._worker.logs(job_id, LogQuery(follow=follow)):
            if isinstance(event, LogBatch):
                chunks += [entry for entry in event.entries if isinstance(entry, Chunk)]
        return tuple(chunks)


def describe_end(status: JobStatus) -> str:
    """Return how a job ended and why, in words."""
    return f"{format_state(status.state, status.outcome)}, {cause_of(status)}"


def _text(chunks: tuple[Chunk, ...], stream: Stream) -> str:
    return b"".join(chunk.data for chunk in chunks if chunk.stream is stream).decode(
        errors="replace"
    )
