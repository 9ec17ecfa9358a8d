"""What a job uses, told while it runs; the receipt that stays with it; and the advice."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import cast

from jobruntime.rpc.gen import service_pb2 as pb
from tests.limits.payloads import hoard, limits, taking, wait_output
from tests.support import DEADLINE_S, MIB, Api, Client, Instance, eventually

NOW_ONLY = {"memory_bytes", "swap_bytes", "pids"}


def names(usage: pb.Usage) -> set[str]:
    return {field.name for field, _ in usage.ListFields()}


def counted_by(group: Path) -> set[str]:
    """Return the fields that the files of a job's group can fill."""
    files = {
        "memory.peak": "memory_peak_bytes",
        "memory.swap.peak": "swap_peak_bytes",
        "pids.peak": "pids_peak",
    }
    absent = {field for file, field in files.items() if not (group / file).exists()}
    return {field.name for field in pb.Usage.DESCRIPTOR.fields} - absent


def test_all_that_a_job_uses_is_told_live_and_stays_as_its_receipt(
    shared: Instance, disk: Path, api: Api, jobs_group: Path
) -> None:
    write = "dd if=/dev/zero of=file bs=64k count=32 oflag=direct"
    read = "dd if=file of=/dev/null bs=64k iflag=direct"
    spin = "n=0; while [ $n -lt 30000 ]; do n=$((n + 1)); done"
    script = (
        f"sleep 600 & {hoard(16 * MIB)}; {spin}; {{ {write}; {read}; }} 2>/dev/null; echo used; "
        "until [ -e end ]; do sleep 0.05; done; kill $!; x=; exit 4"
    )
    bounds = limits(memory_bytes=128 * MIB, pids=10, cpu_millis=500)
    began_s = time.monotonic()
    job = api.start("sh", "-c", script, limits=bounds)
    wait_output(api, job, b"used\n")
    usage = api.usage(job)
    fields = counted_by(jobs_group / job)
    assert {field for field in fields - {"wall_ns"} if usage.HasField(field)} == fields - {
        "wall_ns"
    }
    assert 0 < usage.wall_ns <= (time.monotonic() - began_s) * 1e9 + 1e8
    assert 0 < usage.cpu_us <= usage.wall_ns / 1000
    # Each of the two is rounded.
    assert abs(usage.cpu_user_us + usage.cpu_system_us - usage.cpu_us) <= 2
    assert usage.cpu_throttled_periods > 0
    assert usage.cpu_throttled_us > 0
    assert 16 * MIB < usage.memory_bytes <= usage.memory_peak_bytes < 128 * MIB
    assert 2 <= usage.pids <= 3
    # Beside the data of its file also programs that had to be read.
    assert 2 * MIB <= usage.io_write_bytes < 4 * MIB
    assert usage.io_read_bytes >= 2 * MIB
    assert usage.io_writes >= 32
    assert usage.io_reads >= 32
    (shared.work_dir / job / "end").touch()
    status = api.wait(job)
    receipt = status.usage
    assert api.usage(job) == receipt
    assert not names(receipt) & NOW_ONLY
    assert names(receipt) == names(usage) - NOW_ONLY
    for name in names(usage) - NOW_ONLY:
        assert getattr(receipt, name) >= getattr(usage, name), name
    ran_ns = status.ended_at.ToNanoseconds() - status.started_at.ToNanoseconds()
    assert abs(receipt.wall_ns - ran_ns) < 1e9
    shared.restart()
    with shared.issue("alice", "user").api() as api:
        assert api.usage(job) == receipt


def test_a_stream_of_samples_ends_with_the_receipt(shared: Instance, api: Api) -> None:
    script = "until [ -e end ]; do :; done"
    job = api.start("sh", "-c", script)
    request = pb.StatsRequest(job=job, follow=True, interval_ms=200)
    samples = [cast(pb.StatsResponse, message) for message in _until(shared, api, job, request)]
    assert len(samples) >= 4
    for one, other in pairwise(samples):
        assert one.usage.wall_ns < other.usage.wall_ns
        assert one.usage.cpu_us <= other.usage.cpu_us
    *live, last = samples
    assert {sample.status.state for sample in live} == {pb.JOB_STATE_RUNNING}
    assert last.status.state == pb.JOB_STATE_TERMINATED
    assert last.usage == last.status.usage == api.status(job).usage


def _until(shared: Instance, api: Api, job: str, request: pb.StatsRequest) -> list[object]:
    """Return all of a stream; the job is told to end after three of its messages."""
    found = []
    for message in api.stub.Stats(request, timeout=DEADLINE_S):
        found.append(message)
        if len(found) == 3:
            (shared.work_dir / job / "end").touch()
    return found


def advice_of(client: Client, job: str) -> list[str]:
    advice: list[str] = cast(list[str], client.status_json(job)["advice"])
    return advice


def test_a_job_that_feels_its_limits_gets_a_line_of_advice_for_each(
    alice: Client, api: Api
) -> None:
    throttled = api.start("sh", "-c", "while :; do :; done", limits=limits(cpu_millis=100))
    near = api.start(
        *taking(8 * MIB, "echo taken; sleep 600"), limits=limits(memory_bytes=17 * MIB)
    )
    forks = api.start("sh", "-c", "sleep 600 & sleep 600 & wait", limits=limits(pids=2))
    content = api.start("sh", "-c", "sleep 0.1", limits=limits(memory_bytes=256 * MIB, pids=50))
    wait_output(api, near, b"taken\n")
    eventually(lambda: api.usage(throttled).cpu_throttled_periods > 10, what="its waiting")
    for job in (forks, content):
        api.wait(job)
    told = alice.output("stats", throttled).decode()
    assert "of the time: it wants more than 0.1 CPUs; --cpus raises it" in told
    assert "Status:  running" in told
    whole = json.loads(alice.output("stats", "-o", "json", throttled))
    assert whole["cpu_throttled_periods"] > 10
    assert advice_of(alice, forks) == [
        "1 fork failed at its limit of 2 processes and threads; --pids raises it"
    ]
    assert advice_of(alice, content) == []
    usage = api.stop(near, grace_ms=0).usage
    assert usage.memory_peak_bytes > 0.9 * 17 * MIB
    [line] = advice_of(alice, near)
    assert line.startswith("peak ")
    assert "of 17 MiB" in line
    api.stop(throttled, grace_ms=0)
