"""Quotas of memory and CPUs, over jobs whose limits the kernel holds."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from jobruntime.model.limits import UNLIMITED, Limits
from jobruntime.worker import (
    NO_TERMS,
    JobError,
    JobSpec,
    LocalWorker,
    Quota,
    Reason,
    Settings,
    Terms,
)
from tests.support import MIB

QUOTA = Quota(cpu_millis=1000, memory_bytes=80 * MIB)
TERMS = Terms("user", quota=QUOTA)
RULE = "role user's quota"
SMALL = Limits(cpu_millis=100, memory_bytes=16 * MIB)


async def start(worker: LocalWorker, limits: Limits = SMALL) -> str:
    spec = JobSpec(argv=("sleep", "600"), grace_ms=0, limits=limits)
    return await worker.start(spec, owner="ann", terms=TERMS)


async def update(worker: LocalWorker, job: str, limits: Limits, terms: Terms = TERMS) -> None:
    await worker.update(job, limits, terms=terms)


async def refusal(call: Awaitable[object]) -> JobError:
    with pytest.raises(JobError) as refused:
        await call
    return refused.value


async def fill(settings: Settings) -> list[str]:
    """Start as many jobs as the quota takes, 200 being asked for at once."""
    async with LocalWorker(settings) as worker:
        results = await asyncio.gather(*(start(worker) for _ in range(200)), return_exceptions=True)
        jobs = [result for result in results if isinstance(result, str)]
        told = {str(result) for result in results if not isinstance(result, str)}
        assert len(jobs) == 5
        assert told == {
            f"cannot start a job with --memory 16 MiB: {RULE} memory = 80 MiB has 0 B left, "
            "80 MiB are taken; give a smaller --memory, stop some, or ask the operator for a "
            "larger quota"
        }
        return jobs


async def change(settings: Settings, jobs: list[str]) -> None:
    """Change the limits of those jobs, which an earlier worker has started."""
    async with LocalWorker(settings) as worker:
        one, other = jobs[:2]
        assert "has 0 B left" in str(await refusal(start(worker)))
        error = await refusal(update(worker, one, Limits(memory_bytes=17 * MIB)))
        assert error.reason is Reason.RESOURCE_EXHAUSTED
        assert f"cannot update job {one} with --memory 17 MiB: {RULE} memory" in error.message
        error = await refusal(update(worker, one, Limits(memory_bytes=UNLIMITED)))
        assert error.reason is Reason.LIMIT_ABOVE_CEILING
        # Of two that want what a third gives back, one has it.
        await update(worker, jobs[2], Limits(memory_bytes=8 * MIB))
        results = await asyncio.gather(
            *(update(worker, job, Limits(memory_bytes=24 * MIB)) for job in (one, other)),
            return_exceptions=True,
        )
        assert sum(result is None for result in results) == 1
        memory = [status.limits.memory_bytes or 0 for status in worker.running]
        assert sum(memory) == 80 * MIB
        # An administrator's change is not held to the owner's quota, and counts.
        await update(worker, other, Limits(memory_bytes=64 * MIB), terms=NO_TERMS)
        assert "has 0 B left" in str(await refusal(start(worker)))
        await worker.stop_all(by="the test")
        await worker.retire()


def test_a_quota_of_memory_holds_at_starts_updates_and_over_a_restart(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path / "state"), runtime_dir=str(tmp_path / "run"))
    asyncio.run(change(settings, asyncio.run(fill(settings))))


def test_with_a_quota_each_job_needs_a_limit_of_its_own_or_a_default(tmp_path: Path) -> None:
    settings = Settings(
        state_dir=str(tmp_path / "state"),
        runtime_dir=str(tmp_path / "run"),
        default_limits=Limits(cpu_millis=600),
    )

    async def run() -> None:
        async with LocalWorker(settings) as worker:
            error = await refusal(start(worker, Limits()))
            assert (error.reason, error.remedy) == (Reason.LIMIT_ABOVE_CEILING, "give --memory")
            await start(worker, Limits(memory_bytes=MIB * 16))
            error = await refusal(start(worker, Limits(memory_bytes=MIB * 16)))
            assert f"--cpus 0.6: {RULE} cpus = 1 has 0.4 left, 0.6 are taken" in error.message
            await start(worker, Limits(memory_bytes=MIB * 16, cpu_millis=400))
            await worker.stop_all(by="the test")
            await worker.retire()

    asyncio.run(run())
