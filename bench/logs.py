"""Followers and places: how soon output is there, what a follower costs, how fast it is found."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import CHANNEL_OPTIONS, grpc

from .figure import Figure, Goal, Rule, median, percentile
from .instance import BenchError, Instance, check_finished
from .options import Options

_TICK_HZ = os.sysconf("SC_CLK_TCK")
_CHANNELS = 8
_MIB = 1 << 20
_TICKER = """n=0; while [ $n -lt $0 ]; do date +%s%N; sleep 0.1; n=$((n + 1)); done"""


def bench_latency(instance: Instance, options: Options) -> list[Figure]:
    """Measure the time from a job's write to the line in a follower, at 10 lines a second."""
    count = options.scaled(200)
    with instance.stub() as stub:
        # The baseline: the same writer into a pipe that this process reads.
        base = _pipe_latencies(count)
        job_id = stub.Start(pb.StartRequest(argv=_ticker(count))).job_id
        ours = []
        for event in stub.Logs(pb.LogsRequest(job=job_id, follow=True)):
            now_ns = time.time_ns()
            for entry in event.batch.entries:
                ours += [(now_ns - int(word)) / 1e6 for word in entry.chunk.data.split()]
    if len(ours) != count:
        raise BenchError(f"{len(ours)} of {count} lines came")
    return [
        Figure(
            f"from write to follower, {name}",
            percentile(ours, percent),
            "a pipe",
            percentile(base, percent),
            "ms",
            Goal(Rule.VALUE_AT_MOST, goal),
        )
        for name, percent, goal in (("median", 50, 2.0), ("99 of 100", 99, 10.0))
    ]


def _ticker(count: int) -> list[str]:
    return ["sh", "-c", _TICKER, str(count)]


def _pipe_latencies(count: int) -> list[float]:
    reader, writer = os.pipe()
    file_actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
    words = _ticker(count)
    pid = os.posix_spawnp(words[0], words, {"PATH": os.defpath}, file_actions=file_actions)
    os.close(writer)
    found = []
    while data := os.read(reader, 4096):
        now_ns = time.time_ns()
        found += [(now_ns - int(word)) / 1e6 for word in data.split()]
    os.close(reader)
    os.waitpid(pid, 0)
    return found


def bench_idle(instance: Instance, options: Options) -> list[Figure]:
    """Measure the server's CPU time while one follower waits for a silent job."""
    seconds = 10 * min(1.0, options.scale)
    with instance.stub() as stub:
        job_id = stub.Start(pb.StartRequest(argv=["sleep", "600"])).job_id
        time.sleep(1)
        base = _cpu_over(instance.pid, seconds)
        call = stub.Logs(pb.LogsRequest(job=job_id, follow=True))
        thread = threading.Thread(target=_drain, args=(call,))
        thread.start()
        time.sleep(1)
        ours = _cpu_over(instance.pid, seconds)
        stub.Stop(pb.StopRequest(job=job_id))
        thread.join()
    # A clock tick more on both sides: a baseline of nothing has no ratio.
    tick = 1000 / _TICK_HZ
    name = f"CPU of jobd in {seconds:g} s, idle follower"
    return [Figure(name, ours + tick, "no follower", base + tick, "ms")]


def _drain(call: grpc.Call) -> None:
    for _ in call:  # type: ignore[attr-defined] # the stubs do not say that it iterates
        pass


def _cpu_over(pid: int, seconds: float) -> float:
    before = _cpu_ticks(pid)
    time.sleep(seconds)
    return (_cpu_ticks(pid) - before) * 1000 / _TICK_HZ


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def bench_followers(instance: Instance, options: Options) -> list[Figure]:
    """Measure what many followers of one job cost the server; all of them get every byte."""
    count, lines = options.scaled(1000), options.scaled(300)
    with instance.stub() as stub:
        warm = stub.Start(pb.StartRequest(argv=_ticker(3))).job_id
        job_id = stub.Start(pb.StartRequest(argv=_ticker(lines))).job_id
        before, peak, cpus, outputs = asyncio.run(_measure(instance, warm, job_id, count))
        check_finished(stub, [job_id])
        messages = stub.Logs(pb.LogsRequest(job=job_id))
        whole = b"".join(entry.chunk.data for m in messages for entry in m.batch.entries)
    if outputs != {whole: count} or whole.count(b"\n") != lines:
        raise BenchError("not every follower has had every byte")
    return [
        Figure(
            f"memory of jobd for each of {count} followers",
            (peak - before) / count / 1024,
            "the server without them",
            before / 1024,
            "KiB",
            Goal(Rule.VALUE_AT_MOST, 50),
        ),
        Figure(
            f"CPU of jobd for {count} followers of 10 lines/s",
            cpus,
            "one CPU",
            1,
            "CPUs",
        ),
    ]


