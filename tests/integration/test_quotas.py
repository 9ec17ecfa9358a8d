"""Quotas over real jobs: never one too many, and nothing lost of them by a restart."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.model.access import Verb
from jobruntime.model.log_policy import LogPolicy
from jobruntime.model.quota import NO_QUOTA
from jobruntime.worker import (
    JobError,
    JobSpec,
    LocalWorker,
    LogBatch,
    LogEnd,
    Quota,
    Reason,
    Settings,
    Share,
    Terms,
)
from tests.support import processes_of

SLEEP = ("sleep", "600")
MIB = 1 << 20
RULE = "role user's quota"
DEADLINE_S = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of an instance of the test's own, whose jobs are ended whatever the test leaves."""
    settings = Settings(state_dir=str(tmp_path / "state"), runtime_dir=str(tmp_path / "run"))
    yield settings
    asyncio.run(end(settings))


async def end(settings: Settings) -> None:
    async with LocalWorker(settings) as worker:
        await worker.stop_all(by="the test's end")
        await worker.retire()


async def start(
    worker: LocalWorker, quota: Quota | None, *argv: str, owner: str = "ann", **fields: object
) -> str:
    spec = JobSpec(argv=argv or SLEEP, grace_ms=0, **fields)  # type: ignore[arg-type]
    return await worker.start(spec, owner=owner, terms=Terms("user", quota=quota or NO_QUOTA))


async def start_many(worker: LocalWorker, quota: Quota, count: int) -> tuple[list[str], list[str]]:
    """Start so many at once; return the ids of those that run, and what the others were told."""
    results = await asyncio.gather(
        *(start(worker, quota) for _ in range(count)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, JobError)]
    assert {error.reason for error in refused} <= {Reason.RESOURCE_EXHAUSTED}
    assert len(refused) + sum(isinstance(result, str) for result in results) == count
    return [r for r in results if isinstance(r, str)], [str(error) for error in refused]


