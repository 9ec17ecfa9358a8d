"""Which jobs the words of a command line mean.

What must be right also in a second call is asked by id: a name may be another job's by then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from .failure import Failure
from .values import exact

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb
    from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub

    from .settings import Settings

_SHORT_ID: Final = 8
_DEADLINE_SECONDS: Final = 30
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def find_id(settings: Settings, word: str) -> str:
    """Return the id of the job that `word` means; raises Failure."""
    if _ID.fullmatch(word):
        return word  # whether there is one, the call that uses it tells
    [found] = find_jobs(settings, [word])
    if isinstance(found, Failure):
        raise found
    return found.job_id


def find_jobs(settings: Settings, words: Sequence[str]) -> list[pb.JobStatus | Failure]:
    """Return the job that each word means, or why there is none.

    Raises Failure where the server cannot be asked.
    """
    from jobruntime.rpc.errors import RemoteError
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call, failure_of

    timeout = _DEADLINE_SECONDS + settings.connect_timeout_ms / 1000

    def ask(stub: JobServiceStub, word: str) -> pb.JobStatus | RemoteError:
        from jobruntime.rpc.errors import from_rpc_error
        from jobruntime.rpc.tls import grpc

        try:
            response = stub.Status(pb.StatusRequest(job=exact(word)), timeout=timeout)
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if not refusal.reason:
                raise
            return refusal
        status: pb.JobStatus = response.status
        return status

    answers = call(settings, lambda stub: [ask(stub, word) for word in words], if_lost="try again")
    return [
        failure_of(settings, answer) if isinstance(answer, RemoteError) else answer
        for answer in answers
    ]


def label_jobs(jobs: Sequence[pb.JobStatus]) -> list[str]:
    """Return a short word for each job: its name if no other has that, else the start of its id."""
    names = [job.name for job in jobs]
    ids = [job.job_id for job in jobs]
    return [
        job.name if job.name and names.count(job.name) == 1 else _short_id(job.job_id, ids)
        for job in jobs
    ]


def _short_id(job_id: str, ids: Sequence[str]) -> str:
    for length in range(_SHORT_ID, len(job_id)):
        if sum(other.startswith(job_id[:length]) for other in ids) == 1:
            return job_id[:length]
    return job_id
