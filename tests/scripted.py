"""jobc as its own process against a server that does as told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.errors import to_status
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceServicer
from jobruntime.rpc.tls import grpc

PYTHONPATH = os.pathsep.join(path for path in sys.path if path)
Context = grpc.ServicerContext
Response = TypeVar("Response")
Stream = Callable[[Context], Iterator[Response]]


class Script(JobServiceServicer):
    """Answers each call of a stream with the next one planned, the others at once.

    Keeps the requests. Jobs are those in `jobs`, by the word that means them.
    """

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.streams: list[Stream[pb.StatsResponse]] = []
        self.logs: dict[str, list[Stream[pb.LogsResponse]]] = {}
        self.jobs: dict[str, pb.JobStatus] = {}
        self.pruned = pb.PruneResponse()
        self.breaks = 0
        """So many calls of Remove and Prune are done, and not answered."""
        self.refusal: JobError | None = None
        self.is_over = threading.Event()

    def plan(self, *responses: pb.StatsResponse, then: str = "end") -> None:
        """Have the next stream of Stats give `responses`, and then end, break or stay."""
        self.streams.append(self._stream(responses, then))

    def plan_logs(self, job: str, *responses: pb.LogsResponse, then: str = "end") -> None:
        """Have the next stream of the job's Logs give `responses`, and then end, break or stay."""
        self.logs.setdefault(job, []).append(self._stream(responses, then))

    def _stream(self, responses: tuple[Response, ...], then: str) -> Stream[Response]:
        def stream(context: Context) -> Iterator[Response]:
            yield from responses
            if then == "break":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            if then == "stay":
                self.is_over.wait(60)

        return stream

    def Stats(self, request: pb.StatsRequest, context: Context) -> Iterator[pb.StatsResponse]:
        self._note(request, context)
        yield from self.streams.pop(0)(context)

    def Update(self, request: pb.UpdateRequest, context: Context) -> pb.UpdateResponse:
        self._note(request, context)
        return pb.UpdateResponse()

    def Pause(self, request: pb.PauseRequest, context: Context) -> pb.PauseResponse:
        self._note(request, context)
        return pb.PauseResponse()

    def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        self._note(request, context)
        return pb.ResumeResponse()

    def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        self._note(request, context)
        return pb.StatusResponse(status=self._find(request.job, context))

    def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopResponse:
        self._note(request, context)
        return pb.StopResponse(status=self._find(request.job, context))

    def Logs(self, request: pb.LogsRequest, context: Context) -> Iterator[pb.LogsResponse]:
        self._note(request, context)
        yield from self.logs[request.job].pop(0)(context)

    def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.RemoveResponse:
        self._note(request, context)
        job_id = self._find(request.job, context).job_id
        self.jobs = {word: job for word, job in self.jobs.items() if job.job_id != job_id}
        self._break(context)
        return pb.RemoveResponse(job_id=job_id, freed_bytes=5)

    def Prune(self, request: pb.PruneRequest, context: Context) -> pb.PruneResponse:
        self._note(request, context)
        self._break(context)
        return self.pruned

    def _find(self, word: str, context: Context) -> pb.JobStatus:
        if word not in self.jobs:
            refuse(JobError(Reason.JOB_NOT_FOUND, f"cannot find job {word!r}", "look"), context)
        return self.jobs[word]

    def _break(self, context: Context) -> None:
        if self.breaks:
            self.breaks -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    def _note(self, request: object, context: Context) -> None:
        self.requests.append(request)
        if self.refusal is not None:
            refuse(self.refusal, context)


def refuse(error: JobError, context: Context) -> NoReturn:
    """Answer with an error, as jobd does."""
    code, message, trailer = to_status(error)
    context.set_trailing_metadata(trailer)
    context.abort(code, message)
    raise AssertionError("abort raises")


def start_jobc(environment: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    """Start jobc with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobruntime.cli", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_jobc(environment: dict[str, str], *words: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr."""
    with start_jobc(environment, *words) as process:
        out, errors = process.communicate(timeout=60)
    return process.returncode, out.decode(), errors.decode()
