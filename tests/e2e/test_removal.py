"""Jobs that have ended are removed whole: by their owners, and by the operator's rules."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import MIB, Api, Client, Instance, MakeInstance, eventually

NOT_FOUND, WRONG_STATE = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def api(alice: Client) -> Iterator[Api]:
    with alice.api() as api:
        yield api


def ended(api: Api, *argv: str, **fields: object) -> str:
    """Run a job to its end."""
    job = api.start(*(argv or ("true",)), **fields)
    api.wait(job)
    return job


def places_of(instance: Instance, job: str) -> list[Path]:
    """Return all places on the host that have a job's name."""
    above = [instance.jobs_dir, instance.work_dir, instance.state_dir / "removed"]
    above.append(instance.runtime_dir / "keepers")
    return [place / job for place in above if os.path.lexists(place / job)]


def is_gone(instance: Instance, api: Api, job: str) -> bool:
    calls = (api.status, api.remove, lambda job: list(api.stream(job)))
    codes = {api.refused(lambda call=call: call(job)).code for call in calls}  # type: ignore[misc]
    return codes == {NOT_FOUND} and not places_of(instance, job)


def test_a_removed_job_is_gone_with_its_log_and_its_home(
    shared: Instance, api: Api, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.touch()
    script = f"mkdir -p a/b; ln -s {tmp_path} a/b/link; head -c 1000000 /dev/zero | tee a/file"
    job = ended(api, "sh", "-c", script, name="removable")
    assert len(places_of(shared, job)) == 2

    response = api.remove("removable")

    assert response.job_id == job
    assert 2_000_000 <= response.freed_bytes < 2_300_000
    assert is_gone(shared, api, job)
    assert kept.exists()
    assert api.refused(lambda: api.status("removable")).code is NOT_FOUND


def test_a_job_that_has_not_ended_is_not_removed(shared: Instance, api: Api) -> None:
    job = api.start("sleep", "600")
    refusal = api.refused(lambda: api.remove(job))
    assert (refusal.code, refusal.reason) == (WRONG_STATE, "WRONG_STATE")
    assert refusal.message == f"cannot remove job {job}: it has not ended"
    assert api.status(job).state == pb.JOB_STATE_RUNNING

    api.stop(job)
    assert api.remove(job).job_id == job  # at once after the stop
    assert is_gone(shared, api, job)


def test_a_request_id_of_a_removed_job_starts_a_new_one(api: Api) -> None:
    fields = {"request_id": "again", "name": "again"}
    first = ended(api, **fields)
    assert api.start("true", **fields) == first
    api.remove(first)

    second = ended(api, **fields)

    assert second != first
    assert api.status("again").job_id == second


def test_an_admin_removes_anybodys_and_a_user_only_his_own(
    shared: Instance, alice: Client, bob: Client
) -> None:
    with alice.api() as hers, bob.api() as his, shared.admin.api() as admins:
        jobs = [ended(hers), ended(hers)]
        assert his.refused(lambda: his.remove(jobs[0])).code is NOT_FOUND
        assert admins.remove(jobs[0]).job_id == jobs[0]
        assert hers.remove(jobs[1]).job_id == jobs[1]
        for job in jobs:
            assert is_gone(shared, hers, job)


def test_prune_takes_what_fits_all_that_was_asked_for(
    instance: Instance, make_instance: MakeInstance
) -> None:
    alice, bob = (instance.issue(name, "user") for name in ("alice", "bob"))
    with alice.api() as hers, bob.api() as his, instance.admin.api() as admins:
        theirs = ended(his, "head", "-c", "500000", "/dev/zero")
        jobs = [ended(hers, "head", "-c", "500000", "/dev/zero") for _ in range(4)]
        running = hers.start("sleep", "600")

        assert hers.prune(ended_before_ms=3_600_000).job_ids == []
        assert hers.prune(ended_before_ms=(1 << 63) - 1).job_ids == []
        assert hers.prune(keep=(1 << 63) - 1).job_ids == []
        refusal = hers.refused(lambda: hers.prune(all_owners=True))
        assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
        assert hers.refused(lambda: hers.prune(keep=-1)).reason == "INVALID_ARGUMENT"

        would = hers.prune(keep=1, dry_run=True)
        assert set(would.job_ids) == set(jobs[:3])
        assert set(jobs) < instance.job_ids()
        done = hers.prune(keep=1)
        assert list(done.job_ids) == jobs[:3]
        # What is told before is without the jobs' own directories, which are empty here.
        assert 0 <= done.freed_bytes - would.freed_bytes <= 3 * 8192
        assert 1_500_000 < done.freed_bytes < 1_700_000
        assert instance.job_ids() == {jobs[3], running, theirs}

        assert list(admins.prune().job_ids) == []
        assert list(admins.prune(all_owners=True).job_ids) == [theirs, jobs[3]]
        assert instance.job_ids() == {running}
        for job in [*jobs, theirs]:
            assert is_gone(instance, admins, job)


def test_readers_of_a_removed_job_get_what_there_is_or_are_told(shared: Instance, api: Api) -> None:
    size = 300 * MIB
    job = ended(api, "head", "-c", str(size), "/dev/zero")
    readers = [api.stream(job, follow=follow) for follow in (True, False, True)]
    firsts = [next(reader) for reader in readers]
    assert all(first.HasField("batch") for first in firsts)

    assert api.remove(job).freed_bytes > size

    for reader in readers:
        refusal = api.refused(lambda reader=reader: [None for _ in reader])  # type: ignore[misc]
        assert refusal.code is NOT_FOUND
        assert refusal.message == ("cannot read the log to its end: its job has just been removed")
    assert is_gone(shared, api, job)


def test_jobs_are_removed_while_they_are_read_stopped_and_removed_by_others(
    shared: Instance, api: Api
) -> None:
    for _ in range(10):
        job = api.start("sh", "-c", "seq 20000; exec sleep 600")
        outcomes: list[object] = []

        def read(job: str = job, outcomes: list[object] = outcomes) -> None:
            try:
                messages = list(api.stream(job))
            except grpc.RpcError as error:
                outcomes.append(error.code())
            else:
                outcomes.append(messages[-1].HasField("end"))

        def remove(job: str = job, outcomes: list[object] = outcomes) -> None:
            try:
                outcomes.append(api.remove(job).job_id == job)
            except grpc.RpcError as error:
                outcomes.append(error.code())

        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        api.stop(job, grace_ms=0)
        removers = [threading.Thread(target=remove) for _ in range(3)]
        for thread in removers:
            thread.start()
        for thread in [*readers, *removers]:
            thread.join()
        assert len(outcomes) == 6
        assert set(outcomes) <= {True, NOT_FOUND}
        assert is_gone(shared, api, job)


# ---------------------------------------------------------------- the operator's rules


def make_with(make_instance: MakeInstance, text: str) -> Instance:
    return make_instance(edit=lambda old: f"{old}\n{text}\n")


def wait_removed(instance: Instance, job: str, reason: str) -> None:
    instance.wait_stderr(rf"removed job {job}: {reason}")
    eventually(lambda: not places_of(instance, job), what=f"the removal of {job}")


def test_only_so_many_that_ended_are_kept(make_instance: MakeInstance) -> None:
    instance = make_with(make_instance, "[retention]\ncount = 2\nspare = '0'")
    with instance.admin.api() as api:
        running = api.start("sleep", "600")
        jobs = [ended(api, "sh", "-c", "echo > file") for _ in range(5)]
        for job in jobs[:3]:
            wait_removed(instance, job, r"\d jobs that ended are more than 2")
        assert instance.job_ids() == {running, *jobs[3:]}
        for job in jobs[3:]:
            assert api.status(job).state == pb.JOB_STATE_TERMINATED


def test_what_ended_too_long_ago_goes_at_the_next_start_too(make_instance: MakeInstance) -> None:
    instance = make_instance()
    with instance.admin.api() as api:
        old = ended(api)
    instance.terminate()
    text = instance.config_path.read_text()
    instance.config_path.write_text(f"{text}\n[retention]\nage = '100ms'\n")
    instance.start()
    wait_removed(instance, old, "it ended 100ms ago or earlier")


def test_the_logs_of_what_ended_have_only_so_much_together(make_instance: MakeInstance) -> None:
    instance = make_with(make_instance, "[retention]\nsize = '5M'\nspare = '0'")
    with instance.admin.api() as api:
        jobs = [ended(api, "head", "-c", str(2 * MIB), "/dev/zero") for _ in range(4)]
        for job in jobs[:2]:
            wait_removed(instance, job, r"the jobs that ended have .* MiB, more than 5 MiB")
        assert instance.job_ids() == set(jobs[2:])


def test_nothing_goes_that_ended_just_now(make_instance: MakeInstance) -> None:
    instance = make_with(make_instance, "[retention]\ncount = 0\nsize = '0'")
    with instance.admin.api() as api:
        jobs = {ended(api, "seq", "100000") for _ in range(3)}
        instance.restart()
        jobs.add(ended(api, "true"))
        assert instance.job_ids() == jobs
        assert "removed job" not in instance.stderr


def test_a_user_follows_only_so_many_logs(make_instance: MakeInstance) -> None:
    instance = make_with(make_instance, "[logs]\nfollowers_per_user = 2")
    alice, bob = (instance.issue(name, "user") for name in ("alice", "bob"))
    with alice.api() as api, bob.api() as other, instance.admin.api() as admin:
        job = api.start("sh", "-c", "echo hi; exec sleep 600")
        streams = [api.stream(job), api.stream(job)]
        for stream in streams:
            assert next(stream).HasField("batch")

        for follow in (True, False):
            refusal = api.refused(lambda follow=follow: list(api.stream(job, follow=follow)))  # type: ignore[misc] # mypy sees no default
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.message.startswith("cannot read one more log: user 'alice' reads 2")
        assert next(admin.stream(job)).HasField("batch")  # counted by caller, not by owner
        assert other.wait(other.start("true")).outcome.exit_code == 0

        streams[0].cancel()  # type: ignore[attr-defined] # it is the call
        third = eventually(lambda: _first(api, job))
        third.cancel()  # type: ignore[attr-defined]
        api.stop(job)
        assert [message.HasField("end") for message in streams[1]] == [True]
        for _ in range(5):
            api.wait(job)


def _first(api: Api, job: str) -> Iterator[pb.LogsResponse] | None:
    stream = api.stream(job)
    try:
        next(stream)
    except grpc.RpcError:
        return None
    return stream
