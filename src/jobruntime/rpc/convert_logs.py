"""Between protobuf and the model, for logs: their bounds, what is asked of them, what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from jobruntime.model.errors import invalid
from jobruntime.model.frames import Chunk, Entry, Gap, Stream
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


def encode_log_batch(entries: Sequence[Entry], cursor: str) -> bytes:
    """Return an encoded LogsResponse with pieces of a log.

    Written out by hand (protobuf.dev/programming-guides/encoding): protobuf's objects copy a
    megabyte of output twice more, which took a third of a replay's time. A test compares the two.
    """
    parts: list[bytes] = []
    length = 0
    for entry in entries:
        if isinstance(entry, Chunk):
            size = len(entry.data)
            head = _chunk_head(entry.stream, entry.time_ns) + _varint(size)
            body = _LOG_ENTRY_CHUNK + _varint(len(head) + size) + head
            parts += (_ENTRY + _varint(len(body) + size) + body, entry.data)
            length += len(parts[-2]) + size
        else:
            gap = pb.LogEntry(gap=_gap_to_proto(entry)).SerializeToString()
            parts.append(_ENTRY + _varint(len(gap)) + gap)
            length += len(parts[-1])
    word = cursor.encode()
    parts.insert(0, _BATCH + _varint(length))
    if word:
        parts.append(_CURSOR + _varint(len(word)) + word)
    return b"".join(parts)


# A field's number and kind: 1 and 3 with a length, or in a chunk 1 a number and 2 eight bytes.
_BATCH = _ENTRY = _LOG_ENTRY_CHUNK = b"\x0a"
_CURSOR: Final = b"\x1a"


def _chunk_head(stream: Stream, time_ns: int) -> bytes:
    return b"\x08%c\x11%b\x1a" % (_STREAM_TO_PROTO[stream], time_ns.to_bytes(8, "little"))


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _gap_to_proto(gap: Gap) -> pb.LogGap:
    return pb.LogGap(
        stream=_STREAM_TO_PROTO[gap.stream],
        lost_bytes=gap.lost_bytes,
        first_ns=gap.first_ns,
        last_ns=gap.last_ns,
        cause=gap.cause,
    )
