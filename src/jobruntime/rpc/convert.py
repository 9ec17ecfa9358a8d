"""Between protobuf and the model: nothing else in the project does both."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final, assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from jobruntime.model.cause import Cause, cause_of
from jobruntime.model.errors import invalid
from jobruntime.model.isolation import Isolation
from jobruntime.model.spec import JobSpec
from jobruntime.model.state import Exited, Lost, Outcome, Signaled, State
from jobruntime.model.status import JobStatus, StopRequested
from jobruntime.model.usage import Oom, OomScope, Usage, encode_usage

from .convert_limits import limits_of, limits_to_proto
from .convert_logs import log_policy_of, log_policy_to_proto
from .convert_shares import shares_of, shares_to_proto
from .gen import service_pb2 as pb

NS: Final = 1_000_000_000

_STATE_TO_PROTO: Final[Mapping[State, pb.JobState]] = {
    State.STARTING: pb.JOB_STATE_STARTING,
    State.RUNNING: pb.JOB_STATE_RUNNING,
    State.PAUSED: pb.JOB_STATE_PAUSED,
    State.STOPPING: pb.JOB_STATE_STOPPING,
    State.TERMINATED: pb.JOB_STATE_TERMINATED,
}
_STATE_FROM_PROTO: Final = {number: state for state, number in _STATE_TO_PROTO.items()}


_CAUSE_TO_PROTO: Final[Mapping[Cause, pb.EndCause]] = {
    Cause.EXITED: pb.END_CAUSE_EXITED,
    Cause.SIGNAL: pb.END_CAUSE_SIGNAL,
    Cause.STOP: pb.END_CAUSE_STOP,
    Cause.STOP_KILL: pb.END_CAUSE_STOP_KILL,
    Cause.TIMEOUT: pb.END_CAUSE_TIMEOUT,
    Cause.TIMEOUT_KILL: pb.END_CAUSE_TIMEOUT_KILL,
    Cause.OOM: pb.END_CAUSE_OOM,
    Cause.OOM_ABOVE: pb.END_CAUSE_OOM_ABOVE,
    Cause.LOST: pb.END_CAUSE_LOST,
}
_CAUSE_FROM_PROTO: Final = {number: cause for cause, number in _CAUSE_TO_PROTO.items()}

_ISOLATION_TO_PROTO: Final[Mapping[Isolation, pb.Isolation]] = {
    Isolation.NONE: pb.ISOLATION_NONE,
    Isolation.HOST_NETWORK: pb.ISOLATION_HOST_NETWORK,
    Isolation.LOOPBACK: pb.ISOLATION_LOOPBACK,
    Isolation.NO_NETWORK: pb.ISOLATION_NO_NETWORK,
}
_ISOLATION_FROM_PROTO: Final = {number: kind for kind, number in _ISOLATION_TO_PROTO.items()}

_SCOPE_TO_PROTO: Final[Mapping[OomScope, pb.OomScope]] = {
    OomScope.JOB: pb.OOM_SCOPE_JOB,
    OomScope.ABOVE: pb.OOM_SCOPE_ABOVE,
}
_SCOPE_FROM_PROTO: Final = {number: scope for scope, number in _SCOPE_TO_PROTO.items()}


class UnreadableMessageError(Exception):
    """A message says something that this version does not know, so it must not be guessed at."""


def spec_of(request: pb.StartRequest, default_grace_ms: int) -> JobSpec:
    """Return the spec that `request` asks for; an empty string means that a field is not set.

    Raises JobError (INVALID_ARGUMENT, SPEC_TOO_LARGE).
    """
    return JobSpec(
        argv=_argv_of(request),
        # Sorted: a map has no order, and equal requests must give equal specs.
        env=tuple(sorted(request.env.items())),
        working_directory=request.working_directory or None,
        labels=tuple(sorted(request.labels.items())),
        name=request.name or None,
        stop_signal=request.stop_signal if request.HasField("stop_signal") else int(signal.SIGTERM),
        grace_ms=request.grace_ms if request.HasField("grace_ms") else default_grace_ms,
        timeout_ms=request.timeout_ms if request.HasField("timeout_ms") else None,
        request_id=request.request_id or None,
        limits=limits_of(request.limits),
        log=log_policy_of(request.log),
        shares=shares_of(request.share),
        user=request.user or None,
        isolation=_isolation_of(request),
    )


def start_request_of(spec: JobSpec) -> pb.StartRequest:
    """Return the request that asks for `spec`, every field of it set.

    Raises JobError (INVALID_ARGUMENT) for anything but an argument that is not UTF-8: only argv
    has a form for bytes.
    """
    for what, text in _texts_of(spec):
        if not _is_utf8(text):
            raise invalid(f"cannot send the {what}: it is not UTF-8", "only arguments may be bytes")
    request = pb.StartRequest(
        env=dict(spec.env),
        working_directory=spec.working_directory or "",
        labels=dict(spec.labels),
        name=spec.name or "",
        stop_signal=spec.stop_signal,
        grace_ms=spec.grace_ms,
        timeout_ms=spec.timeout_ms,
        request_id=spec.request_id or "",
        limits=limits_to_proto(spec.limits),
        log=log_policy_to_proto(spec.log),
        share=shares_to_proto(spec.shares),
        user=spec.user or "",
        isolate=None if spec.isolation is None else _ISOLATION_TO_PROTO[spec.isolation],
    )
    if all(_is_utf8(arg) for arg in spec.argv):
        request.argv.extend(spec.argv)
    else:
        request.argv_bytes.extend(_bytes(arg) for arg in spec.argv)
    return request


def outcome_to_proto(outcome: Outcome) -> pb.Outcome:
    """Return the message for `outcome`."""
    match outcome:
        case Exited(code):
            return pb.Outcome(exit_code=code)
        case Signaled(signo):
            return pb.Outcome(signal=signo)
        case Lost(reason):
            return pb.Outcome(lost=_utf8(reason))
        case _:
            assert_never(outcome)


def outcome_from_proto(message: pb.Outcome) -> Outcome:
    """Return the outcome that `message` tells; raises UnreadableMessageError if unknown."""
    match message.WhichOneof("kind"):
        case "exit_code":
            return Exited(message.exit_code)
        case "signal":
            return Signaled(message.signal)
        case "lost":
            return Lost(message.lost)
        case _:
            raise UnreadableMessageError("the job ended in a way that this version cannot name")


def state_to_proto(state: State) -> pb.JobState:
    """Return the number of `state`."""
    return _STATE_TO_PROTO[state]


def state_from_proto(status: pb.JobStatus) -> tuple[State, Outcome | None]:
    """Return the state, and the outcome of a job that has ended.

    Raises UnreadableMessageError where the two do not fit or this version does not know them.
    """
    state = _STATE_FROM_PROTO.get(status.state)
    if state is None:
        raise UnreadableMessageError(f"the job is in a state of the number {status.state:d}")
    if (state is State.TERMINATED) != status.HasField("outcome"):
        raise UnreadableMessageError(f"the job is {state}, and its outcome does not fit that")
    return state, outcome_from_proto(status.outcome) if status.HasField("outcome") else None


def status_to_proto(status: JobStatus) -> pb.JobStatus:
    """Return what `status` tells a caller."""
    spec = status.spec
    stop = status.stop_requested
    return pb.JobStatus(
        job_id=status.job_id,
        owner=_utf8(status.owner),
        name=_utf8(spec.name or ""),
        labels={_utf8(key): _utf8(value) for key, value in spec.labels},
        argv=[_bytes(arg) for arg in spec.argv],
        state=state_to_proto(status.state),
        outcome=outcome_to_proto(status.outcome) if status.outcome is not None else None,
        created_at=timestamp_of(status.created_at_ns),
        started_at=_timestamp(status.started_at_ns),
        ended_at=_timestamp(status.ended_at_ns),
        stop_requested=_stop_to_proto(stop) if stop is not None else None,
        timed_out=status.timed_out,
        killed=status.killed,
        oom=_oom_to_proto(status.oom) if status.oom is not None else None,
        cause=_CAUSE_TO_PROTO[cause] if (cause := cause_of(status)) is not None else None,
        limits=limits_to_proto(status.limits),
        usage=usage_to_proto(status.usage) if status.usage is not None else None,
        log=log_policy_to_proto(status.log),
        shares=shares_to_proto(status.shares),
        user=_utf8(status.user),
        isolation=_ISOLATION_TO_PROTO[spec.isolation or Isolation.NONE],
    )


def cause_from_proto(status: pb.JobStatus) -> Cause | None:
    """Return why the job ended; None where it has not, or for a cause of a newer version."""
    return _CAUSE_FROM_PROTO.get(status.cause)


def stop_from_proto(status: pb.JobStatus) -> StopRequested | None:
    """Return the first request to stop the job; None if nobody asked."""
    if not status.HasField("stop_requested"):
        return None
    stop = status.stop_requested
    at_ns = stop.at.seconds * NS + stop.at.nanos
    return StopRequested(stop.by, at_ns, stop.signal, stop.grace_ms)


def oom_from_proto(status: pb.JobStatus) -> Oom | None:
    """Return what the out-of-memory killer did to the job; None if nothing.

    Raises UnreadableMessageError where this version does not know whose limit was reached.
    """
    if not status.HasField("oom"):
        return None
    scope = _SCOPE_FROM_PROTO.get(status.oom.scope)
    if scope is None:
        raise UnreadableMessageError(
            f"it ran out of memory within a limit of the number {status.oom.scope:d}"
        )
    return Oom(scope, status.oom.kills, status.oom.leader)


def isolation_from_proto(status: pb.JobStatus) -> Isolation:
    """Return how the job is isolated; an older server's job is not.

    Raises UnreadableMessageError where this version does not know the way.
    """
    if status.isolation == pb.ISOLATION_UNSPECIFIED:
        return Isolation.NONE
    isolation = _ISOLATION_FROM_PROTO.get(status.isolation)
    if isolation is None:
        raise UnreadableMessageError(
            f"it is isolated in the way of the number {status.isolation:d}"
        )
    return isolation


def usage_to_proto(usage: Usage) -> pb.Usage:
    """Return the message for `usage`; its fields have the same names."""
    return pb.Usage(**encode_usage(usage))


def usage_from_proto(message: pb.Usage) -> Usage:
    """Return the usage that `message` tells; the inverse of `usage_to_proto`."""
    return Usage(**{field.name: value for field, value in message.ListFields()})


def _oom_to_proto(oom: Oom) -> pb.Oom:
    return pb.Oom(scope=_SCOPE_TO_PROTO[oom.scope], kills=oom.kills, leader=oom.leader)


def timestamp_of(at_ns: int) -> Timestamp:
    """Return the UTC nanoseconds `at_ns` as a message, exactly."""
    seconds, nanos = divmod(at_ns, NS)
    return Timestamp(seconds=seconds, nanos=nanos)


def _argv_of(request: pb.StartRequest) -> tuple[str, ...]:
    if request.argv and request.argv_bytes:
        raise invalid("cannot start a job: argv and argv_bytes are both set", "set one of them")
    if request.argv_bytes:
        return tuple(arg.decode("utf-8", "surrogateescape") for arg in request.argv_bytes)
    return tuple(request.argv)


def _isolation_of(request: pb.StartRequest) -> Isolation | None:
    if request.isolate == pb.ISOLATION_UNSPECIFIED:
        return None
    isolation = _ISOLATION_FROM_PROTO.get(request.isolate)
    if isolation is None:
        raise invalid(
            f"cannot isolate a job in the way of the number {request.isolate:d}",
            "use one that this version of the server knows",
        )
    return isolation


def _stop_to_proto(stop: StopRequested) -> pb.StopRequested:
    return pb.StopRequested(
        by=_utf8(stop.by),
        at=timestamp_of(stop.at_ns),
        signal=stop.signo,
        grace_ms=stop.grace_ms,
    )


def _timestamp(at_ns: int | None) -> Timestamp | None:
    return None if at_ns is None else timestamp_of(at_ns)


def _texts_of(spec: JobSpec) -> list[tuple[str, str]]:
    texts = [("working directory", spec.working_directory or ""), ("user", spec.user or "")]
    for name, value in spec.env:
        texts.append((f"environment variable {name!r}", name + value))
    for key, value in spec.labels:
        texts.append((f"label {key!r}", key + value))
    return texts


def _bytes(arg: str) -> bytes:
    # Not os.fsencode: what a job is must not hang on the locale of whoever reads it.
    return arg.encode("utf-8", "surrogateescape")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
