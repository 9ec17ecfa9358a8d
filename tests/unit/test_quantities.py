"""Amounts as people write them."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.quantities import (
    MAX_CPU,
    format_count,
    format_cpus,
    format_cpuset,
    format_size,
    parse_count,
    parse_cpus,
    parse_cpuset,
    parse_device_rate,
    parse_size,
)

NO_DIGITS = ["", " ", "-1", "+1", "1 ", " 1", "1\n", "٣", "nan", "inf", "1e3", "1_000", "0x10"]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1024),
        ("256M", 256 << 20),
        ("256m", 256 << 20),
        ("256MB", 256 << 20),
        ("256MiB", 256 << 20),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("2T", 2 << 40),
        ("1P", 1 << 50),
    ],
)
def test_a_size_is_bytes_or_has_a_unit_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", [*NO_DIGITS, "M", ".5M", "1.M", "1 M", "1X", "1iB", "1E", "9" * 20]
)
def test_anything_else_is_no_size_and_the_form_is_told(text: str) -> None:
    with pytest.raises(JobError, match=r"^cannot read the size") as refused:
        parse_size(text)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert "256M" in refused.value.remedy


@given(st.integers(0, 999), st.sampled_from("KMGTP"))
def test_a_size_with_a_unit_is_exact(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * 1024 ** ("KMGTP".index(unit) + 1)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (64 << 20, "64 MiB"),
        (int(1.97 * (1 << 30)), "1.97 GiB"),
        (1 << 50, "1 PiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_a_size_is_told_short(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(0, 1 << 60))
def test_what_is_told_of_a_size_is_near_it(size_bytes: int) -> None:
    number, unit = format_size(size_bytes).split()
    told = float(number) * 1024 ** (["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit))
    assert abs(told - size_bytes) <= size_bytes / 1000


@pytest.mark.parametrize(
    ("text", "millis"), [("2", 2000), ("1.5", 1500), ("0.25", 250), (".2", 200), ("0.001", 1)]
)
def test_cpus_are_thousandths(text: str, millis: int) -> None:
    assert parse_cpus(text) == millis


@pytest.mark.parametrize("text", [*NO_DIGITS, ".", "1.", "0.0001", "1,5", "1.5K", "9" * 10])
def test_anything_else_is_no_number_of_cpus(text: str) -> None:
    with pytest.raises(JobError, match=r"^cannot read the number of CPUs"):
        parse_cpus(text)


@given(st.integers(0, 10**9))
def test_cpus_are_read_back_as_they_were_told(millis: int) -> None:
    assert parse_cpus(format_cpus(millis)) == millis


@given(st.integers(0, 10**19 - 1))
def test_a_count_is_read_back_as_it_was_told(count: int) -> None:
    assert parse_count(format_count(count)) == count


@pytest.mark.parametrize("text", [*NO_DIGITS, "1.5", "1K", "max", "9" * 20])
def test_anything_else_is_no_count(text: str) -> None:
    with pytest.raises(JobError, match=r"^cannot read the number"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "cpus", "told"),
    [
        ("0", {0}, "0"),
        ("0-3,6", {0, 1, 2, 3, 6}, "0-3,6"),
        ("6,0-1,1-2", {0, 1, 2, 6}, "0-2,6"),
        ("5-5", {5}, "5"),
        ("1,2", {1, 2}, "1-2"),
        (f"0-{MAX_CPU}", set(range(MAX_CPU + 1)), f"0-{MAX_CPU}"),
    ],
)
def test_a_list_of_cpus_is_a_set(text: str, cpus: set[int], told: str) -> None:
    assert parse_cpuset(text) == cpus
    assert format_cpuset(frozenset(cpus)) == told


@pytest.mark.parametrize(
    "text", ["", ",", "0,", ",0", "3-1", "-1", "1-", "a", "0 ,1", "0-1-2", f"{MAX_CPU + 1}", "٣"]
)
def test_anything_else_is_no_list_of_cpus(text: str) -> None:
    with pytest.raises(JobError, match=r"^cannot read the CPUs"):
        parse_cpuset(text)


@given(st.frozensets(st.integers(0, MAX_CPU), min_size=1, max_size=50))
def test_a_set_of_cpus_is_read_back_as_it_was_told(cpus: frozenset[int]) -> None:
    assert parse_cpuset(format_cpuset(cpus)) == cpus


def test_a_list_that_names_the_same_cpus_again_and_again_is_refused_in_no_time() -> None:
    began_at = time.monotonic()
    with pytest.raises(JobError, match=r"^cannot read the CPUs"):
        parse_cpuset(",".join([f"0-{MAX_CPU}"] * 500_000))
    assert time.monotonic() - began_at < 5  # without a bound it is a minute


@pytest.mark.parametrize(
    ("text", "path", "rate"),
    [
        ("/srv:10M", "/srv", "10M"),
        ("/dev/disk/by-path/pci-0000:00:1f.2:500", "/dev/disk/by-path/pci-0000:00:1f.2", "500"),
        ("/a b:max", "/a b", "max"),
        ("/:1", "/", "1"),
    ],
)
def test_a_rate_stands_behind_the_last_colon(text: str, path: str, rate: str) -> None:
    assert parse_device_rate(text) == (path, rate)


@pytest.mark.parametrize("text", ["", ":", "/srv", "/srv:", "srv:10M", ":10M", "8:0 10M"])
def test_without_an_absolute_path_or_a_rate_it_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"^cannot read the device and rate"):
        parse_device_rate(text)


@pytest.mark.parametrize(
    "parse", [parse_size, parse_cpus, parse_count, parse_cpuset, parse_device_rate]
)
@given(text=st.text(alphabet="0123456789.,-:/KMGTPiBb ax", max_size=24))
def test_any_text_is_an_amount_or_refused(parse: Callable[[str], object], text: str) -> None:
    with suppress(JobError):
        parse(text)
