"""Points in time from text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.errors import JobError
from jobruntime.model.instants import parse_instant_ns

NS = 1_000_000_000
T0 = 1_643_018_400 * NS  # 2022-01-24T10:00:00Z
NOW = T0 + 3600 * NS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-01-24T10:00:00Z", T0),
        ("2022-01-24t10:00:00z", T0),
        ("2022-01-24 11:30:00+01:30", T0),
        ("2022-01-24T08:00:00-02:00", T0),
        ("2022-01-24T10:00:00.5Z", T0 + NS // 2),
        ("2022-01-24T10:00:00.000000001Z", T0 + 1),
        ("1643018400", T0),
        ("1643018400.123456789", T0 + 123_456_789),
        ("0", 0),
        ("10m", NOW - 600 * NS),
        ("1h30m", NOW - 5400 * NS),
        ("500ms", NOW - NS // 2),
        ("1969-12-31T23:59:59.5Z", -NS // 2),
    ],
)
def test_a_time_is_read_in_every_form(text: str, expected: int) -> None:
    assert parse_instant_ns(text, NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2022-01-24", "2022-01-24T10:00:00", "2022-02-30T10:00:00Z", "-5m", "5 m"),
        *("1e9", "1643018400.", "1643018400.1234567891", "999999999999", "2022-01-24T10:00Z"),
        *("2022-01-24T25:00:00Z", "2022-01-24T10:00:00+25:00", "2022-01-24T10:00:00.Z", "\u0663"),
    ],
)
def test_what_is_no_time_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(JobError, match="cannot read the time"):
        parse_instant_ns(text, NOW)


@given(st.integers(0, 253_402_300_799_999_999))
def test_what_iso_8601_prints_is_read_back(at_us: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    assert parse_instant_ns(at.isoformat(), NOW) == at_us * 1000
