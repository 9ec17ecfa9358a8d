"""The worker library in this very process: the whole engine, and nothing of gRPC."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from jobruntime.model.frames import Chunk, Stream
from jobruntime.model.log_query import LogQuery
from jobruntime.worker import (
    Exited,
    JobError,
    JobSpec,
    LocalWorker,
    LogBatch,
    LogEnd,
    Reason,
    Settings,
    Signaled,
    State,
)
from jobruntime.worker.instance import Instance, lock_holder
from tests.support import all_pids, command_of, processes_of

ROOT = Path(__file__).parent.parent.parent
STDOUT = frozenset({Stream.STDOUT})


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of an instance of the test's own, which is ended whatever the test leaves."""
    settings = Settings(state_dir=str(tmp_path / "state"), runtime_dir=str(tmp_path / "run"))
    yield settings
    instance = asyncio.run(end(settings))
    assert instance.cgroup_root is None or not Path(instance.cgroup_root).exists()
    assert not any(instance.runtime_dir in command_of(pid) for pid in all_pids())


async def end(settings: Settings) -> Instance:
    """End all of an instance's jobs and its spawner."""
    async with LocalWorker(settings) as worker:
        await worker.stop_all(by="the test's end")
        await worker.retire()
        return worker.instance


async def read(worker: LocalWorker, job: str, **options: object) -> tuple[bytes, LogEnd]:
    parts: list[bytes] = []
    async with aclosing(worker.logs(job, **options)) as events:  # type: ignore[arg-type,type-var]
        async for event in events:
            match event:
                case LogBatch(entries):
                    parts += [getattr(entry, "data", b"") for entry in entries]
                case LogEnd():
                    return b"".join(parts), event
    raise AssertionError("no end")


def find_half(block: bytes) -> list[tuple[int, int]]:
    """Return where lines with `half` lie."""
    begin = block.rfind(b"\n", 0, max(0, block.find(b"half"))) + 1
    end = block.find(b"\n", begin) + 1 or len(block)
    return [(begin, end)] if b"half" in block else []


def test_a_reading_is_not_told_as_whole_where_the_job_ended_after_its_last_look(
    settings: Settings,
) -> None:
    async def run() -> None:
        async with LocalWorker(settings, compile_search=lambda pattern: find_half) as worker:
            script = "printf half; until [ -e go ]; do sleep 0.02; done; echo and the rest"
            job = await worker.start(JobSpec(argv=("sh", "-c", script)), owner="ann")
            async with aclosing(worker.logs(job)) as events:  # type: ignore[type-var]
                await anext(events)
            query = LogQuery(follow=False, grep="half")
            async with aclosing(worker.logs(job, query)) as events:  # type: ignore[type-var]
                assert isinstance(await anext(events), LogBatch)
                os.mkdir(f"{worker.instance.work_dir}/{job}/go")
                await worker.wait(job)  # while the reader has not taken more
                end = await anext(events)
            assert isinstance(end, LogEnd)
            assert end.sent_stdout_bytes == len("half")
            assert not end.complete
            assert end.status.state is State.RUNNING
            data, end = await read(worker, job, query=query)
            assert (data, end.complete) == (b"halfand the rest\n", True)

    asyncio.run(run())


async def start_and_stop(worker: LocalWorker) -> tuple[str, int]:
    """Have a job write `early`, half a line, and later the rest; return the time between."""
    script = "trap 'echo late; exit 0' TERM; printf 'early\\nhalf'; while :; do sleep 0.01; done"
    job = await worker.start(JobSpec(argv=("sh", "-c", script)), owner="me")
    seen, time_ns = b"", 0
    async for event in worker.logs(job):
        if isinstance(event, LogBatch) and not seen.endswith(b"half"):
            for entry in event.entries:
                assert isinstance(entry, Chunk)
                seen, time_ns = seen + entry.data, entry.time_ns
            if seen == b"early\nhalf":
                await worker.stop(job, by="me")
    return job, time_ns


