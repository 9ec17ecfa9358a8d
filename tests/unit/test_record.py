"""What keepers write and what jobd and keepers say to each other: read back as written."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.errors import JobError
from jobruntime.model.frames import Gap, Stream, Totals
from jobruntime.model.limits import IoLimit, Limits
from jobruntime.model.protocol import Detail, Failure, Step, encode_failure, parse_failure
from jobruntime.model.record import (
    Progress,
    encode_outcome,
    encode_progress,
    parse_outcome,
    parse_progress,
)
from jobruntime.model.spec import JobSpec, encode_spec, parse_spec, same_request
from jobruntime.model.state import Exited, Lost, Signaled, State
from jobruntime.model.status import StopRequested
from jobruntime.model.usage import Oom, OomScope, Usage

times = st.integers(0, 2**63 - 1)
outcomes = st.one_of(
    st.builds(Exited, st.integers(0, 255)),
    st.builds(Signaled, st.integers(1, 64)),
    st.builds(Lost, st.text(max_size=30)),
)
stops = st.builds(StopRequested, st.text(max_size=30), times, st.integers(1, 64), times)
totals = st.builds(Totals, times, times, times)
gaps = st.builds(Gap, st.sampled_from(Stream), times, times, times, st.text(max_size=30))
io_limits = st.lists(
    st.builds(IoLimit, st.text(max_size=30), st.none() | times, st.none() | times), max_size=2
).map(tuple)
progress = st.builds(
    Progress,
    state=st.sampled_from(State),
    started_at_ns=st.none() | times,
    ended_at_ns=st.none() | times,
    outcome=st.none() | outcomes,
    stop_requested=st.none() | stops,
    timed_out=st.booleans(),
    log_size=st.none() | times,
    totals=totals,
    gaps=st.lists(gaps, max_size=3).map(tuple),
    killed=st.booleans(),
    oom=st.none() | st.builds(Oom, st.sampled_from(OomScope), times, st.booleans()),
    limits=st.none() | st.builds(Limits, cpu_millis=st.none() | times, io=io_limits),
    usage=st.none() | st.builds(Usage, wall_ns=times, cpu_us=st.none() | times),
)
ADDED = {"killed", "oom", "limits", "usage"}
"""Keys that keepers of the first version do not write."""
failures = st.builds(
    Failure,
    st.sampled_from(Step),
    st.integers(0, 200),
    st.text(max_size=30),
    st.sampled_from(Detail),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
# What exec takes: no NUL; bytes that are not UTF-8 are in the surrogateescape form.
words = st.binary(max_size=30).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
names = words.filter(lambda word: word and "=" not in word)
specs = st.builds(
    JobSpec,
    argv=st.lists(words, max_size=4).flatmap(
        lambda rest: words.filter(bool).map(lambda first: (first, *rest))
    ),
    env=st.dictionaries(names, words, max_size=4).map(lambda env: tuple(env.items())),
    working_directory=st.none() | words.map(lambda word: f"/{word}"),
    labels=st.dictionaries(st.sampled_from("abc"), st.text("xyz ", max_size=5)).map(
        lambda labels: tuple(labels.items())
    ),
    name=st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True),
    stop_signal=st.integers(1, 64),
    grace_ms=st.integers(0, 10**9),
    timeout_ms=st.none() | st.integers(1, 10**9),
    request_id=st.none() | st.from_regex(r"[!-~]{1,128}", fullmatch=True),
)


def through_json(value: object) -> object:
    return json.loads(json.dumps(value))


@given(progress)
def test_a_record_is_read_back_as_it_was_written(written: Progress) -> None:
    raw = through_json(encode_progress(written))
    assert isinstance(raw, dict)
    assert parse_progress(raw) == written


@given(progress, st.data())
def test_a_record_that_lacks_a_key_is_refused(written: Progress, data: st.DataObject) -> None:
    raw = encode_progress(written)
    del raw[data.draw(st.sampled_from(sorted(raw.keys() - ADDED)))]
    with pytest.raises(ValueError, match=r"."):
        parse_progress(raw)


@given(progress)
def test_a_record_without_the_keys_that_came_later_is_read(written: Progress) -> None:
    raw = {key: value for key, value in encode_progress(written).items() if key not in ADDED}
    read = parse_progress(raw)
    assert (read.killed, read.oom, read.limits, read.usage) == (False, None, None, None)
    assert read.outcome == written.outcome


@given(progress, st.data())
def test_a_record_with_a_strange_value_is_read_or_refused_but_breaks_nothing(
    written: Progress, data: st.DataObject
) -> None:
    raw = encode_progress(written)
    raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(json_values)
    try:
        parse_progress(raw)
    except ValueError:
        pass


@given(outcomes)
def test_an_outcome_is_read_back_as_it_was_written(outcome: Exited | Signaled | Lost) -> None:
    assert parse_outcome(through_json(encode_outcome(outcome))) == outcome


@given(json_values)
def test_what_is_no_outcome_is_refused(raw: object) -> None:
    try:
        outcome = parse_outcome(raw)
    except ValueError:
        return
    assert encode_outcome(outcome) == raw


@given(failures)
def test_a_failure_is_read_back_as_it_was_told(failure: Failure) -> None:
    raw = through_json(encode_failure(failure))
    assert isinstance(raw, dict)
    assert parse_failure(raw) == failure


@given(st.dictionaries(st.sampled_from(["step", "errno", "path", "detail"]), json_values))
def test_what_is_no_failure_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_failure(raw | {"step": "unknown"})


@given(specs)
def test_a_spec_is_read_back_as_it_was_written(spec: JobSpec) -> None:
    raw = through_json(encode_spec(spec))
    assert isinstance(raw, dict)
    assert parse_spec(raw) == spec


@given(specs, st.randoms())
def test_a_request_is_the_same_in_whatever_order_its_variables_came(
    spec: JobSpec, random: Random
) -> None:
    raw = encode_spec(spec)
    env = list(spec.env)
    random.shuffle(env)
    raw["env"] = env
    assert same_request(spec, parse_spec(raw))


@given(specs, specs)
def test_two_requests_are_the_same_only_if_all_of_them_is(one: JobSpec, other: JobSpec) -> None:
    differ = {k: v for k, v in encode_spec(one).items() if encode_spec(other)[k] != v}
    unordered = differ.keys() <= {"env", "labels"} and all(
        sorted(getattr(one, key)) == sorted(getattr(other, key)) for key in differ
    )
    assert same_request(one, other) == unordered


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_spec_refuses_what_exec_could_not_take(name: str, value: str) -> None:
    bad = not name or "=" in name or "\0" in name + value
    if bad:
        with pytest.raises(JobError, match=r"^cannot "):
            JobSpec(argv=("true",), env=((name, value),))
    else:
        JobSpec(argv=("true",), env=((name, value),))