def test_of_200_starts_at_once_exactly_as_many_run_as_the_quota_has(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            before = await start(worker, None)
            others = asyncio.gather(*(start(worker, None, owner="bob") for _ in range(3)))
            jobs, told = await start_many(worker, Quota(jobs=5), 200)
            await others
            assert len(jobs) == 4
            assert set(told) == {
                f"cannot start a job: {RULE} jobs = 5 is used up, 5 run or start; "
                "stop one, or ask the operator for a larger quota"
            }
            mine = {status.job_id for status in worker.running if status.owner == "ann"}
            assert mine == {before, *jobs}
            assert len(os.listdir(worker.instance.jobs_dir)) == 8  # and nothing of the refused

    asyncio.run(run())


def test_jobs_of_before_a_restart_count_and_their_end_makes_room(settings: Settings) -> None:
    quota = Quota(jobs=5)

    async def fill() -> list[str]:
        async with LocalWorker(settings) as worker:
            return (await start_many(worker, quota, 8))[0]

    async def refill(jobs: list[str]) -> None:
        async with LocalWorker(settings) as worker:
            assert await start_many(worker, quota, 20) == ([], [TOLD] * 20)
            await worker.stop(jobs[0], by="ann")  # as soon as this returns, there is room
            assert len((await start_many(worker, quota, 200))[0]) == 1
            assert len(worker.running) == 5

    jobs = asyncio.run(fill())
    assert len(jobs) == 5
    asyncio.run(refill(jobs))


TOLD = (
    f"cannot start a job: {RULE} jobs = 5 is used up, 5 run or start; "
    "stop one, or ask the operator for a larger quota"
)


def test_starts_that_fail_give_back_what_they_took(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            quota = Quota(jobs=2, log_bytes=2 * MIB)
            log = LogPolicy(MIB)
            for _ in range(4):
                with pytest.raises(JobError) as failed:
                    await start(worker, quota, "no-such-program", log=log)
                assert failed.value.reason is Reason.PROGRAM_NOT_FOUND
            assert await start(worker, quota, log=log)

    asyncio.run(run())


def test_a_retry_that_finds_its_job_is_no_start_of_another(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            quota = Quota(jobs=1, starts_per_second=0.001)
            job = await start(worker, quota, request_id="r")
            again = await asyncio.gather(
                *(start(worker, quota, request_id="r") for _ in range(50)),
            )
            assert set(again) == {job}
            with pytest.raises(JobError, match="jobs = 1"):
                await start(worker, quota, request_id="other")
            await worker.stop(job, by="ann")
            assert await start(worker, quota, request_id="r") == job  # also of one that has ended
            with pytest.raises(JobError, match=r"starts per second = 0\.001 is used up"):
                await start(worker, quota, request_id="other")

    asyncio.run(run())


def test_many_retries_of_one_request_at_once_take_one_jobs_room(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            quota = Quota(jobs=1, starts_per_second=1)
            jobs = await asyncio.gather(
                *(start(worker, quota, request_id="r") for _ in range(50)),
            )
            assert len(set(jobs)) == len(worker.running) == 1

    asyncio.run(run())


def test_the_rate_holds_for_any_number_of_starts_at_once(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            jobs, told = await start_many(worker, Quota(starts_per_second=0.5), 200)
            assert len(jobs) == 1
            assert all("quota starts per second = 0.5 is used up; try again in" in t for t in told)

    asyncio.run(run())


def test_logs_count_with_their_bounds_and_then_with_what_they_have(settings: Settings) -> None:
    quota, log = Quota(log_bytes=8 * MIB), LogPolicy(4 * MIB)

    async def fill() -> str:
        async with LocalWorker(settings) as worker:
            with pytest.raises(JobError, match="give --log-max"):
                await start(worker, quota)
            chatter = ("head", "-c", str(2 * MIB), "/dev/zero")
            job = await start(worker, quota, *chatter, log=log)
            sleeper = await start(worker, quota, log=log)
            await ended(worker, job)
            with pytest.raises(JobError, match=r"quota log = 8 MiB has .*left") as refused:
                await start(worker, quota, log=log)
            assert "jobc prune" in refused.value.remedy
            assert await start(worker, quota, log=LogPolicy(MIB)) != sleeper
            return job

    async def prune(job: str) -> None:
        async with LocalWorker(settings) as worker:
            with pytest.raises(JobError, match="quota log = 8 MiB"):
                await start(worker, quota, log=LogPolicy(3 * MIB))
            await worker.remove(job)
            assert await start(worker, quota, log=LogPolicy(3 * MIB))

    asyncio.run(prune(asyncio.run(fill())))


def test_what_a_job_has_left_over_is_free_from_the_moment_on_that_its_end_is_told(
    settings: Settings,
) -> None:
    quota, log = Quota(log_bytes=3 * MIB), LogPolicy(2 * MIB)

    async def run() -> None:
        async with LocalWorker(settings) as worker:
            for _ in range(40):
                job = await start(worker, quota, log=log)
                await worker.stop(job, by="ann")
                spec = JobSpec(argv=("true",), log=log)
                await worker.plan(spec, owner="ann", terms=Terms("user", quota=quota))

    asyncio.run(run())


async def ended(worker: LocalWorker, job: str) -> None:
    """Wait until the job has ended and its log is measured."""
    await worker.wait(job)
    if live := worker._live.get(job):
        async with asyncio.timeout(DEADLINE_S):
            await live.retired.wait()


# -- shares, as the library has them


def test_a_share_outlives_a_restart_and_so_does_its_end(settings: Settings) -> None:
    async def share() -> tuple[str, str]:
        async with LocalWorker(settings) as worker:
            shares = (Share("bob", (Verb.LOGS,)),)
            live = await start(worker, None, shares=shares, request_id="r")
            over = await start(worker, None, "true", shares=shares)
            await ended(worker, over)
            return live, over

    async def check(jobs: tuple[str, str], *, shared: bool) -> None:
        async with LocalWorker(settings) as worker:
            for job in jobs:
                if shared:
                    assert (await worker.status(job[:13], owner="bob")).job_id == job
                    status = await worker.share(job, owner="ann", take=["bob"])
                    assert status.shares == ()
                with pytest.raises(JobError) as refused:
                    await worker.status(job, owner="bob")
                assert refused.value.reason is Reason.JOB_NOT_FOUND
            # What the job was started with is still the same request.
            asked = (Share("bob", (Verb.LOGS,)),)
            assert await start(worker, None, shares=asked, request_id="r") == jobs[0]

    jobs = asyncio.run(share())
    asyncio.run(check(jobs, shared=True))
    asyncio.run(check(jobs, shared=False))
    os.unlink(f"{settings.state_dir}/catalogue.sqlite")  # filled anew from the files
    asyncio.run(check(jobs, shared=False))


def test_an_index_that_is_older_than_the_record_shares_nothing(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            shares = (Share("bob", (Verb.LOGS,)),)
            job = await start(worker, None, "true", shares=shares)
            await ended(worker, job)
            assert (await worker.status(job, owner="bob")).job_id == job
            await worker.share(job, owner="ann", take=["bob"])
            # As after a crash of the host, which the index does not wait for the disk for.
            record, _ = await worker._lookup.look_up(job)
            worker._catalogue.share(record, shares)
            for reference in (job, job[:13]):
                with pytest.raises(JobError) as refused:
                    await worker.status(reference, owner="bob")
                assert refused.value.reason is Reason.JOB_NOT_FOUND
                assert job not in refused.value.message or reference == job

    asyncio.run(run())


def test_whoever_follows_by_a_share_is_cut_off_when_it_is_taken_back(settings: Settings) -> None:
    async def follow(worker: LocalWorker, job: str, reader: str, seen: asyncio.Event) -> int:
        size = 0
        async for event in worker.logs(job, owner=reader):
            if isinstance(event, LogBatch):
                seen.set()
                size += len(event.entries)
            else:
                assert isinstance(event, LogEnd)
        return size

    async def run() -> None:
        async with LocalWorker(settings) as worker, asyncio.timeout(DEADLINE_S):
            shares = (Share("bob", (Verb.LOGS,)), Share("carol", (Verb.LOGS,)))
            # Silent after its first line: nothing but the change itself can end the reading.
            job = await start(worker, None, "sh", "-c", "echo; exec sleep 600", shares=shares)
            seen = {name: asyncio.Event() for name in ("ann", "bob", "carol")}
            reading = {
                name: asyncio.ensure_future(follow(worker, job, name, event))
                for name, event in seen.items()
            }
            await asyncio.gather(*(event.wait() for event in seen.values()))
            await worker.share(job, owner="ann", take=["bob"])
            with pytest.raises(JobError) as cut:
                await reading["bob"]
            assert cut.value.reason is Reason.JOB_NOT_FOUND
            await worker.share(job, owner="ann", give=[Share("carol", (Verb.STOP,))])
            with pytest.raises(JobError):
                await reading["carol"]
            status = await worker.stop(job, by="carol", owner="carol")
            assert status.stop_requested is not None
            assert status.stop_requested.by == "carol"
            assert await reading["ann"] == 1
            assert not worker._sharing._readings
            assert not processes_of(job)

    asyncio.run(run())
