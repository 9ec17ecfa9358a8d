"""Rates of a real block device: held, and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.limits.payloads import io_limit, measured
from tests.support import MIB, Api

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
