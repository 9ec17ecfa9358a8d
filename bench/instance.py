"""A server of the bench's own: made, started, asked, and taken away without a trace."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobruntime.model.frames import parse_segment_name
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import CHANNEL_OPTIONS, channel_credentials, grpc
from jobruntime.server.config import read_config

BIN = Path(sys.executable).parent
_START_S = 30
_JOB_S = 600


class BenchError(Exception):
    """A measurement could not be taken."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A running server; `directory` is for the bench's files, too, on the same filesystem."""

    directory: Path
    address: str
    work_dir: Path
    pid: int
    """The server's process."""

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self.directory / "jobs/pki/ca.crt"

    @property
    def cert(self) -> Path:
        """The certificate of the bench's user; its key is beside it."""
        return self.directory / "jobs/pki/clients/bench.crt"

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what a channel to the server needs."""
        return channel_credentials(self.ca, self.cert, self.cert.with_suffix(".key"))

    @contextlib.contextmanager
    def stub(self) -> Iterator[JobServiceStub]:
        """Give a stub over a channel that is open already."""
        with grpc.secure_channel(self.address, self.credentials(), CHANNEL_OPTIONS) as channel:
            grpc.channel_ready_future(channel).result(timeout=_START_S)
            yield JobServiceStub(channel)

    def jobc(self, *words: str) -> list[str]:
        """Return the command line of a call of jobc's."""
        key = str(self.cert.with_suffix(".key"))
        flags = ["--addr", self.address, "--ca", str(self.ca), "--cert", str(self.cert)]
        return [str(BIN / "jobc"), *flags, "--key", key, *words]

    def log_of(self, job_id: str) -> list[Path]:
        """Return the files of the job's log."""
        directory = self.directory / "jobs/state/jobs" / job_id
        return [path for path in directory.iterdir() if parse_segment_name(path.name) is not None]

    def drop_log(self, job_id: str) -> None:
        """Remove the job's log behind the server's back, so that logs don't fill the disk."""
        for path in self.log_of(job_id):
            path.unlink()

    def wait_released(self, job_ids: Sequence[str]) -> None:
        """Return when each job's own directory is gone, which it is when nothing of it lives.

        Looks at the disk, because a call to the server would take time from what is measured.
        """
        deadline = time.monotonic() + _JOB_S
        left = set(job_ids)
        while left := {job for job in left if (self.work_dir / job).exists()}:
            if time.monotonic() > deadline:
                raise BenchError(f"{len(left)} jobs have not ended in {_JOB_S} s")
            time.sleep(0.001)


def check_finished(stub: JobServiceStub, job_ids: Sequence[str]) -> None:
    """Raise BenchError unless each of the jobs, released already, finishes with exit code 0."""
    for job_id in job_ids:
        deadline = time.monotonic() + _START_S
        while True:
            status = stub.Status(pb.StatusRequest(job=job_id)).status
            if status.state == pb.JOB_STATE_TERMINATED or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        if status.outcome.WhichOneof("kind") != "exit_code" or status.outcome.exit_code:
            raise BenchError(f"job {job_id} has not finished with exit code 0")


@contextlib.contextmanager
def running_instance(base: Path | None) -> Iterator[Instance]:
    """Make and start an instance below `base`; end it with all its jobs, and remove it."""
    directory = Path(tempfile.mkdtemp(prefix="jobd-bench-", dir=base))
    try:
        directory.chmod(0o755)  # as root, jobs run as other users and have to reach what is inside
        config = _init(directory)
        with open(directory / "serve.log", "wb") as log:
            server = subprocess.Popen(
                [BIN / "jobd", "serve", "--config", config], stdin=subprocess.DEVNULL, stderr=log
            )
        try:
            address = _wait_address(server, directory / "serve.log")
            yield Instance(directory, address, read_config(config).work_dir, server.pid)
        finally:
            _stop(server, config)
    finally:
        shutil.rmtree(directory)


def _init(directory: Path) -> Path:
    command = [str(BIN / "jobd"), "init", "--dir", str(directory / "jobs")]
    subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--admin", "bench"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    return directory / "jobs/jobd.toml"


def _wait_address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"serving on (\S+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.01)
    raise BenchError(f"cannot start the server: {log.read_text()}")


def _stop(server: subprocess.Popen[bytes], config: Path) -> None:
    subprocess.run(
        [BIN / "jobd", "stop", "--config", config, "--jobs"],
        check=False,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server.wait(_START_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
