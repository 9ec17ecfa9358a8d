"""Between protobuf and the model."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.durations import MAX_MS
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.frames import MAX_DATA_BYTES, Chunk, Gap, Stream
from jobruntime.model.log_query import BOTH, LogQuery
from jobruntime.model.spec import JobSpec
from jobruntime.model.state import Exited, Lost, Outcome, Signaled, State
from jobruntime.model.status import JobStatus, StopRequested
from jobruntime.rpc.convert import (
    UnreadableMessageError,
    outcome_from_proto,
    outcome_to_proto,
    spec_of,
    start_request_of,
    state_from_proto,
    status_to_proto,
    timestamp_of,
)
from jobruntime.rpc.convert_logs import encode_log_batch, log_query_of, logs_request_of
from jobruntime.rpc.gen import service_pb2 as pb


def ns_of(timestamp: Timestamp) -> int:
    """Return the UTC nanoseconds of `timestamp`."""
    return timestamp.seconds * 1_000_000_000 + timestamp.nanos


def stop_requested_from_proto(status: pb.JobStatus) -> StopRequested | None:
    """Return the first request to stop the job, None if nobody asked."""
    if not status.HasField("stop_requested"):
        return None
    stop = status.stop_requested
    return StopRequested(stop.by, ns_of(stop.at), stop.signal, stop.grace_ms)


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ARGS = st.binary(max_size=30).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
VARIABLES = TEXT.filter(lambda text: bool(text) and "=" not in text)
LABELS = st.dictionaries(TEXT.filter(bool), TEXT, max_size=5)
TIMES_NS = st.integers(0, 2**63 - 1)
SPECS = st.builds(
    JobSpec,
    argv=st.builds(lambda first, rest: (first, *rest), ARGS.filter(bool), st.lists(ARGS)),
    env=st.dictionaries(VARIABLES, TEXT).map(lambda env: tuple(sorted(env.items()))),
    working_directory=st.none() | TEXT.map(lambda text: "/" + text),
    labels=LABELS.map(lambda labels: tuple(sorted(labels.items()))),
    name=st.none() | NAMES,
    stop_signal=st.integers(1, 64),
    grace_ms=st.integers(0, MAX_MS),
    timeout_ms=st.none() | st.integers(1, MAX_MS),
    request_id=st.none() | st.from_regex(r"[!-~]{1,128}", fullmatch=True),
)
OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Exited, st.integers(0, 255)),
    st.builds(Signaled, st.integers(1, 64)),
    st.builds(Lost, TEXT),
)


@given(SPECS)
def test_a_spec_comes_back_from_the_wire_as_it_went(spec: JobSpec) -> None:
    wire = start_request_of(spec).SerializeToString()
    request = pb.StartRequest.FromString(wire)
    if spec.timeout_ms is None:
        assert not request.HasField("timeout_ms")
    assert spec_of(request, default_grace_ms=1) == spec


def test_what_a_request_leaves_out_has_its_default() -> None:
    spec = spec_of(pb.StartRequest(argv=["true"]), default_grace_ms=1234)
    assert spec == JobSpec(argv=("true",), grace_ms=1234)


def test_an_explicit_zero_grace_is_not_the_default() -> None:
    assert spec_of(pb.StartRequest(argv=["true"], grace_ms=0), default_grace_ms=9).grace_ms == 0


@pytest.mark.parametrize(
    "request_",
    [
        pb.StartRequest(),
        pb.StartRequest(argv=["a"], argv_bytes=[b"a"]),
        pb.StartRequest(argv=[""]),
        pb.StartRequest(argv_bytes=[b"a", b"\0"]),
        pb.StartRequest(argv=["a"], working_directory="x"),
        pb.StartRequest(argv=["a"], stop_signal=0),
        pb.StartRequest(argv=["a"], timeout_ms=0),
        pb.StartRequest(argv=["a"], name="-"),
    ],
)
def test_a_request_that_breaks_a_rule_is_an_invalid_argument(request_: pb.StartRequest) -> None:
    with pytest.raises(JobError) as caught:
        spec_of(request_, default_grace_ms=1)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_only_arguments_may_be_bytes() -> None:
    with pytest.raises(JobError, match="environment variable 'A'"):
        start_request_of(JobSpec(argv=("a",), env=(("A", "\udcff"),)))


@given(OUTCOMES)
def test_an_outcome_comes_back_as_it_went(outcome: Outcome) -> None:
    wire = outcome_to_proto(outcome).SerializeToString()
    assert outcome_from_proto(pb.Outcome.FromString(wire)) == outcome


@given(TIMES_NS)
def test_a_time_keeps_its_nanoseconds(at_ns: int) -> None:
    assert ns_of(timestamp_of(at_ns)) == at_ns


@given(
    SPECS,
    st.sampled_from([state for state in State if state is not State.TERMINATED]),
    st.none() | OUTCOMES,
    TIMES_NS,
    st.none() | st.builds(StopRequested, TEXT, TIMES_NS, st.integers(1, 64), st.integers(0, 9)),
)
def test_a_status_tells_all_of_a_job(
    spec: JobSpec,
    state: State,
    outcome: Outcome | None,
    at_ns: int,
    stop: StopRequested | None,
) -> None:
    state = state if outcome is None else State.TERMINATED
    status = JobStatus(
        "id", "alice", spec, state, outcome, at_ns, at_ns, None, stop, timed_out=True
    )
    message = pb.JobStatus.FromString(status_to_proto(status).SerializeToString())
    assert state_from_proto(message) == (state, outcome)
    assert stop_requested_from_proto(message) == stop
    assert (message.job_id, message.owner, message.name) == ("id", "alice", spec.name or "")
    assert tuple(arg.decode("utf-8", "surrogateescape") for arg in message.argv) == spec.argv
    assert dict(message.labels) == dict(spec.labels)
    assert ns_of(message.created_at) == ns_of(message.started_at) == at_ns
    assert not message.HasField("ended_at")
    assert message.timed_out


@pytest.mark.parametrize(
    "status",
    [
        pb.JobStatus(),
        pb.JobStatus(state=pb.JOB_STATE_TERMINATED),
        pb.JobStatus(state=pb.JOB_STATE_TERMINATED, outcome=pb.Outcome()),
        pb.JobStatus(state=pb.JOB_STATE_RUNNING, outcome=pb.Outcome(exit_code=0)),
    ],
)
def test_a_state_that_is_not_known_is_never_guessed_at(status: pb.JobStatus) -> None:
    with pytest.raises(UnreadableMessageError):
        state_from_proto(status)


@given(
    st.builds(
        LogQuery,
        follow=st.booleans(),
        cursor=st.sampled_from(["", "2:48:0:0:0:0"]),
        tail_lines=st.none() | st.integers(0, 1000),
        since_ns=st.none() | st.integers(-(10**18), 2 * 10**18),
        until_ns=st.none() | st.integers(0, 2 * 10**18),
        streams=st.sampled_from([frozenset({Stream.STDERR}), frozenset({Stream.STDOUT}), BOTH]),
        grep=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    )
)
def test_a_query_of_a_log_arrives_as_it_was_made(query: LogQuery) -> None:
    request = logs_request_of("a", query)
    assert request.job == "a"
    assert log_query_of(request) == query


entries = st.lists(
    st.builds(Chunk, st.sampled_from(Stream), st.integers(0, 2**64 - 1), st.binary(max_size=300))
    | st.builds(
        Gap,
        st.sampled_from(Stream),
        *(st.integers(0, 2**64 - 1) for _ in range(3)),
        st.text(max_size=20),
    ),
    max_size=20,
)


@given(entries, st.text(max_size=200))
def test_a_batch_of_a_log_is_encoded_as_protobuf_encodes_it(
    entries: list[Chunk | Gap], cursor: str
) -> None:
    message = pb.LogsResponse(batch=pb.LogsBatch(), cursor=cursor)
    for entry in entries:
        stream = pb.LOG_STREAM_STDOUT if entry.stream is Stream.STDOUT else pb.LOG_STREAM_STDERR
        told = message.batch.entries.add()
        if isinstance(entry, Chunk):
            told.chunk.stream, told.chunk.time_ns, told.chunk.data = (
                stream,
                entry.time_ns,
                entry.data,
            )
        else:
            told.gap.stream, told.gap.lost_bytes, told.gap.cause = (
                stream,
                entry.lost_bytes,
                entry.cause,
            )
            told.gap.first_ns, told.gap.last_ns = entry.first_ns, entry.last_ns
    assert pb.LogsResponse.FromString(encode_log_batch(entries, cursor)) == message


def test_a_large_chunk_is_encoded_as_protobuf_encodes_it() -> None:
    chunk = Chunk(Stream.STDERR, 7, b"x" * MAX_DATA_BYTES)
    [entry] = pb.LogsResponse.FromString(encode_log_batch([chunk], "c")).batch.entries
    assert (entry.chunk.stream, entry.chunk.time_ns, entry.chunk.data) == (2, 7, chunk.data)
