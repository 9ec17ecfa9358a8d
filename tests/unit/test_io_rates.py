"""Rates of I/O are compared, replaced and bounded by disk, whatever the paths are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.linux.limits import Write, io_writes, only_writes
from jobruntime.model.io_rates import (
    AboveCeilingError,
    IoCeiling,
    IoOrder,
    check_rates,
    encode_io_order,
    known_devices,
    parse_io_order,
    rates_at_start,
    replace_rates,
)
from jobruntime.model.limits import IO_RATES, UNLIMITED, IoLimit

SRV = IoLimit("/srv", write_bps=10, read_iops=5, device="8:0")
CEILING = IoCeiling("this server", (SRV,))
DEVICES = {"/a": "8:0", "/b": "8:0", "/c": "8:16", "/d": "8:16"}

NUMBERS = st.none() | st.integers(1, 99)
RATES = st.lists(
    st.builds(IoLimit, st.sampled_from(list(DEVICES)), *[NUMBERS] * len(IO_RATES)),
    max_size=4,
    unique_by=lambda rate: rate.path,
).map(
    lambda rates: tuple(
        IoLimit(r.path, r.read_bps, r.write_bps, r.read_iops, r.write_iops, DEVICES[r.path])
        for r in rates
    )
)


def by_disk(rates: tuple[IoLimit, ...]) -> dict[tuple[str | None, str], int]:
    """Return the rates that hold, the stricter where a disk has two."""
    found: dict[tuple[str | None, str], int] = {}
    for rate in rates:
        for name in IO_RATES:
            value = getattr(rate, name)
            if value is not None:
                key = (rate.device, name)
                found[key] = min(value, found.get(key, UNLIMITED))
    return found


@given(RATES, RATES)
def test_what_is_given_for_a_disk_replaces_what_any_path_of_it_had(
    base: tuple[IoLimit, ...], over: tuple[IoLimit, ...]
) -> None:
    merged = replace_rates(base, over)
    assert by_disk(merged) == by_disk(base) | by_disk(over)
    assert len({rate.path for rate in merged}) == len(merged)


@given(RATES, RATES, RATES)
def test_no_job_gets_more_from_a_disk_than_its_ceiling_by_whatever_path(
    base: tuple[IoLimit, ...], asked: tuple[IoLimit, ...], most: tuple[IoLimit, ...]
) -> None:
    order = IoOrder(base, asked, (IoCeiling("somebody", most),))
    bounds = by_disk(most)
    wanted = {
        (rate.device, name): value
        for rate in asked
        for name in IO_RATES
        if (value := getattr(rate, name)) is not None
        and value > bounds.get((rate.device, name), UNLIMITED)
    }
    if wanted:
        with pytest.raises(AboveCeilingError, match="somebody allows at most"):
            rates_at_start(order, asked)
        return
    held = by_disk(rates_at_start(order, asked))
    assert held == bounds | by_disk(base) | by_disk(asked)


def test_another_path_on_the_disk_of_a_ceiling_meets_it() -> None:
    check_rates([IoLimit("/srv/x", write_bps=10, read_bps=99, device="8:0")], [CEILING])
    check_rates([IoLimit("/srv", write_bps=11, device="8:16")], [CEILING])
    for more, shown in ((11, "11"), (UNLIMITED, "max")):
        told = f"^--io-write-bps /data:{shown}: this server allows at most 10$"
        with pytest.raises(AboveCeilingError, match=told):
            check_rates([IoLimit("/data", write_bps=more, device="8:0")], [CEILING])


def test_a_ceiling_holds_where_nothing_is_said_of_its_disk() -> None:
    asked = IoLimit("/data", write_bps=3, device="8:0")
    assert rates_at_start(IoOrder((), (), (CEILING,)), ()) == (SRV,)
    assert rates_at_start(IoOrder((), (asked,), (CEILING,)), (asked,)) == (
        asked,
        IoLimit("/srv", read_iops=5, device="8:0"),
    )


@given(RATES, RATES, RATES)
def test_an_order_is_read_as_it_was_written(
    base: tuple[IoLimit, ...], asked: tuple[IoLimit, ...], most: tuple[IoLimit, ...]
) -> None:
    plain = tuple(IoLimit(rate.path, read_bps=rate.read_bps) for rate in asked)
    order = IoOrder(base, plain, (IoCeiling("somebody", most), IoCeiling("another", base)))
    assert parse_io_order(json.loads(json.dumps(encode_io_order(order)))) == order
    assert known_devices(order) == {r.path: r.device for r in (*base, *most)}


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        {"base": [], "asked": [], "ceilings": [["x"]]},
        {"base": [], "asked": [["/x", 1, None, None, None, "8:0 rbps=max"]], "ceilings": []},
        # What the server names it has looked up: nobody opens such a path with more rights.
        {"base": [["/x", 1, None, None, None]], "asked": [], "ceilings": []},
        {"base": [], "asked": [], "ceilings": [["x", [["/x", 1, None, None, None]]]]},
    ],
    ids=str,
)
def test_what_is_no_order_is_refused(raw: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse_io_order(raw)


def test_two_paths_on_one_disk_are_one_write_of_the_stricter_rates() -> None:
    rates = (IoLimit("/a", 5, 9, device="8:0"), IoLimit("/b", 7, UNLIMITED, device="8:0"))
    assert io_writes(rates) == [Write("io.max", "8:0 rbps=5 wbps=9")]
    with pytest.raises(ValueError, match="/a"):
        io_writes([IoLimit("/a", 5)])


def test_what_is_not_wanted_any_more_is_lifted() -> None:
    present = "8:16 rbps=max wbps=3 riops=max wiops=max\n8:0 rbps=1 wbps=2 riops=max wiops=max\n"
    wanted = [Write("io.max", "8:0 rbps=5"), Write("io.max", "7:1 wiops=9")]
    assert only_writes(wanted, present) == [
        Write("io.max", "8:0 rbps=5 wbps=max riops=max wiops=max"),
        Write("io.max", "7:1 rbps=max wbps=max riops=max wiops=9"),
        Write("io.max", "8:16 rbps=max wbps=max riops=max wiops=max"),
    ]
    assert only_writes([], "") == []
