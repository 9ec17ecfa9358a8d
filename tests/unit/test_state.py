"""The states of a job: every pair is tried, and an end is an end."""

import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.state import (
    TRANSITIONS,
    Event,
    Exited,
    Lost,
    Outcome,
    Signaled,
    State,
    TransitionError,
    format_state,
    next_state,
    parse_signal,
    signal_name,
)

outcomes = st.one_of(
    st.builds(Exited, st.integers(0, 255)),
    st.builds(Signaled, st.integers(1, 64)),
    st.builds(Lost, st.text()),
)


@pytest.mark.parametrize(("state", "event"), [*itertools.product(State, Event)])
def test_a_pair_leads_where_the_table_says_and_a_missing_one_raises(
    state: State, event: Event
) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(TransitionError, match=str(state)):
            next_state(state, event)


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_no_course_of_events_leads_out_of_the_end_or_back_to_the_start(course: list[Event]) -> None:
    state = State.STARTING
    for event in course:
        try:
            following = next_state(state, event)
        except TransitionError:
            continue
        assert state is not State.TERMINATED
        assert following is not State.STARTING
        if state is State.STOPPING:
            assert following in (State.STOPPING, State.TERMINATED)
        state = following


def test_every_state_can_be_reached_and_every_live_one_can_end() -> None:
    assert set(TRANSITIONS.values()) | {State.STARTING} == set(State)
    for state in set(State) - {State.TERMINATED}:
        assert next_state(state, Event.LOST) is State.TERMINATED


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Exited(0), "finished (exit code: 0)"),
        (Signaled(9), "stopped (signal: 9)"),
        (Lost("keeper died"), "lost (keeper died)"),
    ],
)
def test_an_end_is_told_in_the_designs_words(outcome: Outcome, text: str) -> None:
    assert format_state(State.TERMINATED, outcome) == text


@given(outcomes)
def test_only_an_exit_with_0_reads_as_success(outcome: Outcome) -> None:
    text = format_state(State.TERMINATED, outcome)
    assert (text == "finished (exit code: 0)") == (outcome == Exited(0))


@pytest.mark.parametrize("signo", range(1, int(signal.SIGRTMAX) + 1))
def test_every_signal_is_found_by_its_number_and_named(signo: int) -> None:
    assert parse_signal(str(signo)) == signo
    assert signal_name(signo)


@pytest.mark.parametrize("known", list(signal.Signals))
def test_every_named_signal_is_found_in_each_spelling(known: signal.Signals) -> None:
    for text in (known.name, known.name.removeprefix("SIG"), known.name.lower(), f" {known.name} "):
        assert parse_signal(text) == known


@given(st.text(max_size=12))
def test_any_word_is_a_signal_or_refused(text: str) -> None:
    try:
        signo = parse_signal(text)
    except (KeyError, ValueError):
        return
    assert 1 <= signo <= 64


@pytest.mark.parametrize("text", ["0", "65", "-1", "", "NONE", "SIG", "²", "99999999999999999999"])
def test_a_word_that_names_no_signal_is_refused(text: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        parse_signal(text)
