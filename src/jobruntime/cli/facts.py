"""What a status says of a job's course beyond its state, read into the model's types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jobruntime.model.cause import Cause
from jobruntime.model.errors import JobError
from jobruntime.model.isolation import Isolation
from jobruntime.model.limits import NO_LIMITS, Limits
from jobruntime.model.log_policy import NO_POLICY, LogPolicy
from jobruntime.model.state import Outcome, State
from jobruntime.model.status import StopRequested
from jobruntime.model.usage import Oom, Usage
from jobruntime.rpc.convert import (
    UnreadableMessageError,
    cause_from_proto,
    isolation_from_proto,
    oom_from_proto,
    state_from_proto,
    stop_from_proto,
    usage_from_proto,
)
from jobruntime.rpc.convert_limits import limits_of
from jobruntime.rpc.convert_logs import log_policy_of
from jobruntime.rpc.gen import service_pb2 as pb

from .failure import Exit, Failure


@dataclass(frozen=True, slots=True)
class Facts:
    """The part of a status that its causes, counters and limits are told from."""

    state: State
    outcome: Outcome | None = None
    cause: Cause | None = None
    stop: StopRequested | None = None
    timed_out: bool = False
    killed: bool = False
    oom: Oom | None = None
    limits: Limits = NO_LIMITS
    usage: Usage | None = None
    log: LogPolicy = NO_POLICY
    isolation: Isolation = Isolation.NONE


def read_facts(status: pb.JobStatus) -> Facts:
    """Return what `status` says; raises Failure for what this version cannot tell truthfully."""
    with refusing_unknown(status.job_id):
        state, outcome = state_from_proto(status)
        return Facts(
            state,
            outcome,
            cause_from_proto(status),
            stop_from_proto(status),
            status.timed_out,
            status.killed,
            oom_from_proto(status),
            limits_of(status.limits),
            usage_from_proto(status.usage) if status.HasField("usage") else None,
            log_policy_of(status.log),
            isolation_from_proto(status),
        )


@contextmanager
def refusing_unknown(job_id: str) -> Iterator[None]:
    """Raise Failure in the place of the errors for a message that a newer server has sent."""
    try:
        yield
    except (UnreadableMessageError, JobError) as error:
        raise Failure(
            Exit.REFUSED,
            f"cannot tell the status of job {job_id}: {error}",
            "use a jobc that is as new as the server",
        ) from error
