"""Starts with request ids while the server dies again and again: each job once, none forgotten."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc
from tests.support import DEADLINE_S, Instance, Refusal, eventually, refusal_of, scaled

PARALLEL = 30
STARTS = scaled(8, 40)
KILLS = scaled(3, 20)


@pytest.fixture
def ledger() -> Iterator[Path]:
    """A file to which every job can append, whatever its user is."""
    with tempfile.TemporaryDirectory(prefix="jobd-test-") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory, "ledger")
        path.touch()
        path.chmod(0o666)
        yield path


class Starts:
    """Starts one job for each request id, however often that takes."""

    def __init__(self, stub: JobServiceStub, ledger: Path) -> None:
        self._stub = stub
        self._ledger = ledger
        self._lock = threading.Lock()
        self.acknowledged: dict[str, str] = {}
        self.failures: Counter[str] = Counter()

    def request(self, request_id: str) -> pb.StartRequest:
        argv = ["sh", "-c", f'echo "$0" >>{self._ledger}', request_id]
        return pb.StartRequest(argv=argv, request_id=request_id)

    def run(self, worker: int) -> None:
        for number in range(STARTS):
            self.start(f"start-{worker}-{number}")

    def note(self, refusal: Refusal) -> None:
        assert refusal.code is grpc.StatusCode.UNAVAILABLE, refusal
        self.failures[refusal.message] += 1

    def start(self, request_id: str) -> None:
        while True:
            try:
                response: pb.StartResponse = self._stub.Start(
                    self.request(request_id), timeout=DEADLINE_S, wait_for_ready=True
                )
            except grpc.RpcError as error:
                # The connection broke: whether there is a job now is what the retry finds out.
                self.note(refusal_of(error))
                continue
            with self._lock:
                self.acknowledged[request_id] = response.job_id
            return


def test_a_start_that_is_retried_after_the_servers_death_makes_one_job(
    instance: Instance, ledger: Path
) -> None:
    alice = instance.issue("alice", "user")
    total = PARALLEL * STARTS
    with alice.channel() as channel, ThreadPoolExecutor(PARALLEL) as pool:
        stub = JobServiceStub(channel)
        starts = Starts(stub, ledger)
        running = [pool.submit(starts.run, worker) for worker in range(PARALLEL)]
        for number in range(KILLS):
            wanted = total * (number + 1) // (KILLS + 1)
            eventually(
                lambda wanted=wanted: (
                    len(starts.acknowledged) >= wanted  # type: ignore[misc]
                    or any(future.done() and future.exception() for future in running)
                ),
                what=f"{wanted} starts",
            )
            instance.kill()
            instance.start()
        for future in running:
            future.result(DEADLINE_S)

        assert starts.failures, "no start was under way when the server was killed"
        assert len(set(starts.acknowledged.values())) == total
        with alice.api() as api:
            for request_id, job in starts.acknowledged.items():
                status = api.wait(job)
                assert status.outcome.WhichOneof("kind") == "exit_code", status
                assert stub.Start(starts.request(request_id)).job_id == job

    lines = ledger.read_text().split()
    assert Counter(lines) == Counter(dict.fromkeys(starts.acknowledged, 1))
    unknown = instance.job_ids() - set(starts.acknowledged.values())
    records = {job: list_directory(instance.jobs_dir / job) for job in unknown}
    assert not unknown, f"records of jobs that nobody was told of: {records}"


def list_directory(path: Path) -> dict[str, int]:
    """Return the files in the directory with their sizes."""
    return {entry.name: entry.stat().st_size for entry in path.iterdir()}
