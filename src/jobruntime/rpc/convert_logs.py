"""Between protobuf and the model, for logs: their bounds, what is asked of them, what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from jobruntime.model.errors import invalid
from jobruntime.model.frames import Chunk, Entry, Stream
from jobruntime.model.log_policy import NO_POLICY, LogFull, LogPolicy
from jobruntime.model.log_query import BOTH, LogQuery

from .gen import service_pb2 as pb

_NS: Final = 1_000_000_000
_STREAM_TO_PROTO: Final[Mapping[Stream, pb.LogStream]] = {
    Stream.STDOUT: pb.LOG_STREAM_STDOUT,
    Stream.STDERR: pb.LOG_STREAM_STDERR,
}
_STREAM_FROM_PROTO: Final[Mapping[int, Stream]] = {
    number: stream for stream, number in _STREAM_TO_PROTO.items()
}
_FULL_TO_PROTO: Final[Mapping[LogFull, pb.LogFull]] = {
    LogFull.DROP_OLDEST: pb.LOG_FULL_DROP_OLDEST,
    LogFull.STOP_RECORDING: pb.LOG_FULL_STOP_RECORDING,
    LogFull.BLOCK: pb.LOG_FULL_BLOCK,
}
_FULL_FROM_PROTO: Final = {number: full for full, number in _FULL_TO_PROTO.items()}


def log_policy_of(bounds: pb.LogBounds) -> LogPolicy:
    """Return the policy that `bounds` asks for; raises JobError (INVALID_ARGUMENT)."""
    full = None
    if bounds.on_full != pb.LOG_FULL_UNSPECIFIED:
        full = _FULL_FROM_PROTO.get(bounds.on_full)
        if full is None:
            raise invalid(
                f"cannot bound a log in the way of the number {bounds.on_full:d}",
                "use one that this version of the server knows",
            )
    return LogPolicy(bounds.max_bytes if bounds.HasField("max_bytes") else None, full)


def log_policy_to_proto(policy: LogPolicy) -> pb.LogBounds | None:
    """Return the message for `policy`, None where it says nothing; as `log_policy_of` reads it."""
    if policy == NO_POLICY:
        return None
    return pb.LogBounds(
        max_bytes=policy.max_bytes,
        on_full=None if policy.on_full is None else _FULL_TO_PROTO[policy.on_full],
    )


def log_query_of(request: pb.LogsRequest) -> LogQuery:
    """Return the query that `request` makes; raises JobError (INVALID_ARGUMENT)."""
    return LogQuery(
        follow=request.follow,
        cursor=request.cursor,
        tail_lines=request.tail_lines if request.HasField("tail_lines") else None,
        since_ns=_ns_of(request.since) if request.HasField("since") else None,
        until_ns=_ns_of(request.until) if request.HasField("until") else None,
        streams=frozenset(map(_stream_of, request.streams)) or BOTH,
        grep=request.grep,
    )


def logs_request_of(job: str, query: LogQuery) -> pb.LogsRequest:
    """Return the request that makes `query` of a job's log; the inverse of `log_query_of`."""
    return pb.LogsRequest(
        job=job,
        follow=query.follow,
        cursor=query.cursor,
        tail_lines=query.tail_lines,
        since=_timestamp(query.since_ns),
        until=_timestamp(query.until_ns),
        streams=[]
        if query.streams == BOTH
        else sorted(_STREAM_TO_PROTO[stream] for stream in query.streams),
        grep=query.grep,
    )


def _timestamp(time_ns: int | None) -> Timestamp | None:
    if time_ns is None:
        return None
    seconds, nanos = divmod(time_ns, _NS)
    return Timestamp(seconds=seconds, nanos=nanos)


def _ns_of(at: Timestamp) -> int:
    return at.seconds * _NS + at.nanos


def _stream_of(number: int) -> Stream:
    stream = _STREAM_FROM_PROTO.get(number)
    if stream is None:
        raise invalid(f"cannot read a stream of the number {number:d}", "ask for stdout or stderr")
    return stream


def log_batch_to_proto(entries: Sequence[Entry]) -> pb.LogsBatch:
    """Return the message for pieces of a log."""
    return pb.LogsBatch(entries=[_entry_to_proto(entry) for entry in entries])


def _entry_to_proto(entry: Entry) -> pb.LogEntry:
    if isinstance(entry, Chunk):
        return pb.LogEntry(
            chunk=pb.LogChunk(
                stream=_STREAM_TO_PROTO[entry.stream], time_ns=entry.time_ns, data=entry.data
            )
        )
    return pb.LogEntry(
        gap=pb.LogGap(
            stream=_STREAM_TO_PROTO[entry.stream],
            lost_bytes=entry.lost_bytes,
            first_ns=entry.first_ns,
            last_ns=entry.last_ns,
            cause=entry.cause,
        )
    )
