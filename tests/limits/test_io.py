"""Rates of a real block device, held and counted; and which device a path stands for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.limits.payloads import SLEEP, limits, measured, text_of
from tests.support import MIB, Api, Instance, eventually

SECONDS = 4


@dataclass(frozen=True)
class Rate:
    """One of the four, made use of for some seconds with blocks of this size."""

    field: str
    per_second: int
    block_bytes: int

    @property
    def is_write(self) -> bool:
        return "write" in self.field

    @property
    def blocks(self) -> int:
        return SECONDS * self.per_second // (self.block_bytes if "bps" in self.field else 1)

    @property
    def script(self) -> str:
        size = f"bs={self.block_bytes} count={self.blocks}"
        write = f"dd if=/dev/zero of=file {size} oflag=direct 2>/dev/null"
        read = f"dd if=file of=/dev/null {size} iflag=direct 2>/dev/null"
        steps = [] if self.is_write else [write]
        steps += ["echo begin", write if self.is_write else read, "echo end", "rm file"]
        return " && ".join(steps)


RATES = (
    Rate("write_bps", 2 * MIB, 64 << 10),
    Rate("read_bps", 2 * MIB, 64 << 10),
    Rate("write_iops", 50, 4096),
    Rate("read_iops", 50, 4096),
)


def io_limit(path: Path, **rates: int) -> pb.Limits:
    return limits(io=[pb.IoLimit(path=str(path), **rates)])  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: rate.field)
def test_direct_reads_and_writes_go_at_their_rate_and_are_counted(
    disk: Path, api: Api, rate: Rate
) -> None:
    ended: list[pb.JobStatus] = []

    def part_of_rate() -> float:
        job = api.start(
            "sh", "-c", rate.script, limits=io_limit(disk, **{rate.field: rate.per_second})
        )
        log = api.logs(job)
        assert log.end is not None
        assert (log.end.status.outcome, log.stdout) == (pb.Outcome(exit_code=0), b"begin\nend\n")
        ended.append(log.end.status)
        begin, end = (chunk.time_ns for chunk in log.chunks)
        return SECONDS * 1e9 / (end - begin)

    measured(f"part of {rate.field}", 0.85, 1.15, part_of_rate)
    for status in ended:
        usage = status.usage
        moved = usage.io_write_bytes if rate.is_write else usage.io_read_bytes
        operations = usage.io_writes if rate.is_write else usage.io_reads
        # A little more: the metadata of the file system.
        assert rate.blocks * rate.block_bytes <= moved <= 1.1 * rate.blocks * rate.block_bytes + MIB
        assert operations >= rate.blocks


def device_of(place: Path) -> str:
    device = place.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def test_a_directory_a_file_and_the_device_itself_stand_for_their_disk(
    shared: Instance, disk: Path, api: Api, jobs_group: Path
) -> None:
    device = disk.stat().st_dev
    node = Path("/dev") / Path(os.readlink(f"/sys/dev/block/{device_of(disk)}")).name
    for path in (disk, shared.config_path, node):
        job = api.start(*SLEEP, limits=io_limit(path, read_bps=MIB, write_iops=9))
        line = f"{os.major(device)}:{os.minor(device)} rbps={MIB} wbps=max riops=max wiops=9"
        assert text_of(jobs_group / job, "io.max") == line
        api.stop(job, grace_ms=0)


@pytest.fixture
def partition(disk: Path) -> Iterator[Path]:
    """The device node of a partition of the disk, which only the kernel knows of."""
    sysfs = Path("/sys/dev/block", device_of(disk)).resolve()
    whole = Path("/dev", sysfs.name)
    subprocess.run(["addpart", whole, "1", "2048", "2048"], check=True)
    try:
        [entry] = sysfs.glob("*/partition")
        node = Path("/dev", entry.parent.name)
        eventually(node.is_block_device, what=str(node))
        yield node
    finally:
        subprocess.run(["delpart", whole, "1"], check=True)


def test_a_partition_stands_for_its_disk(
    disk: Path, partition: Path, api: Api, jobs_group: Path
) -> None:
    assert partition.stat().st_rdev != disk.stat().st_dev
    job = api.start(*SLEEP, limits=io_limit(partition, write_bps=MIB))
    assert text_of(jobs_group / job, "io.max").startswith(f"{device_of(disk)} ")
    api.stop(job, grace_ms=0)


def test_the_stricter_of_two_rates_for_one_disk_holds(
    shared: Instance, disk: Path, api: Api, jobs_group: Path
) -> None:
    both = limits(
        io=[
            pb.IoLimit(path=str(disk), write_bps=MIB),
            pb.IoLimit(path=str(shared.config_path), write_bps=2 * MIB, read_bps=MIB),
        ]
    )
    job = api.start(*SLEEP, limits=both)
    line = f"{device_of(disk)} rbps={MIB} wbps={MIB} riops=max wiops=max"
    assert text_of(jobs_group / job, "io.max") == line
    api.stop(job, grace_ms=0)
