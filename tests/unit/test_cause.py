"""Why a job ended, from the facts of its record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.cause import Cause, cause_of
from jobruntime.model.spec import JobSpec
from jobruntime.model.state import Exited, Lost, Outcome, Signaled, State
from jobruntime.model.status import JobStatus, StopRequested
from jobruntime.model.usage import Oom, OomScope
from jobruntime.rpc.convert import (
    UnreadableMessageError,
    cause_from_proto,
    oom_from_proto,
    status_to_proto,
    stop_from_proto,
)
from jobruntime.rpc.gen import service_pb2 as pb

STOP = StopRequested("alice", 1_643_018_400_000_000_001, 15, 10_000)
OWN = Oom(OomScope.JOB, 2, leader=True)
ABOVE = Oom(OomScope.ABOVE, 1, leader=True)
CHILD = Oom(OomScope.JOB, 2, leader=False)
KILLED, TERMED = Signaled(9), Signaled(15)


def ended(
    outcome: Outcome | None,
    *,
    stop: StopRequested | None = None,
    timed_out: bool = False,
    killed: bool = False,
    oom: Oom | None = None,
) -> JobStatus:
    return JobStatus(
        "id",
        "alice",
        JobSpec(argv=("true",)),
        State.RUNNING if outcome is None else State.TERMINATED,
        outcome,
        1,
        stop_requested=stop,
        timed_out=timed_out,
        killed=killed,
        oom=oom,
    )


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (ended(None), None),
        (ended(None, stop=STOP, oom=CHILD), None),
        (ended(Exited(0)), Cause.EXITED),
        (ended(Exited(137)), Cause.EXITED),
        (ended(Exited(0), oom=CHILD), Cause.EXITED),
        (ended(Signaled(11)), Cause.SIGNAL),
        (ended(TERMED), Cause.SIGNAL),
        (ended(KILLED), Cause.SIGNAL),
        (ended(KILLED, oom=CHILD), Cause.SIGNAL),
        # The keeper did not send it, whatever was asked for before.
        (ended(KILLED, stop=STOP), Cause.SIGNAL),
        (ended(KILLED, timed_out=True), Cause.SIGNAL),
        (ended(TERMED, stop=STOP), Cause.STOP),
        (ended(Exited(0), stop=STOP), Cause.STOP),
        (ended(TERMED, stop=STOP, timed_out=True), Cause.STOP),
        (ended(KILLED, stop=STOP, killed=True), Cause.STOP_KILL),
        (ended(KILLED, stop=STOP, killed=True, timed_out=True), Cause.STOP_KILL),
        (ended(TERMED, timed_out=True), Cause.TIMEOUT),
        (ended(Exited(3), timed_out=True), Cause.TIMEOUT),
        (ended(KILLED, timed_out=True, killed=True), Cause.TIMEOUT_KILL),
        (ended(KILLED, oom=OWN), Cause.OOM),
        (ended(KILLED, oom=OWN, stop=STOP), Cause.OOM),
        (ended(KILLED, oom=ABOVE), Cause.OOM_ABOVE),
        (ended(Lost("keeper died")), Cause.LOST),
        (ended(Lost("keeper died"), oom=OWN, stop=STOP, killed=True), Cause.LOST),
    ],
)
def test_each_end_has_its_cause(status: JobStatus, cause: Cause | None) -> None:
    assert cause_of(status) is cause


OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Exited, st.integers(0, 255)),
    st.builds(Signaled, st.integers(1, 64)),
    st.builds(Lost, st.just("keeper died")),
)
STATUSES = st.builds(
    ended,
    st.none() | OUTCOMES,
    stop=st.none() | st.just(STOP),
    timed_out=st.booleans(),
    killed=st.booleans(),
    oom=st.none() | st.builds(Oom, st.sampled_from(OomScope), st.integers(1, 9), st.booleans()),
)


@given(STATUSES)
def test_a_job_has_a_cause_when_and_only_when_it_has_ended(status: JobStatus) -> None:
    assert (cause_of(status) is None) == (status.outcome is None)


@given(STATUSES)
def test_a_cause_and_its_facts_come_through_the_wire(status: JobStatus) -> None:
    message = pb.JobStatus.FromString(status_to_proto(status).SerializeToString())
    assert cause_from_proto(message) == cause_of(status)
    assert oom_from_proto(message) == status.oom
    assert stop_from_proto(message) == status.stop_requested
    assert message.killed == status.killed


def test_a_limit_that_is_not_known_is_never_guessed_at() -> None:
    with pytest.raises(UnreadableMessageError):
        oom_from_proto(pb.JobStatus(oom=pb.Oom(scope=9, kills=1)))  # type: ignore[arg-type]


def test_a_cause_of_a_newer_version_is_none_of_ours() -> None:
    assert cause_from_proto(pb.JobStatus(cause=99)) is None  # type: ignore[arg-type]
