"""Which disk a path stands for, and that one which stands for none is refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.bed import native
from tests.limits.payloads import SLEEP, io_limit, limits, text_of
from tests.support import MIB, Api, Instance, eventually

SECTORS = 32_768
Stack = Callable[..., Path]


def run(*words: str | Path) -> str:
    """Return what the command prints; it must succeed."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


def device_of(place: Path) -> str:
    """Return the number of the device on which a file lies, or which it is."""
    about = place.stat()
    device = about.st_rdev or about.st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def io_max_under(api: Api, jobs_group: Path, path: Path) -> str:
    """Return the io.max of a job that names this path."""
    job = api.start(*SLEEP, limits=io_limit(path, read_bps=MIB, write_iops=9))
    text = text_of(jobs_group / job, "io.max")
    api.stop(job, grace_ms=0)
    return text


def line_of(disk: Path) -> str:
    return f"{device_of(disk)} rbps={MIB} wbps=max riops=max wiops=9"


def test_a_directory_a_file_and_the_device_itself_stand_for_their_disk(
    shared: Instance, disk: Path, api: Api, jobs_group: Path
) -> None:
    node = Path("/dev", Path(os.readlink(f"/sys/dev/block/{device_of(disk)}")).name)
    for path in (disk, shared.config_path, node):
        assert io_max_under(api, jobs_group, path) == line_of(disk)


@pytest.fixture
def partition(disk: Path) -> Iterator[Path]:
    """The device node of a partition of the disk, which only the kernel knows of."""
    sysfs = Path("/sys/dev/block", device_of(disk)).resolve()
    whole = Path("/dev", sysfs.name)
    run("addpart", whole, "1", "2048", "2048")
    try:
        [entry] = sysfs.glob("*/partition")
        node = Path("/dev", entry.parent.name)
        eventually(node.is_block_device, what=str(node))
        yield node
    finally:
        run("delpart", whole, "1")


def test_a_partition_stands_for_its_disk(
    disk: Path, partition: Path, api: Api, jobs_group: Path
) -> None:
    assert device_of(partition) != device_of(disk)
    assert io_max_under(api, jobs_group, partition) == line_of(disk)


@pytest.fixture
def loops(disk: Path) -> Iterator[list[Path]]:
    """Two disks more, whose data lies in files."""
    if "BED_DISK" not in os.environ:
        pytest.skip("volumes are made in guests only, and left out of a host that somebody uses")
    native.load_modules("loop", "dm-mod")
    with ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            image = disk / name
            image.touch()
            os.truncate(image, 512 * SECTORS)
            stack.callback(image.unlink)
            found.append(Path(run("losetup", "--find", "--show", image)))
            stack.callback(run, "losetup", "--detach", found[-1])
        yield found


@pytest.fixture
def volume() -> Iterator[Stack]:
    """Make logical volumes that lie on others, one behind the other."""
    with ExitStack() as stack:

        def make(name: str, *below: Path) -> Path:
            lines = [
                f"{number * SECTORS // 2} {SECTORS // 2} linear {device} 0"
                for number, device in enumerate(below)
            ]
            create = ["dmsetup", "create", "--noudevsync", name, "--table", "\n".join(lines)]
            run(*create)
            stack.callback(run, "dmsetup", "remove", "--noudevsync", name)
            [found] = [
                path.parent.parent.name
                for path in Path("/sys/block").glob("dm-*/dm/name")
                if path.read_text() == f"{name}\n"
            ]
            node = Path("/dev", found)
            eventually(node.is_block_device, what=str(node))
            return node

        yield make


def test_logical_volumes_stand_for_the_one_disk_below_and_are_refused_on_several(
    api: Api, jobs_group: Path, loops: list[Path], volume: Stack
) -> None:
    one, two = loops
    lower = volume("bed-lower", one)
    upper = volume("bed-upper", lower)
    assert len({device_of(path) for path in (one, two, lower, upper)}) == 4
    assert io_max_under(api, jobs_group, upper) == line_of(one)
    both = volume("bed-both", upper, two)
    refusal = api.refused(lambda: api.start("true", limits=io_limit(both, read_bps=MIB)))
    assert refusal.reason == "LIMIT_REFUSED"
    assert "it lies on several disks (" in refusal.message


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
