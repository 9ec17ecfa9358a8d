"""The way of a job's output: into its log, and from there to a client."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from jobruntime.rpc.gen import service_pb2 as pb

from .figure import Figure, Goal, Rule, median
from .instance import BenchError, Instance, check_finished
from .options import Options

_LINE = b"".join(b"%d" % (n % 10) for n in range(99)) + b"\n"
_MB = 1_000_000
_START_S = 30
_STDERR = pb.LOG_STREAM_STDERR


def bench_capture(instance: Instance, options: Options) -> list[Figure]:
    """Measure how fast `cat FILE` runs as a job, from the call to Start until it has ended."""
    data = write_data(instance.directory / "data", options.size_bytes)
    copy = instance.directory / "copy"
    ours: list[float] = []
    base: list[float] = []
    for _ in range(options.rounds):
        begin = time.perf_counter()
        subprocess.run(["sh", "-c", f"cat {data} | cat > {copy}"], check=True)
        base.append(options.size_bytes / _MB / (time.perf_counter() - begin))
        copy.unlink()
        seconds, job_id = run_cat(instance, data)
        ours.append(options.size_bytes / _MB / seconds)
        instance.drop_log(job_id)  # else the disk fills, round by round
    data.unlink()
    figure = Figure(
        "capture",
        median(ours),
        "cat FILE | cat > FILE2",
        median(base),
        "MB/s",
        Goal(Rule.RATIO_AT_LEAST, 0.5),
    )
    return [figure]


def bench_writes(instance: Instance, options: Options) -> list[Figure]:
    """Measure how fast a job writes lines with a write for each, beside the same pipe into cat."""
    count = options.scaled(1_000_000)
    data = write_data(instance.directory / "data", count * len(_LINE))
    # It tells the time between its first write and its last itself, on stderr.
    writer = ["dd", f"if={data}", f"bs={len(_LINE)}"]
    ours: list[float] = []
    base: list[float] = []
    with instance.stub() as stub:
        for _ in range(options.rounds):
            with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
                env = {"LC_ALL": "C", "PATH": os.defpath}
                done = subprocess.run(
                    writer, stdout=cat.stdin, stderr=subprocess.PIPE, env=env, check=True
                )
            base.append(count / _dd_seconds(done.stderr) / 1000)
            job_id = stub.Start(pb.StartRequest(argv=writer, env={"LC_ALL": "C"})).job_id
            told = b"".join(
                entry.chunk.data
                for event in stub.Logs(pb.LogsRequest(job=job_id, follow=True, streams=[_STDERR]))
                for entry in event.batch.entries
            )
            ours.append(count / _dd_seconds(told) / 1000)
            instance.drop_log(job_id)
    data.unlink()
    return [
        Figure(
            "writes of 100 bytes by a job",
            median(ours),
            "into cat",
            median(base),
            "k/s",
            Goal(Rule.RATIO_AT_LEAST, 0.5),
        )
    ]


def _dd_seconds(told: bytes) -> float:
    found = re.search(rb"copied, ([0-9.e-]+) s", told)
    if found is None:
        raise BenchError(f"dd says {told!r}")
    return float(found[1])


def bench_replay(instance: Instance, options: Options) -> list[Figure]:
    """Measure how fast one client reads a whole log, as a process of its own."""
    data = write_data(instance.directory / "data", options.size_bytes)
    _, job_id = run_cat(instance, data)
    data.unlink()
    message_bytes = _message_bytes(instance, job_id)
    count = -(-options.size_bytes // message_bytes)
    forms: dict[str, list[float]] = {"raw": [], "text": [], "json": []}
    base: list[float] = []
    with _bare_server(instance, message_bytes, count) as address:
        read = [sys.executable, "-m", "bench.bare_stream", "read", str(instance.directory), address]
        for _ in range(options.rounds):
            base.append(_rate(read, count * message_bytes))
            for form, rates in forms.items():
                rates.append(_rate(instance.jobc("logs", "-o", form, job_id), options.size_bytes))
    instance.drop_log(job_id)
    raw = median(forms["raw"])
    bare = f"bare grpc.aio stream, {message_bytes / 1024:.0f} KiB each"
    return [
        Figure("raw replay", raw, bare, median(base), "MB/s", Goal(Rule.RATIO_AT_LEAST, 0.7)),
        Figure("replay as text", median(forms["text"]), "raw replay", raw, "MB/s"),
        Figure(
            "replay as JSON, lines of 100 bytes",
            median(forms["json"]) / len(_LINE),
            "raw replay",
            raw / len(_LINE),
            "M lines/s",
            Goal(Rule.RATIO_AT_LEAST, min(0.5, len(_LINE) / raw)),
        ),
    ]


def write_data(path: Path, size_bytes: int) -> Path:
    """Fill a file with lines of 100 bytes; everybody may read it."""
    block = _LINE * (_MB // len(_LINE))
    with open(path, "wb") as file:
        left = size_bytes
        while left > 0:
            left -= file.write(block[:left])
    path.chmod(0o644)
    return path


def run_cat(instance: Instance, data: Path) -> tuple[float, str]:
    """Run `cat` of a file as a job; return the seconds from Start to its end, and its id."""
    with instance.stub() as stub:
        begin = time.perf_counter()
        job_id = stub.Start(pb.StartRequest(argv=["cat", str(data)])).job_id
        instance.wait_released([job_id])
        seconds = time.perf_counter() - begin
        check_finished(stub, [job_id])
    if sum(path.stat().st_size for path in instance.log_of(job_id)) <= data.stat().st_size:
        raise BenchError(f"job {job_id} has not kept all of its output")
    return seconds, job_id


def _message_bytes(instance: Instance, job_id: str) -> int:
    """Return the mean size of the messages in which the job's output comes."""
    with instance.stub() as stub:
        sizes: list[int] = [
            event.ByteSize()
            for event in stub.Logs(pb.LogsRequest(job=job_id), timeout=600)
            if event.HasField("batch")
        ]
    return sum(sizes) // len(sizes)


@contextlib.contextmanager
def _bare_server(instance: Instance, message_bytes: int, count: int) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.bare_stream", "serve", str(instance.directory)]
    with subprocess.Popen(
        [*command, str(message_bytes), str(count)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            if server.stdout is None or not (port := server.stdout.readline().strip()):
                raise BenchError("cannot start the bare server")
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def _rate(command: list[str], size_bytes: int) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return size_bytes / _MB / (time.perf_counter() - begin)
