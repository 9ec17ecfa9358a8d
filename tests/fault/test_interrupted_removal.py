"""A removal that dies in the middle leaves no half job, and the next server finishes it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import Api, Instance, eventually

WIDE = 20_000


def ended_with_home(api: Api, script: str = "mkdir -p a/b; echo > a/b/file") -> str:
    job = api.start("sh", "-c", f"{script}; echo hi", request_id="once", name="n")
    api.wait(job)
    return job


def assert_gone(instance: Instance, api: Api, job: str) -> None:
    assert api.refused(lambda: api.status(job)).code is grpc.StatusCode.NOT_FOUND
    assert api.refused(lambda: api.status("n")).code is grpc.StatusCode.NOT_FOUND
    for place in (instance.jobs_dir, instance.work_dir, instance.state_dir / "removed"):
        eventually(lambda place=place: not os.path.lexists(place / job), what=f"{place}")  # type: ignore[misc]
    assert "damaged" not in instance.stderr
    assert "cannot" not in instance.stderr
    again = api.start("true", request_id="once", name="n")
    assert again != job
    api.wait(again)


def row_of(instance: Instance, job: str) -> tuple[object, ...] | None:
    with closing(sqlite3.connect(instance.state_dir / "catalogue.sqlite")) as db:
        found: tuple[object, ...] | None = db.execute(
            "SELECT id FROM jobs WHERE id = ?", (job,)
        ).fetchone()
    return found


@pytest.mark.parametrize("step", ["moved", "forgotten", "log deleted", "home half deleted"])
def test_what_a_removal_left_after_any_step_is_finished(instance: Instance, step: str) -> None:
    with instance.admin.api() as api:
        job = ended_with_home(api)
    instance.kill()
    assert row_of(instance, job)
    trash = instance.state_dir / "removed" / job
    (instance.jobs_dir / job).rename(trash)
    if step != "moved":
        with closing(sqlite3.connect(instance.state_dir / "catalogue.sqlite")) as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job,))
            db.commit()
    if step in ("log deleted", "home half deleted"):
        for path in trash.iterdir():
            path.unlink()
    if step == "home half deleted":
        (instance.work_dir / job / "a").rename(instance.work_dir / job / ".removed-x")

    instance.start()

    with instance.admin.api() as api:
        assert_gone(instance, api, job)
    assert row_of(instance, job) is None


def test_a_server_killed_while_it_deletes_leaves_no_half_job(instance: Instance) -> None:
    script = f"i=0; mkdir d; while [ $i -lt {WIDE} ]; do i=$((i+1)); : > d/$i; done"
    with instance.admin.api() as api:
        job = ended_with_home(api, script)
        removing = api.stub.Remove.future(pb.RemoveRequest(job=job))
        home = instance.work_dir / job
        eventually(lambda: _count(home) < WIDE, what="the beginning of the deletion")
        instance.kill()
        assert isinstance(removing.exception(), grpc.RpcError)
        assert home.exists(), "it was too quick for this test"

    instance.start()

    instance.wait_stderr(f"deleting what was left of job {job}, which was removed")
    with instance.admin.api() as api:
        assert_gone(instance, api, job)


def test_a_server_that_is_told_to_stop_does_not_wait_for_a_deletion(instance: Instance) -> None:
    with instance.admin.api() as api:
        job = ended_with_home(api, f"mkdir d; cd d; seq {WIDE} | xargs touch")
        removing = api.stub.Remove.future(pb.RemoveRequest(job=job))
        home = instance.work_dir / job
        eventually(lambda: _count(home) < WIDE, what="the beginning of the deletion")
        instance.terminate()
        removing.exception()
    left = home.exists()
    instance.start()
    assert left is ("deleting what was left" in instance.stderr)
    with instance.admin.api() as api:
        assert_gone(instance, api, job)


def _count(home: Path) -> int:
    try:
        return sum(len(names) for _, _, names in os.walk(home))
    except OSError:
        return 0
