"""What jobc makes of a job's counters and of the facts of its end."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.cli.advice import advise, format_part
from jobruntime.cli.causes import format_cause
from jobruntime.cli.counters import header, sample_line, usage_json, usage_rows
from jobruntime.cli.facts import Facts
from jobruntime.cli.times import span_text, time_text
from jobruntime.model.cause import Cause
from jobruntime.model.limits import NO_LIMITS, UNLIMITED, Limits
from jobruntime.model.state import Exited, Lost, Signaled, State
from jobruntime.model.status import StopRequested
from jobruntime.model.usage import Oom, OomScope, Usage

MIB, GIB = 1 << 20, 1 << 30
NS = 1_000_000_000
LIMITS = Limits(cpu_millis=200, memory_bytes=2 * GIB, memory_high_bytes=GIB, pids=32)
ALL = Usage(
    wall_ns=92 * NS,
    cpu_us=18_310_000,
    cpu_user_us=12_000_000,
    cpu_system_us=6_310_000,
    cpu_periods=920,
    cpu_throttled_periods=46,
    cpu_throttled_us=5_000_000,
    memory_bytes=600 * MIB,
    memory_peak_bytes=700 * MIB,
    swap_bytes=0,
    swap_peak_bytes=MIB,
    memory_high_events=0,
    memory_max_events=0,
    pids=12,
    pids_peak=30,
    pids_refused=0,
    io_read_bytes=10 * MIB,
    io_write_bytes=3 * MIB,
    io_reads=40,
    io_writes=12,
)
COUNTERS = st.builds(
    Usage,
    wall_ns=st.integers(0, 10**18),
    **{
        field.name: st.none() | st.integers(0, 2**62)
        for field in fields(Usage)
        if field.name != "wall_ns"
    },
)
OWN = Oom(OomScope.JOB, 2, leader=True)
CHILD = replace(OWN, leader=False)
ABOVE = Oom(OomScope.ABOVE, 1, leader=True)

# advice


def test_a_job_that_has_room_gets_no_advice() -> None:
    assert advise(ALL, LIMITS) == []
    assert advise(Usage(), LIMITS) == []
    assert advise(None, NO_LIMITS) == []


@pytest.mark.parametrize(
    ("counted", "advice"),
    [
        (
            {"memory_peak_bytes": int(1.97 * GIB)},
            "peak 1.97 of 2 GiB: with more it is killed; --memory raises it",
        ),
        (
            {"memory_peak_bytes": 2 * GIB, "memory_max_events": 3},
            "peak 2 of 2 GiB: it met the limit 3 times and had to free memory first, which is "
            "slow; --memory raises it",
        ),
        (
            {"cpu_throttled_periods": 396},
            "throttled 43 % of the time: it wants more than 0.2 CPUs; --cpus raises it",
        ),
        ({"memory_high_events": 1}, "slowed once above 1 GiB: --memory-high raises that"),
        ({"memory_high_events": 7}, "slowed 7 times above 1 GiB: --memory-high raises that"),
        (
            {"pids_refused": 1},
            "1 fork failed at its limit of 32 processes and threads; --pids raises it",
        ),
        (
            {"pids_refused": 5},
            "5 forks failed at its limit of 32 processes and threads; --pids raises it",
        ),
    ],
)
def test_a_limit_that_a_job_has_come_to_feel_is_named(counted: dict[str, int], advice: str) -> None:
    assert advise(replace(ALL, **counted), LIMITS) == [advice]


@pytest.mark.parametrize(
    ("usage", "is_advised"),
    [
        (Usage(memory_peak_bytes=90), True),
        (Usage(memory_peak_bytes=89), False),
        (Usage(cpu_periods=100, cpu_throttled_periods=10), True),
        (Usage(cpu_periods=100, cpu_throttled_periods=9), False),
        (Usage(cpu_periods=0, cpu_throttled_periods=0), False),
    ],
)
def test_advice_begins_at_nine_tenths_of_memory_and_at_a_tenth_of_the_periods(
    usage: Usage,
    is_advised: bool,  # noqa: FBT001
) -> None:
    assert bool(advise(usage, Limits(memory_bytes=100))) == is_advised


@pytest.mark.parametrize("limits", [NO_LIMITS, Limits(memory_bytes=UNLIMITED, pids=UNLIMITED)])
def test_a_peak_without_a_limit_calls_for_nothing(limits: Limits) -> None:
    assert advise(replace(ALL, memory_peak_bytes=1 << 50), limits) == []


def test_running_out_of_memory_is_said_once() -> None:
    full = replace(ALL, memory_peak_bytes=2 * GIB, memory_max_events=9)
    for oom in (OWN, CHILD):
        assert advise(full, LIMITS, oom) == [
            "out of memory at its limit: --memory raises it from 2 GiB"
        ]
    assert advise(None, NO_LIMITS, OWN) == ["out of memory at its limit: --memory raises it"]
    (above,) = advise(ALL, LIMITS, ABOVE)
    assert above.startswith("out of memory above it: ")


def test_limits_that_are_gone_by_now_are_not_named_with_a_number() -> None:
    felt = Usage(cpu_periods=2, cpu_throttled_periods=1, pids_refused=2, memory_high_events=1)
    lines = advise(felt, NO_LIMITS)
    assert len(lines) == 3
    assert not any("None" in line or str(UNLIMITED) in line for line in lines)
    assert not any("--pids" in line for line in lines)  # nothing that this would raise


@given(COUNTERS, st.sampled_from([LIMITS, NO_LIMITS]), st.sampled_from([None, OWN, ABOVE]))
def test_any_counters_give_lines_to_read(usage: Usage, limits: Limits, oom: Oom | None) -> None:
    assert all(line.isprintable() for line in advise(usage, limits, oom))


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (MIB, 64 * MIB, "1 of 64 MiB"),
        (0, MIB, "0 of 1 MiB"),
        (1000 * MIB, 1000 * MIB, "1000 of 1000 MiB"),
        (10, 100, "10 of 100 B"),
        (1 << 50, 1 << 51, "1 PiB of 2 PiB"),
    ],
)
def test_a_part_has_the_unit_of_the_whole(part: int, whole: int, text: str) -> None:
    assert format_part(part, whole) == text


# counters


def test_each_counter_stands_beside_its_limit() -> None:
    assert usage_rows(ALL, LIMITS, State.RUNNING) == [
        ("Time", "1m32s"),
        (
            "CPU",
            "18.31s, 19.9 % of a CPU on average (user: 12.00s, system: 6.31s, max: 0.2 CPUs, "
            "throttled: 5 % of the time, 5.00s)",
        ),
        ("Memory", "600 MiB (max: 2 GiB, high: 1 GiB, peak: 700 MiB)"),
        ("Swap", "0 B (max: 0 B, peak: 1 MiB)"),
        ("Pids", "12 (max: 32, peak: 30)"),
        ("I/O", "read 10 MiB in 40 operations, written 3 MiB in 12"),
    ]


def test_a_receipt_tells_peaks_in_the_place_of_what_is_in_use() -> None:
    receipt = replace(ALL, memory_bytes=None, swap_bytes=None, pids=None, pids_refused=4)
    rows = dict(usage_rows(receipt, LIMITS, State.TERMINATED))
    assert rows["Memory"] == "peak 700 MiB (max: 2 GiB, high: 1 GiB)"
    assert rows["Swap"] == "peak 1 MiB (max: 0 B)"
    assert rows["Pids"] == "peak 30 (max: 32, refused: 4)"


@pytest.mark.parametrize("state", [State.RUNNING, State.TERMINATED])
def test_what_is_not_counted_is_a_dash_and_never_zero(state: State) -> None:
    rows = dict(usage_rows(Usage(wall_ns=NS), NO_LIMITS, state))
    assert rows.pop("Time") == "1.00s"
    assert set(rows.values()) == {"-"}
    assert set(dict(usage_rows(None, NO_LIMITS, state)).values()) == {"-"}
    rows = dict(usage_rows(Usage(io_read_bytes=0), NO_LIMITS, state))
    assert rows["I/O"] == "read 0 B in - operations, written - in -"
    line = sample_line(Usage(), Usage(wall_ns=NS), NO_LIMITS, State.RUNNING)
    assert "0" not in line.replace("1.00s", "")


def test_in_json_every_counter_has_its_key_and_what_is_not_counted_is_null() -> None:
    names = [field.name for field in fields(Usage)]
    assert usage_json(Usage(wall_ns=5, cpu_us=0)) == dict.fromkeys(names) | {
        "wall_ns": 5,
        "cpu_us": 0,
    }
    assert usage_json(None) == dict.fromkeys(names)


def test_a_sample_tells_what_went_on_since_the_one_before() -> None:
    after = replace(
        ALL,
        wall_ns=ALL.wall_ns + 2 * NS,
        cpu_us=18_310_000 + 400_000,
        cpu_periods=940,
        cpu_throttled_periods=61,
        io_read_bytes=14 * MIB,
    )
    columns = header().split("  ")
    first = sample_line(None, ALL, LIMITS, State.RUNNING)
    line = sample_line(ALL, after, LIMITS, State.RUNNING)
    assert [column.strip() for column in columns if column.strip()] == [
        *("TIME", "CPU %", "THROTTLED %", "MEMORY / MAX", "MEM %", "PIDS / MAX"),
        *("READ/s", "WRITE/s", "STATE"),
    ]
    assert " ".join(first.split()) == "1m32s - - 600 MiB / 2 GiB 29.3 12 / 32 - - running"
    assert " ".join(line.split()) == (
        "1m34s 20.0 75.0 600 MiB / 2 GiB 29.3 12 / 32 2 MiB 0 B running"
    )
    assert len(line) - len("running") == len(header()) - len("STATE")


@given(st.none() | COUNTERS, st.none() | COUNTERS, st.sampled_from([LIMITS, NO_LIMITS]))
def test_any_two_samples_make_a_line(
    before: Usage | None, usage: Usage | None, limits: Limits
) -> None:
    assert sample_line(before, usage, limits, State.PAUSED).endswith("  paused")
    assert all(text for _, text in usage_rows(usage, limits, State.PAUSED))


@pytest.mark.parametrize(
    ("span_ns", "text"),
    [
        (0, "0ms"),
        (999_999_999, "999ms"),
        (NS, "1.00s"),
        (59_999_999_999, "59.99s"),
        (60 * NS, "1m"),
        (7384 * NS + 1, "2h3m4s"),
    ],
)
def test_a_span_of_time_is_never_told_longer_than_it_was(span_ns: int, text: str) -> None:
    assert span_text(span_ns) == text


def test_a_time_keeps_its_nanoseconds() -> None:
    assert time_text(1_643_018_400_000_000_001) == "2022-01-24T10:00:00.000000001Z"


# causes

STOP = StopRequested("alice", 1_643_018_400_000_000_000, 15, 10_000)
ASKED = "stop requested by alice at 2022-01-24T10:00:00.000000000Z with SIGTERM, grace 10s"
NOW = replace(STOP, grace_ms=0)
END = Facts(State.TERMINATED, limits=Limits(memory_bytes=64 * MIB))
KILLED = replace(END, outcome=Signaled(9))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (Facts(State.RUNNING), ""),
        (Facts(State.STOPPING, stop=STOP), ASKED),
        (Facts(State.STOPPING, timed_out=True), "its timeout passed"),
        (replace(END, outcome=Exited(137), cause=Cause.EXITED), "it ended by itself"),
        (
            replace(KILLED, cause=Cause.SIGNAL),
            "killed by SIGKILL, and not by a stop or a limit of this server",
        ),
        (
            replace(KILLED, cause=Cause.SIGNAL, stop=STOP),
            f"{ASKED}; killed by SIGKILL, and not by a stop or a limit of this server",
        ),
        (
            replace(END, outcome=Signaled(11), cause=Cause.SIGNAL),
            "it ended by SIGSEGV, which is not this server's doing",
        ),
        (
            replace(END, outcome=Signaled(15), cause=Cause.STOP, stop=STOP),
            f"{ASKED}; it ended by SIGTERM",
        ),
        (
            replace(END, outcome=Exited(0), cause=Cause.STOP, stop=STOP),
            f"{ASKED}; it ended with exit code 0",
        ),
        (
            replace(KILLED, cause=Cause.STOP_KILL, stop=STOP, killed=True),
            f"{ASKED}; it had not ended within its grace and was killed",
        ),
        (
            replace(KILLED, cause=Cause.STOP_KILL, stop=NOW, killed=True),
            f"{ASKED.removesuffix('10s')}0; it was killed at once",
        ),
        (
            replace(END, outcome=Exited(3), cause=Cause.STOP_KILL, stop=STOP, killed=True),
            f"{ASKED}; its grace was over, and it ended with exit code 3 as it was being killed",
        ),
        (
            replace(END, outcome=Signaled(15), cause=Cause.TIMEOUT, timed_out=True),
            "its timeout passed; it ended by SIGTERM",
        ),
        (
            replace(KILLED, cause=Cause.TIMEOUT_KILL, timed_out=True, killed=True),
            "its timeout passed; it had not ended within its grace and was killed",
        ),
        (
            replace(KILLED, cause=Cause.OOM, oom=OWN),
            "out of memory: it reached its limit of 64 MiB, and the kernel killed it",
        ),
        (
            replace(KILLED, cause=Cause.OOM, oom=OWN, limits=NO_LIMITS),
            "out of memory: it reached its limit of memory, and the kernel killed it",
        ),
        (
            replace(KILLED, cause=Cause.OOM_ABOVE, oom=ABOVE),
            "out of memory above it: the limit of all jobs together or the host's memory, and the "
            "kernel killed it",
        ),
        (
            Facts(State.RUNNING, oom=CHILD),
            "out of memory: it reached its limit of memory, and the kernel killed a child of it "
            "(oom_kill: 2); the job goes on",
        ),
        (
            replace(END, outcome=Exited(0), cause=Cause.EXITED, oom=CHILD),
            "it ended by itself; before that, out of memory: it reached its limit of memory, and "
            "the kernel killed a child of it (oom_kill: 2)",
        ),
        (
            replace(END, outcome=Lost("keeper died"), cause=Cause.LOST),
            "how it ended is not known",
        ),
        # Ended of a cause that only newer versions know: the facts are all there is to tell.
        (replace(KILLED, stop=STOP, timed_out=True), f"its timeout passed; {ASKED}"),
    ],
)
def test_the_facts_of_an_end_make_a_sentence(facts: Facts, text: str) -> None:
    assert format_cause(facts) == text


def test_no_two_causes_are_told_alike() -> None:
    facts = [
        replace(KILLED, outcome=Exited(137), cause=Cause.EXITED),
        replace(KILLED, cause=Cause.SIGNAL),
        replace(KILLED, cause=Cause.STOP, stop=STOP),
        replace(KILLED, cause=Cause.STOP_KILL, stop=STOP),
        replace(KILLED, cause=Cause.TIMEOUT, timed_out=True),
        replace(KILLED, cause=Cause.TIMEOUT_KILL, timed_out=True),
        replace(KILLED, cause=Cause.OOM, oom=OWN),
        replace(KILLED, cause=Cause.OOM_ABOVE, oom=ABOVE),
        replace(KILLED, cause=Cause.LOST),
    ]
    assert {each.cause for each in facts} == set(Cause)
    assert len({format_cause(each) for each in facts}) == len(facts)
