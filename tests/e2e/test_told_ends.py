"""What a caller was told holds for his next call, at once, and for everybody's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.tls import grpc
from tests.support import Client, Instance, eventually, gather, processes_of, refusal_of, scaled

TIMES = scaled(40, 600)
MIB = 1 << 20


def test_a_job_whose_end_was_told_is_not_paused_updated_or_unreachable(alice: Client) -> None:
    with alice.api() as api:
        for _ in range(TIMES):
            job = api.start("sleep", "600")
            api.stop(job, grace_ms=0)
            for change in (api.pause, api.resume):
                refusal = api.refused(lambda change=change, job=job: change(job))  # type: ignore[misc]
                assert (refusal.code, refusal.reason) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "WRONG_STATE",
                )
                assert "it has ended" in refusal.message


def test_a_stop_or_a_look_at_a_job_that_ends_by_itself_never_finds_it_unreachable(
    alice: Client,
) -> None:
    with alice.api() as api, ThreadPoolExecutor(2) as pool:
        for _ in range(TIMES):
            job = api.start("true")
            usage, stopped = pool.submit(api.usage, job), pool.submit(api.stop, job)
            usage.result()
            assert stopped.result().outcome.WhichOneof("kind") in ("exit_code", "signal")


def test_a_job_whose_end_was_told_is_pruned(alice: Client) -> None:
    user = alice.instance.issue("tidy", "user")
    with user.api() as api:
        for _ in range(TIMES):
            job = api.start("sleep", "600")
            api.stop(job, grace_ms=0)
            assert list(api.prune().job_ids) == [job]


def test_a_name_means_its_job_also_while_another_of_its_name_fails_to_start(
    alice: Client,
) -> None:
    with alice.api() as api, alice.api() as other:
        job = api.start("true", name="once")
        api.wait(job)
        with ThreadPoolExecutor(1) as pool:
            for _ in range(TIMES):
                failing = pool.submit(
                    other.refused, lambda: other.start("/no/such/program", name="once")
                )
                while not failing.done():
                    assert api.status("once").job_id == job
                assert failing.result().reason == "PROGRAM_NOT_FOUND"


def test_a_name_is_free_also_where_shares_were_changed_while_its_job_ended(alice: Client) -> None:
    with alice.api() as api, ThreadPoolExecutor(4) as pool:

        def share(job: str) -> None:
            request = pb.UpdateRequest(job=job)
            request.share.append(pb.Share(user="bob", verbs=["status"]))
            api.stub.Update(request, timeout=30)

        for _ in range(TIMES // 2):
            job = api.start("sleep", "600", name="shared-often")
            shares = [pool.submit(share, job) for _ in range(6)]
            api.stop(job, grace_ms=0)
            shares += [pool.submit(share, job) for _ in range(6)]
            for one in shares:
                one.result()
        api.stop(api.start("sleep", "600", name="shared-often"), grace_ms=0)


def test_a_timeout_that_passed_after_a_jobs_end_is_no_cause_of_it(
    shared: Instance, alice: Client
) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", "sleep 0.3; exit 3", timeout_ms=700)
        keeper = shared.keeper_of(job)
        assert keeper is not None
        os.kill(keeper, signal.SIGSTOP)
        try:
            eventually(lambda: not processes_of(job), what="the job's end")
            time.sleep(1)
        finally:
            os.kill(keeper, signal.SIGCONT)
        status = api.wait(job)
        assert status.outcome == pb.Outcome(exit_code=3)
        assert not status.timed_out


def test_a_job_that_ended_by_itself_was_not_killed_whoever_stopped_it(alice: Client) -> None:
    with alice.api() as api:
        for _ in range(TIMES):
            job = api.start("sh", "-c", "sleep 0.03; exit 3")
            time.sleep(0.03)
            status = api.stop(job, grace_ms=0)
            assert status.killed is (status.outcome.WhichOneof("kind") == "signal"), status


def test_a_long_line_that_matches_comes_whole(alice: Client) -> None:
    with alice.api() as api:
        script = f"head -c {12 * MIB} /dev/zero | tr '\\0' x; echo; echo y"
        job = api.start("sh", "-c", script)
        api.wait(job)
        log = gather(api.stub.Logs(pb.LogsRequest(job=job, grep="x"), timeout=60))
        assert len(log.stdout) == 12 * MIB + 1
        assert set(log.stdout) == set(b"x\n")


def test_a_job_that_is_just_being_removed_is_read_or_not_found(alice: Client) -> None:
    with alice.api() as api:
        for _ in range(TIMES):
            job = api.start("echo", "x")
            api.wait(job)
            request = pb.LogsRequest(job=job)
            removal = api.stub.Remove.future(pb.RemoveRequest(job=job), timeout=30)
            for call in [api.stub.Logs(request, timeout=30) for _ in range(4)]:
                assert read_or_reason(call) in (b"x\n", "JOB_NOT_FOUND")
            removal.result()


def read_or_reason(call: Iterable[pb.LogsResponse]) -> bytes | str:
    try:
        return gather(call).stdout
    except grpc.RpcError as error:
        return refusal_of(error).reason