def test_a_reading_that_ends_at_a_time_can_be_gone_on_with_behind_that_time(
    settings: Settings,
) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            job, time_ns = await start_and_stop(worker)
            data, end = await read(worker, job, query=LogQuery(until_ns=time_ns, streams=STDOUT))
            assert (data, end.totals.stdout_bytes, end.complete) == (b"early\nhalf", 10, True)
            rest, _ = await read(worker, job, query=LogQuery(cursor=end.cursor, streams=STDOUT))
            assert rest == b"late\n"
            await worker.retire()

    asyncio.run(run())


def test_the_last_lines_are_found_once_and_gone_on_with_from_there(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            script = "trap 'echo late; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
            job = await worker.start(JobSpec(argv=("sh", "-c", script)), owner="me")
            async with aclosing(worker.logs(job)) as events:  # type: ignore[type-var]
                await anext(events)
            query = LogQuery(tail_lines=0, streams=STDOUT)
            async with aclosing(worker.logs(job, query)) as events:  # type: ignore[type-var]
                first = await anext(events)
            assert isinstance(first, LogBatch)
            assert first.entries == ()
            await worker.stop(job, by="me")
            # Whoever has lost the connection by now has missed nothing.
            data, _ = await read(worker, job, query=replace(query, cursor=first.cursor))
            assert data == b"late\n"
            await worker.retire()

    asyncio.run(run())


def test_a_search_up_to_a_time_finds_also_the_line_that_has_not_ended_by_then(
    settings: Settings,
) -> None:
    async def run() -> None:
        async with LocalWorker(settings, compile_search=lambda pattern: find_half) as worker:
            job, time_ns = await start_and_stop(worker)
            data, _ = await read(worker, job, query=LogQuery(grep="half", until_ns=time_ns))
            assert data == b"half"
            await worker.retire()

    asyncio.run(run())


def test_a_job_is_started_followed_waited_for_and_stopped(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            job = await worker.start(JobSpec(argv=("sh", "-c", "echo hi; exit 3")), owner="me")
            data, end = await read(worker, job)
            assert (data, end.complete, end.totals.stdout_bytes) == (b"hi\n", True, 3)
            status = await worker.wait(job)
            assert (status.state, status.outcome) == (State.TERMINATED, Exited(3))
            assert end.status == status

            sleeper = await worker.start(JobSpec(argv=("sleep", "600")), owner="me")
            assert (await worker.status(sleeper[:20])).state is State.RUNNING
            waiting = asyncio.ensure_future(worker.wait(sleeper))
            stopped = await worker.stop(sleeper, by="me")
            assert stopped.outcome == Signaled(15)
            assert await waiting == stopped
            assert not processes_of(sleeper)
            await worker.retire()

    asyncio.run(run())


def test_another_owners_job_answers_as_one_that_does_not_exist(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            job = await worker.start(JobSpec(argv=("true",)), owner="me")
            await worker.wait(job)
            absent = "0" * 8 + job[8:]
            for call in (worker.status, worker.wait):
                with pytest.raises(JobError) as refused:
                    await call(job, owner="you")
                with pytest.raises(JobError) as missing:
                    await call(absent, owner="you")
                assert refused.value.reason is missing.value.reason is Reason.JOB_NOT_FOUND
                assert str(refused.value).replace(job, absent) == str(missing.value)

    asyncio.run(run())


def test_a_second_worker_on_the_same_directory_is_refused(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            with pytest.raises(JobError) as refused:
                await LocalWorker(settings).__aenter__()
            assert refused.value.reason is Reason.INSTANCE_IN_USE
            assert f"process {os.getpid()} serves it already" in refused.value.message
            # The first one is unharmed, and others still see who serves.
            assert holder_seen_by_another_process(settings.state_dir) == os.getpid()
            job = await worker.start(JobSpec(argv=("true",)), owner="me")
            assert (await worker.wait(job)).outcome == Exited(0)
        async with LocalWorker(settings) as again:
            assert (await again.status(job)).outcome == Exited(0)

    asyncio.run(run())


def test_a_later_worker_finds_the_jobs_of_an_earlier_one(settings: Settings) -> None:
    script = "echo one; sleep 0.3; echo two; exec sleep 600"

    async def start() -> str:
        async with LocalWorker(settings) as worker:
            return await worker.start(JobSpec(argv=("sh", "-c", script), name="n"), owner="me")

    async def find(job: str) -> None:
        async with LocalWorker(settings) as worker:
            status = await worker.status("n", owner="me")
            assert (status.job_id, status.state) == (job, State.RUNNING)
            assert (await worker.stop(job, by="me", grace_ms=5000)).outcome == Signaled(15)
            data, end = await read(worker, job)
            assert data in (b"one\n", b"one\ntwo\n")
            assert end.complete

    asyncio.run(find(asyncio.run(start())))


def test_a_failed_start_raises_and_leaves_nothing(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            with pytest.raises(JobError) as failed:
                await worker.start(JobSpec(argv=("no-such-program",)), owner="me")
            assert failed.value.reason is Reason.PROGRAM_NOT_FOUND
            assert os.listdir(worker.instance.jobs_dir) == []

    asyncio.run(run())


def test_many_starts_at_once_all_get_their_own_job(settings: Settings) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            specs = [JobSpec(argv=("echo", str(n))) for n in range(40)]
            jobs = await asyncio.gather(*(worker.start(spec, owner="me") for spec in specs))
            logs = await asyncio.gather(*(read(worker, job) for job in jobs))
            assert [data for data, _ in logs] == [b"%d\n" % n for n in range(40)]

    asyncio.run(run())


def test_a_reader_that_goes_away_in_the_middle_leaves_worker_and_job_alone(
    settings: Settings,
) -> None:
    async def run() -> None:
        async with LocalWorker(settings) as worker:
            job = await worker.start(
                JobSpec(argv=("sh", "-c", "seq 100000; exec sleep 9")), owner="me"
            )
            for _ in range(5):
                events = worker.logs(job)
                await anext(events)
                await events.aclose()  # type: ignore[attr-defined]
            assert (await worker.status(job)).state is State.RUNNING
            await worker.stop(job, by="me", grace_ms=0)
            data, _ = await read(worker, job)
            assert b"\n".join(b"%d" % n for n in range(1, 100_001)).startswith(data[:-1])

    asyncio.run(run())


def holder_seen_by_another_process(state_dir: str) -> int | None:
    """Return `lock_holder` as another process has it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(lock_holder, state_dir).result(timeout=30)


def run_isolated(code: str) -> set[str]:
    """Return the modules that are loaded after `code` in a bare interpreter."""
    source = ROOT / "src"
    script = f"import sys; sys.path.append({str(source)!r}); {code}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, timeout=30, check=True
    )
    return set(done.stdout.decode().split())


def test_the_library_loads_neither_grpc_nor_anything_else_from_outside() -> None:
    modules = run_isolated("import jobruntime.worker")
    assert not modules & {"grpc", "google", "cryptography", "jobruntime.server", "jobruntime.rpc"}


def test_what_keepers_share_is_small() -> None:
    modules = run_isolated("import jobruntime.keeper.spawner")
    large = {"asyncio", "grpc", "ssl", "logging", "threading", "concurrent", "sqlite3", "google"}
    large.add("unicodedata")
    assert not modules & large
    assert "jobruntime.worker" not in modules


def test_the_example_of_embedding_runs_without_an_installation() -> None:
    done = subprocess.run(
        [sys.executable, "-S", ROOT / "examples/embed.py"],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[:4] == ["1", "2", "3", "-- exited with 4, log complete: True"]
    assert lines[4].endswith(" is running")
    assert lines[5] == "-- ended by signal 15"
    assert lines[6].startswith("-- PROGRAM_NOT_FOUND: cannot execute 'no-such-program'")


def test_a_reserve_larger_than_the_disk_is_refused(settings: Settings) -> None:
    async def run() -> None:
        with pytest.raises(JobError, match="cannot keep") as caught:
            async with LocalWorker(replace(settings, log_reserve_bytes=1 << 60)):
                pass
        assert caught.value.reason is Reason.CONFIG_INVALID

    asyncio.run(run())
