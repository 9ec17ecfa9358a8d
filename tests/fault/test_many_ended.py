"""Very many jobs that have ended: neither a start nor the rules go through all of them."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from contextlib import closing

import pytest

from tests.support import Instance, eventually, scaled

MANY = scaled(10_000, 100_000)
OLD_NS = 1_700_000_000_000_000_000


def make_ended(instance: Instance, template: str) -> None:
    """Make as many jobs as ended, in the catalogue and on disk, as copies of one."""
    spec, outcome = (
        (instance.jobs_dir / template / name).read_bytes() for name in ("spec.json", "outcome.json")
    )
    ids = [str(uuid.uuid4()) for _ in range(MANY)]
    server = instance.state_dir.stat()
    for job in ids:
        directory = instance.jobs_dir / job
        directory.mkdir()
        (directory / "spec.json").write_bytes(spec.replace(template.encode(), job.encode()))
        (directory / "outcome.json").write_bytes(outcome)
        for path in (directory, *directory.iterdir()):
            os.chown(path, server.st_uid, server.st_gid)
    with closing(sqlite3.connect(instance.state_dir / "catalogue.sqlite")) as db:
        db.executemany(
            "INSERT INTO jobs (id, owner, created_at_ns, ended, ended_at_ns, size_bytes)"
            " VALUES (?, 'admin', ?, 1, ?, 8192)",
            ((job, OLD_NS + n, OLD_NS + n) for n, job in enumerate(ids)),
        )
        db.commit()


@pytest.mark.timeout(1200)
def test_a_server_with_very_many_ended_jobs_starts_and_removes_a_few_of_them_quickly(
    instance: Instance,
) -> None:
    with instance.admin.api() as api:
        template = api.start("true")
        api.wait(template)
    instance.terminate()
    make_ended(instance, template)

    begun = time.monotonic()
    instance.start()
    started_s = time.monotonic() - begun
    with instance.admin.api() as api:
        begun = time.monotonic()
        api.wait(api.start("true"))
        job_s = time.monotonic() - begun
        cpu_s = _cpu_s(instance.pid)
        eventually(lambda: time.monotonic() > begun + 2, what="two quiet seconds")
        idle_cpu_s = _cpu_s(instance.pid) - cpu_s
    assert len(instance.job_ids()) == MANY + 2

    instance.terminate()
    text = instance.config_path.read_text()
    instance.config_path.write_text(f"{text}\n[retention]\ncount = {MANY - 498}\n")
    begun = time.monotonic()
    instance.start()
    eventually(lambda: len(instance.job_ids()) == MANY - 498)
    removed_s = time.monotonic() - begun
    with instance.admin.api() as api:
        begun = time.monotonic()
        assert len(api.prune(dry_run=True, keep=10).job_ids) == MANY - 508
        pruned_s = time.monotonic() - begun

    instance.terminate()
    (instance.state_dir / "catalogue.sqlite").unlink()
    begun = time.monotonic()
    instance.start()
    rebuilt_s = time.monotonic() - begun
    with instance.admin.api() as api:
        assert len(api.prune(dry_run=True).job_ids) == MANY - 498
    figures = {
        "start": started_s,
        "a job": job_s,
        "CPU of 2 s without work": idle_cpu_s,
        "start that removes 500": removed_s,
        "dry prune": pruned_s,
        "start without the catalogue": rebuilt_s,
    }
    print(f"\n{MANY} ended jobs:", ", ".join(f"{what} {s:.3f} s" for what, s in figures.items()))


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