async def _measure(
    instance: Instance, warm: str, job_id: str, count: int
) -> tuple[int, int, float, dict[bytes, int]]:
    """Return the server's memory before and at its peak, its CPUs, and who had which bytes."""
    # Grown by what every server needs once, before it is measured.
    await _follow(instance, warm, 20)
    before, cpu, begin = _pss(instance.pid), _cpu_ticks(instance.pid), time.perf_counter()
    peak, outputs = await _follow(instance, job_id, count)
    cpu_s = (_cpu_ticks(instance.pid) - cpu) / _TICK_HZ
    return before, peak, cpu_s / (time.perf_counter() - begin), outputs


async def _follow(instance: Instance, job_id: str, count: int) -> tuple[int, dict[bytes, int]]:
    """Follow the job so many times; return the server's peak memory and who had which bytes."""
    outputs: dict[bytes, int] = {}
    channels = [
        # Each a connection of its own: channels of equal arguments share one.
        grpc.aio.secure_channel(
            instance.address,
            instance.credentials(),
            [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)],
        )
        for _ in range(min(_CHANNELS, count))
    ]
    peak = 0

    async def follow(stub: JobServiceStub) -> None:
        data = bytearray()
        is_whole = False
        call = stub.Logs(pb.LogsRequest(job=job_id, follow=True))
        async for message in call:
            for entry in message.batch.entries:
                data += entry.chunk.data
            is_whole = message.HasField("end") and message.end.complete
        key = bytes(data) if is_whole else b"cut off"
        outputs[key] = outputs.get(key, 0) + 1

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, _pss(instance.pid))
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    stubs = [JobServiceStub(channel) for channel in channels]
    await asyncio.gather(*(follow(stubs[n % len(stubs)]) for n in range(count)))
    watching.cancel()
    for channel in channels:
        await channel.close()
    return peak, outputs


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchError("the kernel tells no PSS")


def bench_tail(instance: Instance, options: Options) -> list[Figure]:
    """Measure how long last lines and a time take in a long log, beside those in a short one."""
    sizes = {"long": int(10 * 1024 * _MIB * min(1.0, options.scale)), "short": _MIB}
    figures = []
    with instance.stub() as stub:
        jobs = {}
        for name, size in sizes.items():
            script = f"yes {'x' * 99} | head -n {size // 100}"
            jobs[name] = stub.Start(pb.StartRequest(argv=["sh", "-c", script])).job_id
            for _ in stub.Logs(pb.LogsRequest(job=jobs[name], follow=True, tail_lines=0)):
                pass
        middles = {name: _middle(stub, job_id) for name, job_id in jobs.items()}
        for what in ("last 10 lines", "10 lines since the middle"):
            taken: dict[str, list[float]] = {name: [] for name in jobs}
            read = {}
            for name, job_id in jobs.items():
                _forget(instance.log_of(job_id))
                before = _read_bytes(instance.pid)
                _ask(stub, job_id, what, middles[name])
                read[name] = _read_bytes(instance.pid) - before
            for _ in range(options.scaled(50)):
                for name, job_id in jobs.items():
                    begin = time.perf_counter()
                    _ask(stub, job_id, what, middles[name])
                    taken[name].append((time.perf_counter() - begin) * 1000)
            figures += [
                Figure(
                    f"{what} of {sizes['long'] / 1024 / _MIB:.2g} GiB",
                    median(taken["long"]),
                    "of 1 MiB",
                    median(taken["short"]),
                    "ms",
                    Goal(Rule.RATIO_AT_MOST, 2),
                ),
                Figure(
                    "   read for that from a cold disk",
                    read["long"] / 1024,
                    "of 1 MiB",
                    read["short"] / 1024,
                    "KiB",
                ),
            ]
        for job_id in jobs.values():
            instance.drop_log(job_id)
    return figures


def _ask(stub: JobServiceStub, job_id: str, what: str, middle_ns: int) -> None:
    request = pb.LogsRequest(job=job_id, tail_lines=10)
    if "since" in what:
        request = pb.LogsRequest(job=job_id)
        request.since.FromNanoseconds(middle_ns)
    call = stub.Logs(request)
    lines = 0
    for message in call:
        lines += sum(entry.chunk.data.count(b"\n") for entry in message.batch.entries)
        if lines >= 10:
            break
    else:
        raise BenchError("the lines did not come")
    call.cancel()


def _middle(stub: JobServiceStub, job_id: str) -> int:
    """Return a time halfway between the log's first and last frames."""
    times = []
    for tail in (None, 1):
        call = stub.Logs(pb.LogsRequest(job=job_id, tail_lines=tail))
        entries = (entry for message in call for entry in message.batch.entries)
        times.append(int(next(entries).chunk.time_ns))
        call.cancel()
    return sum(times) // 2


def _forget(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise BenchError("the kernel does not tell what was read")
