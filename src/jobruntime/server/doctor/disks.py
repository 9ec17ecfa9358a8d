"""Canaries for I/O: direct reads and writes on the disk on which jobs have their directories."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Final

from jobruntime.model.limits import IoLimit, Limits
from jobruntime.model.state import Exited
from jobruntime.model.usage import Usage
from jobruntime.worker.host import disk_of

from .bench import Bench, Ended
from .canaries import Canary
from .report import Check, failed, good, lacking

_KIB: Final = 1024
_BPS: Final = 1024 * _KIB
_IOPS: Final = 64
_TIMES: Final = 2
"""Each trial moves what two seconds allow."""
_MORE: Final = 1.25
_LESS: Final = 0.5
_READERS: Final = 4
_WEIGH_S: Final = 3.0
_NO_DISK_REMEDY: Final = "set work_dir to a directory on a disk, such as one of ext4 or xfs"


@dataclass(frozen=True, slots=True)
class _Rate:
    """One of the four rates: how it is asked for, made use of, and counted."""

    flag: str
    is_write: bool
    per_second: int
    block_bytes: int
    unit: str
    moved_by: str
    """The field of the receipt that counts it."""

    @property
    def blocks(self) -> int:
        """How many blocks two seconds allow."""
        bytes_or_blocks = self.block_bytes if self.unit == "bytes" else 1
        return _TIMES * self.per_second // bytes_or_blocks

    @property
    def field(self) -> str:
        """The field of IoLimit."""
        return self.flag.removeprefix("--io-").replace("-", "_")


_RATES: Final = (
    _Rate("--io-read-bps", False, _BPS, 64 * _KIB, "bytes", "io_read_bytes"),
    _Rate("--io-write-bps", True, _BPS, 64 * _KIB, "bytes", "io_write_bytes"),
    _Rate("--io-read-iops", False, _IOPS, 4 * _KIB, "operations", "io_reads"),
    _Rate("--io-write-iops", True, _IOPS, 4 * _KIB, "operations", "io_writes"),
)


async def _try_rate(rate: _Rate, bench: Bench, name: str) -> Check:
    place = bench.trial.work_dir
    disk = disk_of(place)
    if not disk.device:
        text = f"not here: {disk.cause} (jobs' directories: {place})"
        return lacking(name, text, _NO_DISK_REMEDY)
    io = _limit_of(rate, place)
    ended = await bench.run("sh", "-c", _script(rate), limits=Limits(io=(io,)))
    if ended.status.outcome != Exited(0):
        return lacking(
            name,
            f"not tried: dd cannot read or write directly in {place}: {ended.complaint}",
            "set work_dir to a directory on a file system with direct I/O (O_DIRECT)",
        )
    return _judge_rate(rate, name, ended, disk.device)


def _limit_of(rate: _Rate, place: str) -> IoLimit:
    return IoLimit(place, **{rate.field: rate.per_second})  # type: ignore[arg-type] # a number


def _script(rate: _Rate) -> str:
    size = f"bs={rate.block_bytes} count={rate.blocks}"
    write = f"dd if=/dev/zero of=canary {size} oflag=direct conv=fsync"
    read = f"dd if=canary of=/dev/null {size} iflag=direct"
    steps = [write] if rate.is_write else [read]
    first = [] if rate.is_write else [write]
    return " && ".join([*first, "echo begin", *steps, "echo end", "rm canary"])


def _judge_rate(rate: _Rate, name: str, ended: Ended, device: str) -> Check:
    moved: int | None = getattr(ended.usage, rate.moved_by)
    amount = rate.per_second * _TIMES
    speed = amount / max(ended.between_s, 0.001)
    part = speed / rate.per_second
    text = f"held to {part:.0%} of its rate on disk {device}"
    measured = {"per_second": round(speed), "limit": rate.per_second, "counted": moved or 0}
    if part > _MORE:
        return failed(name, f"went at {part:.0%} of its rate on disk {device}", "", **measured)
    if moved is None or moved < amount:
        return failed(name, f"{text}, but io.stat counted {moved} {rate.unit}", "", **measured)
    if part < _LESS:
        return lacking(name, f"not proven: {text}", "repeat it when the disk is idle", **measured)
    return good(name, text, **measured)


async def _try_weight(bench: Bench, name: str) -> Check:
    place = bench.trial.work_dir
    disk = disk_of(place)
    if not disk.device:
        return lacking(name, f"not here: {disk.cause} ({place})", _NO_DISK_REMEDY)
    # Reads wear no disk out. Several at once, so that there is a queue to share.
    fill = "dd if=/dev/zero of=canary bs=64k count=64 oflag=direct conv=fsync"
    read = "while dd if=canary of=/dev/null bs=64k iflag=direct; do :; done"
    script = (
        f"{fill} || exit 1; echo ready; for n in {' '.join('1' * _READERS)}; do {read} & done; wait"
    )
    argv = ("sh", "-c", f"exec 2>/dev/null; {script}")
    async with (
        bench.running(*argv, limits=Limits(io_weight=100)) as light,
        bench.running(*argv, limits=Limits(io_weight=10_000)) as heavy,
    ):
        for job in (light, heavy):
            await bench.wait_word(job)
        before = [_read((await bench.sample(job)).usage) for job in (light, heavy)]
        await asyncio.sleep(_WEIGH_S)
        after = [_read((await bench.sample(job)).usage) for job in (light, heavy)]
    less, more = (late - early for early, late in zip(before, after, strict=True))
    share = less / max(less + more, 1)
    text = f"100 against 10000 shared disk {disk.device} {share:.0%} to {1 - share:.0%}"
    if share > 0.4:
        # Where a disk is faster than both of them there is nothing to share.
        remedy = "see that this disk's own scheduler weighs (bfq, or io.cost with its limits set)"
        return lacking(name, f"not proven: {text}", remedy, light_share=round(share, 4))
    return good(name, text, light_share=round(share, 4))


def _read(usage: Usage) -> int:
    return usage.io_read_bytes or 0


RATES: Final = tuple(
    Canary(
        rate.flag,
        Limits(io=(_limit_of(rate, "/"),)),
        partial(_try_rate, rate),
    )
    for rate in _RATES
)
"""Each waits most of its time, so they may run beside each other."""

WEIGHT: Final = (Canary("--io-weight", Limits(io_weight=100), _try_weight),)
"""This wants the whole disk."""
