"""Starting jobs: how long one takes, and how many in a row."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import time

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import CHANNEL_OPTIONS, grpc

from .figure import Figure, Goal, Rule, median, percentile
from .instance import Instance, check_finished
from .options import Options

_TRUE = "/bin/true"
_PAUSE_S = 0.05
_STARTERS = 8
_WARMING = 5


def bench_start(instance: Instance, options: Options) -> list[Figure]:
    """Measure the time from a Start to its answer, which comes after exec has succeeded."""
    figures = []
    with instance.stub() as stub:
        for name, pause_s in (("back to back", 0.0), ("after 50 ms", _PAUSE_S)):
            count = options.scaled(300 if not pause_s else 100)
            ours, base = _start_in_pairs(instance, stub, count, pause_s)
            baseline = "posix_spawn + wait"
            figures += [
                Figure(
                    f"start, {name}, median",
                    median(ours),
                    baseline,
                    median(base),
                    "ms",
                    Goal(Rule.RATIO_AT_MOST, 5),
                ),
                Figure(
                    f"start, {name}, 90 of 100",
                    percentile(ours, 90),
                    baseline,
                    percentile(base, 90),
                    "ms",
                ),
            ]
        figures += _isolated(stub, instance, options)
    return figures


def _isolated(stub: JobServiceStub, instance: Instance, options: Options) -> list[Figure]:
    """Return what a start takes in a view of the job's own, beside one that is not isolated."""
    if shutil.which("bwrap") is None:
        print(" there is no bwrap here", end="", file=sys.stderr)
        return []
    ways = (pb.ISOLATION_NONE, pb.ISOLATION_NO_NETWORK)
    times: dict[int, list[float]] = {way: [] for way in ways}
    job_ids: list[str] = []
    for turn in range(options.scaled(100) + 5):
        for way in ways:
            took_ms, job_id = _start_ms(stub, way)
            job_ids.append(job_id)
            if turn >= _WARMING:
                times[way].append(took_ms)
    instance.wait_released(job_ids)
    check_finished(stub, job_ids)
    bare, isolated = (median(times[way]) for way in ways)
    return [Figure("start, isolated, median", isolated, "not isolated", bare, "ms")]


def _start_in_pairs(
    instance: Instance, stub: JobServiceStub, count: int, pause_s: float
) -> tuple[list[float], list[float]]:
    """Return the times of a start and of the baseline, in turns, each after the pause."""
    ours: list[float] = []
    base: list[float] = []
    job_ids: list[str] = []
    for turn in range(count + 10):
        time.sleep(pause_s)
        spawned = _spawn_ms()
        time.sleep(pause_s)
        started, job_id = _start_ms(stub)
        job_ids.append(job_id)
        if turn >= 10:  # the first ones warm up
            base.append(spawned)
            ours.append(started)
    instance.wait_released(job_ids)
    check_finished(stub, job_ids)
    return ours, base


def _spawn_ms() -> float:
    begin = time.perf_counter()
    pid = os.posix_spawn(_TRUE, [_TRUE], os.environ)
    os.waitpid(pid, 0)
    return (time.perf_counter() - begin) * 1000


def _start_ms(stub: JobServiceStub, way: pb.Isolation = pb.ISOLATION_NONE) -> tuple[float, str]:
    begin = time.perf_counter()
    response = stub.Start(pb.StartRequest(argv=[_TRUE], isolate=way))
    return (time.perf_counter() - begin) * 1000, response.job_id


def bench_starts(instance: Instance, options: Options) -> list[Figure]:
    """Measure how many jobs a second are started and end, with several starters at a time."""
    count = options.scaled(200)
    ours: list[float] = []
    base: list[float] = []
    _run_starters(instance, 20)
    for _ in range(options.rounds):
        base.append(_xargs_rate(count))
        ours.append(_run_starters(instance, count))
    figure = Figure(
        f"starts, {_STARTERS} at a time",
        median(ours),
        "xargs -P2 -n1 true",
        median(base),
        "/s",
        Goal(Rule.RATIO_AT_LEAST, 0.35),
    )
    return [figure]


def _xargs_rate(count: int) -> float:
    begin = time.perf_counter()
    subprocess.run(
        ["xargs", "-P2", "-n1", _TRUE], input=b"x\n" * count, check=True, stdout=subprocess.DEVNULL
    )
    return count / (time.perf_counter() - begin)


def _run_starters(instance: Instance, count: int) -> float:
    begin = time.perf_counter()
    job_ids = asyncio.run(_start_many(instance, count))
    instance.wait_released(job_ids)
    rate = count / (time.perf_counter() - begin)
    with instance.stub() as stub:
        check_finished(stub, job_ids)
    return rate


async def _start_many(instance: Instance, count: int) -> list[str]:
    """Return the ids of `count` new jobs, started by several at a time over one channel."""
    job_ids: list[str] = []
    turns = itertools.count()
    async with grpc.aio.secure_channel(
        instance.address, instance.credentials(), CHANNEL_OPTIONS
    ) as channel:
        stub = JobServiceStub(channel)

        async def start_in_turn() -> None:
            while next(turns) < count:
                response = await stub.Start(pb.StartRequest(argv=[_TRUE]))
                job_ids.append(response.job_id)

        async with asyncio.TaskGroup() as group:
            for _ in range(_STARTERS):
                group.create_task(start_in_turn())
    return job_ids
