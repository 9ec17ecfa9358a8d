"""Rates that the configuration sets: for the disk, not its path, which only the server may see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.limits.payloads import SLEEP, io_limit, limits, text_of
from tests.limits.test_devices import device_of
from tests.support import MIB, Api, Client, Instance, jobd


@pytest.fixture(scope="module")
def closed(disk: Path) -> Path:
    """A directory on the disk that no job's user can see."""
    closed = disk / "closed"
    closed.mkdir(mode=0o700)
    (closed / "place").mkdir()
    return closed / "place"


@pytest.fixture(scope="module")
def operated(disk: Path, closed: Path) -> Iterator[Instance]:
    tables = f"""
[limits.default]
io_write_bps = ["{closed}:2M"]
memory_high = "64M"

[limits.ceiling]
io_write_bps = ["{closed.parent}:4M"]
io_read_iops = ["{closed.parent}:50"]
"""
    with Instance(disk / "operated", edit=lambda text: text + tables) as instance:
        yield instance


@pytest.fixture
def edna(operated: Instance) -> Client:
    return operated.issue("edna", "user")


@pytest.fixture
def api(edna: Client) -> Iterator[Api]:
    with edna.api() as api:
        yield api


@pytest.fixture
def jobs_group(operated: Instance) -> Path:
    assert operated.cgroup_root is not None
    return operated.cgroup_root / "jobs"


def line(disk: Path, **rates: int) -> str:
    keys = ("rbps", "wbps", "riops", "wiops")
    return " ".join([device_of(disk), *(f"{key}={rates.get(key, 'max')}" for key in keys)])


def test_the_operators_rates_hold_for_a_job_whose_user_cannot_see_their_paths(
    disk: Path, closed: Path, api: Api, jobs_group: Path
) -> None:
    job = api.start(*SLEEP)
    assert text_of(jobs_group / job, "io.max") == line(disk, wbps=2 * MIB, riops=50)
    told = {rate.path: rate for rate in api.status(job).limits.io}
    assert told == {
        str(closed): pb.IoLimit(path=str(closed), write_bps=2 * MIB),
        str(closed.parent): pb.IoLimit(path=str(closed.parent), read_iops=50),
    }
    assert api.stop(job, grace_ms=0).limits.io  # also at the end


def test_another_path_of_the_disk_replaces_the_default_and_meets_the_ceiling(
    operated: Instance, disk: Path, api: Api, jobs_group: Path
) -> None:
    job = api.start(*SLEEP, limits=io_limit(disk, write_bps=3 * MIB))
    assert text_of(jobs_group / job, "io.max") == line(disk, wbps=3 * MIB, riops=50)
    jobs = operated.job_ids()
    lifted = [pb.IoLimit(path=str(disk), unlimited=[pb.IO_RATE_WRITE_BPS])]
    for io, shown in (
        ([pb.IoLimit(path=str(disk), write_bps=5 * MIB)], 5 * MIB),
        (lifted, "max"),
    ):
        told = f"--io-write-bps {disk}:{shown}: this server allows at most {4 * MIB}"
        for refusal, verb in (
            (api.refused(lambda io=io: api.start("true", limits=limits(io=io))), "run a job with"),  # type: ignore[misc]
            (api.refused(lambda io=io: api.update(job, io=io)), f"update job {job} to"),  # type: ignore[misc]
        ):
            assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refusal.reason == "LIMIT_ABOVE_CEILING"
            assert refusal.message == f"cannot {verb} {told}"
    assert operated.job_ids() == jobs
    assert text_of(jobs_group / job, "io.max") == line(disk, wbps=3 * MIB, riops=50)
    api.stop(job, grace_ms=0)


def test_a_change_by_another_path_replaces_the_older_rate(
    operated: Instance, disk: Path, api: Api, jobs_group: Path
) -> None:
    job = api.start(*SLEEP, limits=io_limit(disk, write_bps=MIB, read_bps=MIB))
    group = jobs_group / job
    status = api.update(job, io=[pb.IoLimit(path=str(operated.config_path), write_bps=4 * MIB)])
    assert text_of(group, "io.max") == line(disk, rbps=MIB, wbps=4 * MIB, riops=50)
    assert {rate.path: rate.write_bps for rate in status.limits.io if rate.write_bps} == {
        str(operated.config_path): 4 * MIB
    }
    operated.kill()
    operated.start()
    with operated.issue("edna", "user").api() as again:
        again.update(job, io=[pb.IoLimit(path=str(disk), write_bps=3 * MIB)])
        assert text_of(group, "io.max") == line(disk, rbps=MIB, wbps=3 * MIB, riops=50)
        again.stop(job, grace_ms=0)


