"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.durations import MAX_MS, format_duration, parse_duration_ms
from jobruntime.model.errors import JobError, Reason


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("0", 0),
        ("0s", 0),
        ("500ms", 500),
        ("90s", 90_000),
        ("2m", 120_000),
        ("1h30m", 5_400_000),
        ("1.5s", 1500),
        ("0.25s", 250),
        ("1d", 86_400_000),
        ("1s500ms", 1500),
        ("36500d", MAX_MS),
    ],
)
def test_a_duration_is_read(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "5",
        "s",
        "-1s",
        "+1s",
        "1 s",
        " 1s",
        "1s ",
        "1S",
        "1w",
        ".5s",
        "1.s",
        "1e3s",
        "1s\n",
        "٣s",
        "nan",
        "inf",
        "1_000s",
        "36501d",
        "9" * 15 + "d",
        "9" * 400 + "s",
        "1s2",
    ],
)
def test_anything_else_is_refused_with_the_form_to_use(text: str) -> None:
    with pytest.raises(JobError, match=r"^cannot read the duration") as refused:
        parse_duration_ms(text)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert "500ms" in refused.value.remedy


@given(st.integers(0, MAX_MS))
def test_a_duration_that_was_written_is_read_back(duration_ms: int) -> None:
    assert parse_duration_ms(format_duration(duration_ms)) == duration_ms


@given(st.text(alphabet="0123456789.dhms -", max_size=20))
def test_any_text_is_a_duration_in_range_or_refused(text: str) -> None:
    try:
        duration_ms = parse_duration_ms(text)
    except JobError:
        return
    assert 0 <= duration_ms <= MAX_MS
