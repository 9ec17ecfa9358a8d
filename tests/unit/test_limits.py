"""Limits: what may be asked for, how defaults and ceilings meet it, and every form they take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.limit_texts import (
    NUMBERS,
    RATES,
    parse_cpus_allowed,
    parse_limit_texts,
    parse_number,
    parse_rate,
)
from jobruntime.model.limits import (
    IO_RATES,
    KINDS,
    MAX_BYTES,
    MAX_IO_DEVICES,
    NO_LIMITS,
    UNLIMITED,
    IoLimit,
    Limits,
    check_ceiling,
    check_limits,
    check_together,
    encode_limits,
    join_rates,
    merge_limits,
    parse_limits,
)
from jobruntime.model.quantities import format_cpuset
from jobruntime.rpc.convert_limits import limits_of, limits_to_proto
from jobruntime.rpc.gen import service_pb2 as pb

MIB = 1 << 20
PATHS = st.from_regex(r"/[a-z]{0,4}", fullmatch=True)


def numbers(name: str) -> st.SearchStrategy[int | None]:
    kind = KINDS[name]
    lifted = st.just(UNLIMITED) if kind.may_be_unlimited else st.nothing()
    return st.none() | st.integers(kind.lowest, kind.highest) | lifted


def rates(name: str) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(1, IO_RATES[name][2]) | st.just(UNLIMITED)


def io_limit(path: str, **values: int) -> IoLimit:
    return IoLimit(path, **values)  # type: ignore[arg-type] # these fields are numbers


IO_LIMITS = st.builds(IoLimit, PATHS, **{name: rates(name) for name in IO_RATES})
RESOLVED = st.builds(replace, IO_LIMITS, device=st.none() | st.sampled_from(["8:0", "259:4"]))
CPUSETS = st.frozensets(st.integers(0, 99), min_size=1, max_size=9).map(format_cpuset)
LIMITS = st.builds(
    Limits,
    **{name: numbers(name) for name in KINDS},
    cpuset=st.none() | st.just("") | CPUSETS,
    io=st.lists(IO_LIMITS, max_size=3, unique_by=lambda limit: limit.path).map(tuple),
    oom_group=st.none() | st.booleans(),
)


@given(LIMITS)
def test_limits_are_read_back_from_the_disk_as_they_were_written(limits: Limits) -> None:
    check_limits(limits)
    assert parse_limits(json.loads(json.dumps(encode_limits(limits)))) == limits


@given(st.lists(RESOLVED, max_size=3).map(tuple))
def test_the_disk_of_a_path_is_kept_with_it(io: tuple[IoLimit, ...]) -> None:
    limits = Limits(io=io)
    assert parse_limits(json.loads(json.dumps(encode_limits(limits)))) == limits


@given(LIMITS)
def test_limits_come_back_from_the_wire_as_they_went(limits: Limits) -> None:
    wire = limits_to_proto(limits).SerializeToString()
    assert limits_of(pb.Limits.FromString(wire)) == limits


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "x",
        {"new": 1},
        {"io": [[]]},
        {"io": 1},
        {"io": [["/", 1, 1, 1, 1, "8:0 wbps=max"]]},
    ],
)
def test_what_is_no_limits_is_refused(raw: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse_limits(raw)


@pytest.mark.parametrize("name", KINDS)
def test_a_number_beyond_its_range_is_refused_with_the_range(name: str) -> None:
    kind = KINDS[name]
    beyond = [0, -1, kind.lowest - 1, kind.highest + 1, 1 << 62, -UNLIMITED, UNLIMITED - 1]
    if not kind.may_be_unlimited:
        beyond.append(UNLIMITED)
    for value in beyond:
        with pytest.raises(JobError, match=f"^cannot limit a job to {kind.flag} ") as refused:
            check_limits(replace(NO_LIMITS, **{name: value}))  # type: ignore[arg-type]
        assert refused.value.reason is Reason.INVALID_ARGUMENT
        assert kind.format(kind.lowest) in refused.value.remedy
    for value in (kind.lowest, kind.highest):
        check_limits(replace(NO_LIMITS, **{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", IO_RATES)
def test_a_rate_beyond_its_range_is_refused(name: str) -> None:
    flag, _, highest = IO_RATES[name]
    for value in (0, -1, highest + 1):
        with pytest.raises(JobError, match=f"^cannot limit a job to {flag} /x:"):
            check_limits(Limits(io=(io_limit("/x", **{name: value}),)))
    check_limits(Limits(io=(io_limit("/x", **{name: highest}),)))


@pytest.mark.parametrize(
    "io",
    [
        (IoLimit(""),),
        (IoLimit("srv", read_bps=1),),
        (IoLimit("/a\0b", read_bps=1),),
        (IoLimit("/a", read_bps=1), IoLimit("/a", write_bps=1)),
        tuple(IoLimit(f"/{number}", read_bps=1) for number in range(MAX_IO_DEVICES + 1)),
    ],
)
def test_a_path_is_absolute_and_there_once(io: tuple[IoLimit, ...]) -> None:
    with pytest.raises(JobError, match=r"^cannot limit "):
        check_limits(Limits(io=io))


def test_cpus_that_no_linux_has_are_refused() -> None:
    with pytest.raises(JobError, match="cannot read the CPUs"):
        check_limits(Limits(cpuset="0-9999"))


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (Limits(memory_swap_bytes=MIB), "without a limit of memory"),
        (Limits(memory_bytes=UNLIMITED, memory_swap_bytes=MIB), "without a limit of memory"),
        (Limits(memory_bytes=2 * MIB, memory_swap_bytes=MIB), "together to 1 MiB"),
        (Limits(memory_bytes=MIB, memory_high_bytes=MIB), "would never happen"),
        (Limits(memory_bytes=MIB, memory_high_bytes=2 * MIB), "would never happen"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: Limits, cause: str) -> None:
    check_limits(limits)
    with pytest.raises(JobError, match=cause) as refused:
        check_together(limits)
    assert refused.value.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "limits",
    [
        NO_LIMITS,
        Limits(memory_bytes=MIB),
        Limits(memory_bytes=MIB, memory_swap_bytes=MIB),
        Limits(memory_bytes=MIB, memory_swap_bytes=UNLIMITED),
        Limits(memory_bytes=2 * MIB, memory_high_bytes=MIB),
        Limits(memory_bytes=MIB, memory_high_bytes=UNLIMITED),
        Limits(memory_bytes=UNLIMITED, memory_high_bytes=MIB),
        Limits(memory_high_bytes=MIB),
    ],
)
def test_limits_that_fit_are_taken(limits: Limits) -> None:
    check_together(limits)


@pytest.mark.parametrize("high", [MIB, 2 * MIB])
def test_a_memory_high_that_nobody_asked_for_does_not_refuse_a_smaller_limit_of_memory(
    high: int,
) -> None:
    merged = merge_limits(Limits(memory_high_bytes=high), Limits(memory_bytes=MIB))
    check_together(merged, Limits(memory_bytes=MIB))
    with pytest.raises(JobError, match="would never happen"):
        check_together(merged, Limits(memory_high_bytes=high))


@pytest.mark.parametrize(
    ("limits", "swap_bytes"),
    [
        (NO_LIMITS, None),
        (Limits(memory_bytes=MIB), 0),
        (Limits(memory_bytes=MIB, memory_swap_bytes=MIB), 0),
        (Limits(memory_bytes=MIB, memory_swap_bytes=3 * MIB), 2 * MIB),
        (Limits(memory_bytes=MIB, memory_swap_bytes=UNLIMITED), UNLIMITED),
    ],
)
def test_a_limit_of_memory_alone_forbids_swap(limits: Limits, swap_bytes: int | None) -> None:
    assert limits.swap_bytes == swap_bytes


def rate_table(limits: Limits) -> dict[tuple[str, str], int]:
    """Return every rate that is set."""
    return {
        (limit.path, name): value
        for limit in limits.io
        for name in IO_RATES
        if (value := getattr(limit, name)) is not None
    }


@given(LIMITS, LIMITS)
def test_what_is_given_counts_and_the_rest_stays(base: Limits, over: Limits) -> None:
    merged = merge_limits(base, over)
    check_limits(merged)
    for field in fields(Limits):
        if field.name == "io":
            continue
        given_value = getattr(over, field.name)
        expected = getattr(base, field.name) if given_value is None else given_value
        if field.name == "memory_swap_bytes" and over.memory_bytes is not None:
            expected = given_value  # a total for another limit of memory means nothing
        assert getattr(merged, field.name) == expected, field.name
    assert rate_table(merged) == rate_table(base) | rate_table(over)


@given(LIMITS)
def test_nothing_given_changes_nothing(limits: Limits) -> None:
    assert merge_limits(limits, NO_LIMITS) == limits
    assert merge_limits(NO_LIMITS, limits) == limits
    assert merge_limits(limits, limits) == limits


def test_of_a_rate_that_is_given_twice_the_last_counts() -> None:
    joined = join_rates([IoLimit("/a", read_bps=1, write_bps=2), IoLimit("/a", read_bps=3)])
    assert joined == (IoLimit("/a", read_bps=3, write_bps=2),)


@given(LIMITS, LIMITS)
def test_no_job_gets_more_than_the_ceiling(limits: Limits, ceiling: Limits) -> None:
    limits, ceiling = replace(limits, cpuset=None, io=()), replace(ceiling, cpuset=None, io=())
    above = [
        name
        for name in KINDS
        if None not in (getattr(limits, name), getattr(ceiling, name))
        and getattr(limits, name) > getattr(ceiling, name)
    ]
    if above:
        with pytest.raises(JobError, match=f"^cannot run a job with {KINDS[above[0]].flag} ") as no:
            check_ceiling(limits, ceiling)
        assert no.value.reason is Reason.LIMIT_ABOVE_CEILING
        assert no.value.remedy
        return
    bounded = check_ceiling(limits, ceiling)
    for name in KINDS:
        most, found = getattr(ceiling, name), getattr(bounded, name)
        if most is not None and found is not None:
            assert found <= most
        if getattr(limits, name) is not None:
            assert found == getattr(limits, name)


def test_a_ceiling_of_cpus_bounds_and_refuses() -> None:
    ceiling = Limits(cpuset="0-3")
    assert check_ceiling(NO_LIMITS, ceiling).cpuset == "0-3"
    assert check_ceiling(Limits(cpuset="1,2"), ceiling).cpuset == "1,2"
    for more in ("3-4", ""):
        with pytest.raises(JobError, match=r"--cpuset .*: this server allows at most 0-3"):
            check_ceiling(Limits(cpuset=more), ceiling)


def test_a_refusal_says_what_was_to_be_done_and_whose_ceiling_it_is() -> None:
    told = "^cannot update a job to --pids 5: the role dev allows at most 4;"
    with pytest.raises(JobError, match=told):
        check_ceiling(
            Limits(pids=5), Limits(pids=4), lambda _: "the role dev", what="update a job to"
        )


def test_a_job_without_a_weight_has_no_more_than_its_ceiling() -> None:
    assert check_ceiling(NO_LIMITS, Limits(cpu_weight=50)).cpu_weight == 50
    assert check_ceiling(NO_LIMITS, Limits(cpu_weight=500)).cpu_weight == 100


@pytest.mark.parametrize("name", ["cpu_millis", "memory_bytes", "memory_high_bytes", "pids"])
def test_what_says_nothing_is_bounded_by_the_ceiling(name: str) -> None:
    most = KINDS[name].lowest + 1
    ceiling = replace(NO_LIMITS, **{name: most})  # type: ignore[arg-type]
    assert getattr(check_ceiling(NO_LIMITS, ceiling), name) == most
    lifted = replace(NO_LIMITS, **{name: UNLIMITED})  # type: ignore[arg-type]
    with pytest.raises(JobError, match=f"{KINDS[name].flag} max: this server allows at most"):
        check_ceiling(lifted, ceiling)


# limits as people write them


def test_a_table_of_texts_gives_every_limit() -> None:
    assert parse_limit_texts(
        {
            "cpus": 1.5,
            "cpu_weight": 200,
            "cpuset": "0-3,6",
            "memory": "256M",
            "memory_high": "max",
            "memory_swap": 1073741824,
            "pids": "100",
            "io_weight": 50,
            "io_read_bps": ["/srv:10M", "/dev/sda:max"],
            "io_write_iops": ["/srv:500"],
            "oom_group": False,
        }
    ) == Limits(
        cpu_millis=1500,
        cpu_weight=200,
        cpuset="0-3,6",
        memory_bytes=256 * MIB,
        memory_high_bytes=UNLIMITED,
        memory_swap_bytes=1 << 30,
        pids=100,
        io_weight=50,
        io=(IoLimit("/srv", read_bps=10 * MIB, write_iops=500), IoLimit("/dev/sda", UNLIMITED)),
        oom_group=False,
    )


@pytest.mark.parametrize(
    "texts",
    [
        {"memroy": "1M"},
        {"memory": True},
        {"memory": None},
        {"memory": ["1M"]},
        {"memory": "-1M"},
        {"memory": 1e30},
        {"memory": 2**63 - 1},
        {"memory_swap": str(2**63 - 1)},
        {"cpus": 0},
        {"cpus": float("nan")},
        {"cpus": "0.001"},
        {"cpu_weight": "max"},
        {"cpuset": ""},
        {"pids": 1.5},
        {"io_read_bps": "/srv:10M"},
        {"io_read_bps": [1]},
        {"io_read_bps": [f"/srv:{2**63 - 1}"]},
        {"io_read_iops": ["/srv:5000000000"]},
        {"oom_group": "true"},
    ],
    ids=str,
)
def test_a_table_that_says_anything_else_is_refused(texts: Mapping[str, object]) -> None:
    with pytest.raises(JobError, match=r"^cannot ") as refused:
        parse_limit_texts(texts)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert refused.value.remedy


@pytest.mark.parametrize("name", NUMBERS)
def test_a_limit_is_lifted_by_a_word_of_its_own(name: str) -> None:
    field, _ = NUMBERS[name]
    if KINDS[field].may_be_unlimited:
        assert parse_number(name, "max") == UNLIMITED
    else:
        with pytest.raises(JobError):
            parse_number(name, "max")


def test_a_rate_and_the_choice_of_cpus_are_lifted_by_the_same_word() -> None:
    assert {parse_rate(name, "/x:max") for name in RATES} == {
        io_limit("/x", **{field: UNLIMITED}) for field, _ in RATES.values()
    }
    assert parse_cpus_allowed("max") == ""
    assert parse_cpus_allowed("2,0,1") == "0-2"


@pytest.mark.parametrize("name", NUMBERS)
@given(data=st.data())
def test_what_a_kind_tells_of_a_number_is_in_its_range(name: str, data: st.DataObject) -> None:
    field, _ = NUMBERS[name]
    value = data.draw(st.integers(KINDS[field].lowest, KINDS[field].highest))
    text = str(value) if name != "cpus" else KINDS[field].format(value)
    assert parse_number(name, text) == value


# limits on the wire


@pytest.mark.parametrize(
    "message",
    [
        pb.Limits(memory_bytes=0),
        pb.Limits(memory_bytes=-1),
        pb.Limits(memory_bytes=UNLIMITED),
        pb.Limits(memory_bytes=MAX_BYTES + 1),
        pb.Limits(cpu_millis=9),
        pb.Limits(cpuset=""),
        pb.Limits(cpuset="x"),
        pb.Limits(unlimited=[pb.LIMIT_KIND_UNSPECIFIED]),
        pb.Limits(unlimited=[99]),  # type: ignore[list-item]
        pb.Limits(pids=1, unlimited=[pb.LIMIT_KIND_PIDS]),
        pb.Limits(cpuset="0", unlimited=[pb.LIMIT_KIND_CPUSET]),
        pb.Limits(io=[pb.IoLimit(read_bps=1)]),
        pb.Limits(io=[pb.IoLimit(path="/x", read_bps=0)]),
        pb.Limits(io=[pb.IoLimit(path="/x", read_bps=UNLIMITED)]),
        pb.Limits(io=[pb.IoLimit(path="/x", unlimited=[pb.IO_RATE_UNSPECIFIED])]),
        pb.Limits(io=[pb.IoLimit(path="/x", read_bps=1, unlimited=[pb.IO_RATE_READ_BPS])]),
        pb.Limits(io=[pb.IoLimit(path="/x", read_bps=1), pb.IoLimit(path="/x", write_bps=1)]),
    ],
    ids=lambda message: str(message).replace("\n", " "),
)
def test_a_message_that_breaks_a_rule_is_an_invalid_argument(message: pb.Limits) -> None:
    with pytest.raises(JobError) as refused:
        limits_of(message)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert refused.value.remedy


def test_no_message_and_an_empty_one_set_nothing() -> None:
    assert limits_of(pb.StartRequest().limits) == limits_of(pb.Limits()) == NO_LIMITS
    assert limits_to_proto(NO_LIMITS) == pb.Limits()


def test_a_job_whose_memory_ends_below_the_ceiling_of_high_memory_is_not_slowed() -> None:
    ceiling = Limits(memory_high_bytes=4 << 30)
    for asked in (Limits(memory_bytes=2 << 30), Limits(memory_bytes=4 << 30)):
        bounded = check_ceiling(asked, ceiling)
        assert bounded == asked
        check_together(bounded)
    assert check_ceiling(Limits(memory_bytes=5 << 30), ceiling).memory_high_bytes == 4 << 30
    assert check_ceiling(Limits(memory_bytes=UNLIMITED), ceiling).memory_high_bytes == 4 << 30