def test_a_path_that_has_gone_keeps_no_change_from_its_job(
    operated: Instance, disk: Path, api: Api, jobs_group: Path
) -> None:
    place = disk / "for a while"
    place.mkdir()
    job = api.start(*SLEEP, limits=io_limit(place, write_bps=MIB))
    place.rmdir()
    group = jobs_group / job
    assert api.update(job, memory_bytes=16 * MIB).limits.io[0].write_bps == MIB
    assert text_of(group, "memory.max") == str(16 * MIB)
    assert text_of(group, "io.max") == line(disk, wbps=MIB, riops=50)
    operated.kill()
    operated.start()
    with operated.issue("edna", "user").api() as again:
        again.update(job, pids=9, io=[pb.IoLimit(path=str(place), write_bps=2 * MIB)])
        assert text_of(group, "io.max") == line(disk, wbps=2 * MIB, riops=50)
        unknown = [pb.IoLimit(path=f"{place}/x", write_bps=MIB)]
        refusal = again.refused(lambda: again.update(job, io=unknown))
        assert refusal.reason == "LIMIT_REFUSED"
        again.stop(job, grace_ms=0)


def test_a_limit_of_memory_below_the_default_memory_high_is_had(api: Api, jobs_group: Path) -> None:
    job = api.start(*SLEEP, limits=limits(memory_bytes=32 * MIB))
    assert text_of(jobs_group / job, "memory.max") == str(32 * MIB)
    api.update(job, memory_bytes=16 * MIB)
    assert text_of(jobs_group / job, "memory.max") == str(16 * MIB)
    api.stop(job, grace_ms=0)


def test_a_lowered_ceiling_stands_in_the_way_of_what_is_above_it_alone(
    operated: Instance, disk: Path, edna: Client, jobs_group: Path
) -> None:
    with edna.api() as api:
        job = api.start(*SLEEP, limits=io_limit(disk, write_bps=4 * MIB))
    text = operated.config_path.read_text()
    lowered = text.replace(':4M"', ':1M"').replace(':2M"', ':1M"')
    assert lowered != text
    operated.config_path.write_text(lowered + '\nmemory = "96M"\n')  # of the ceilings
    operated.restart()
    try:
        with edna.api() as api:
            api.update(job, pids=9, io=[pb.IoLimit(path=str(disk), read_bps=MIB)])
            shown = line(disk, rbps=MIB, wbps=4 * MIB, riops=50)
            assert text_of(jobs_group / job, "io.max") == shown
            assert text_of(jobs_group / job, "memory.max") == "max"
            io = [pb.IoLimit(path=str(disk), write_bps=3 * MIB)]
            refusal = api.refused(lambda: api.update(job, io=io))
            assert refusal.reason == "LIMIT_ABOVE_CEILING"
            api.stop(job, grace_ms=0)
    finally:
        operated.config_path.write_text(text)
        operated.restart()


def test_rates_of_all_jobs_are_those_of_the_configuration_and_no_older_ones(disk: Path) -> None:
    def rates(text: str) -> str:
        return f'{text}\n[limits.all]\nio_write_bps = ["{disk}:8M"]\nio_read_bps = ["{disk}:9M"]\n'

    with Instance(disk / "together", edit=rates) as instance:
        assert instance.cgroup_root is not None
        jobs = instance.cgroup_root / "jobs"
        job = instance.admin.start("sleep", "600")  # so that the groups stay
        assert text_of(jobs, "io.max") == line(disk, wbps=8 * MIB, rbps=9 * MIB)
        text = instance.config_path.read_text()
        fewer = text.replace(f'io_read_bps = ["{disk}:9M"]', "")
        for changed, expected in (
            (fewer, line(disk, wbps=8 * MIB)),
            (text.partition("[limits.all]")[0], ""),
        ):
            instance.config_path.write_text(changed)
            instance.restart()
            assert text_of(jobs, "io.max") == expected
        assert instance.admin.status(job) == "running"


@pytest.mark.parametrize("table", ["default", "ceiling", "all"])
def test_a_server_with_a_path_that_has_no_disk_does_not_serve(disk: Path, table: str) -> None:
    def edit(text: str) -> str:
        return f'{text}\n[limits.{table}]\nio_read_bps = ["/no/such/disk:1M"]\n'

    instance = Instance(disk / f"without-{table}", edit=edit, serve=False)
    told = f"cannot use the key limits.{table}.io_read_bps of the configuration: no disk can be "
    done = jobd("serve", "--config", instance.config_path, home=disk, timeout=60)
    assert done.returncode == 1
    assert f"jobd: {told}named for /no/such/disk: " in done.stderr.decode()


def test_swap_of_all_jobs_without_their_memory_is_no_configuration(disk: Path) -> None:
    def edit(text: str) -> str:
        return f'{text}\n[limits.all]\nmemory_swap = "64M"\n'

    instance = Instance(disk / "swapping", edit=edit, serve=False)
    done = jobd("serve", "--config", instance.config_path, home=disk, timeout=60)
    assert done.returncode == 1
    assert "cannot use [limits.all] of the configuration: " in done.stderr.decode()
