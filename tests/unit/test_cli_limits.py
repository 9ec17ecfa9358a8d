"""Limits on jobc's command line: what the flags ask for, and how limits are told."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.cli import limit_flags, main, start, update
from jobruntime.cli.failure import Exit, Failure
from jobruntime.cli.limits_told import exact_size, format_limits, limits_json
from jobruntime.cli.main import Parser
from jobruntime.cli.words import join_implied, split_options
from jobruntime.model.limits import NO_LIMITS, UNLIMITED, IoLimit, Limits
from jobruntime.model.quantities import parse_size
from jobruntime.rpc.convert import spec_of

MIB = 1 << 20


def parsed(words: list[str]) -> Namespace:
    parser = Parser(allow_abbrev=False)
    limit_flags.add_limit_flags(parser, "")
    return parser.parse_args(words)


def limits_of(line: str) -> Limits:
    return limit_flags.limits_of(parsed(shlex.split(line)))


def started(*words: str) -> Limits:
    """Return the limits in the request of `jobc start WORDS`, as the server reads them."""
    parser = ArgumentParser(allow_abbrev=False)
    actions = start.add_arguments(parser)
    options, command = split_options(words, main._valued(actions))
    args = parser.parse_args(options)
    args.command = command
    return spec_of(start.request_of(args), default_grace_ms=1).limits


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("", NO_LIMITS),
        ("--cpus 1.5", Limits(cpu_millis=1500)),
        ("--cpus=max", Limits(cpu_millis=UNLIMITED)),
        ("--cpu-weight 10000", Limits(cpu_weight=10000)),
        ("--cpuset 6,0-3", Limits(cpuset="0-3,6")),
        ("--cpuset max", Limits(cpuset="")),
        ("--memory 256M", Limits(memory_bytes=256 * MIB)),
        ("--memory 1M --memory 2M", Limits(memory_bytes=2 * MIB)),
        ("--memory-high 1.5g", Limits(memory_high_bytes=1536 * MIB)),
        ("--memory 1G --memory-swap 3G", Limits(memory_bytes=1 << 30, memory_swap_bytes=3 << 30)),
        # Whether that is one, the server's default for --memory decides.
        ("--memory-swap 3G", Limits(memory_swap_bytes=3 << 30)),
        ("--pids 32", Limits(pids=32)),
        ("--io-weight 1", Limits(io_weight=1)),
        (
            "--io-read-bps /srv:10M --io-write-bps /dev/sda:1K --io-read-iops /srv:500 "
            "--io-read-iops /dev/sda:max --io-write-iops /srv:7 --io-read-bps /srv:20M",
            Limits(
                io=(
                    IoLimit("/srv", read_bps=20 * MIB, read_iops=500, write_iops=7),
                    IoLimit("/dev/sda", write_bps=1024, read_iops=UNLIMITED),
                )
            ),
        ),
        ("--io-write-bps '/a b:1M'", Limits(io=(IoLimit("/a b", write_bps=MIB),))),
        ("--oom-group", Limits(oom_group=True)),
        ("--oom-group=true", Limits(oom_group=True)),
        ("--oom-group=false", Limits(oom_group=False)),
        ("--oom-group --pids 1", Limits(oom_group=True, pids=1)),
    ],
)
def test_the_flags_ask_for_their_limits(line: str, limits: Limits) -> None:
    assert limits_of(line) == limits
    assert started(*shlex.split(line), "true") == limits


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("--cpus 0", "0.01 to 8192"),
        ("--cpus=-1", "1.5"),
        ("--cpus 0.001", "0.01 to 8192"),
        ("--cpu-weight 0", "1 to 10000"),
        ("--cpu-weight max", "digits"),
        ("--cpuset 3-1", "0-3,6"),
        ("--cpuset 0-9999", "0-3,6"),
        ("--memory 0", "4 KiB to"),
        ("--memory 4095", "4 KiB to"),
        ("--memory 9999P", "4 KiB to"),
        ("--memory 256X", "256M"),
        ("--memory ''", "256M"),
        (f"--memory {2**63 - 1}", "max"),
        (f"--memory {2**63}", "4 KiB to"),
        (f"--memory {2**64}", "256M"),
        ("--memory-high 1", "4 KiB to"),
        ("--pids 0", "1 to 4194304"),
        ("--pids 1K", "digits"),
        ("--io-weight 10001", "1 to 10000"),
        ("--io-read-bps srv:10M", "/srv:10M"),
        ("--io-read-bps /srv", "/srv:10M"),
        ("--io-write-bps /srv:0", "give 1 to"),
        ("--io-read-iops /srv:10M", "digits"),
        ("--io-write-iops /srv:4294967295", "give 1 to"),
        ("--oom-group=yes", "--oom-group=true"),
        ("--memory 1M --memory-swap 512K", "total of both"),
        ("--memory max --memory-swap 1M", "give --memory too"),
        ("--memory 1M --memory-high 1M", "below --memory"),
    ],
)
def test_a_bad_value_is_a_usage_error_that_says_what_is_right(line: str, right: str) -> None:
    with pytest.raises(Failure) as refused:
        limits_of(line)
    assert refused.value.exit_code is Exit.USAGE
    assert right in str(refused.value)


def test_a_path_that_no_message_can_carry_is_a_usage_error() -> None:
    with pytest.raises(Failure, match="not UTF-8") as refused:
        limit_flags.limits_of(parsed(["--io-read-bps", os.fsdecode(b"/\xff:1M")]))
    assert refused.value.exit_code is Exit.USAGE


@pytest.mark.parametrize("given_value", ["", "=true", "=false"])
def test_the_word_behind_a_flag_whose_value_may_be_left_out_is_not_its_value(
    given_value: str,
) -> None:
    flag = f"--oom-group{given_value}"
    parser = ArgumentParser(allow_abbrev=False)
    update.add_arguments(parser)
    args = parser.parse_args(join_implied([flag, "nightly"], {"--oom-group": "true"}))
    assert (args.job, args.oom_group) == ("nightly", given_value != "=false")
    assert started(flag, "false").oom_group == (given_value != "=false")


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["--a", "x"], ["--a=1", "x"]),
        (["x", "--a"], ["x", "--a=1"]),
        (["--a=0", "--b", "x"], ["--a=0", "--b", "x"]),
        (["--a", "--", "--a"], ["--a=1", "--", "--a"]),
        ([], []),
    ],
)
def test_a_bare_flag_gets_the_value_that_it_means(words: list[str], joined: list[str]) -> None:
    assert join_implied(words, {"--a": "1"}) == joined


def test_update_without_a_limit_is_a_usage_error() -> None:
    parser = ArgumentParser(allow_abbrev=False)
    update.add_arguments(parser)
    with pytest.raises(Failure, match="no limit was given") as refused:
        update.check(parser.parse_args(["nightly"]))
    assert refused.value.exit_code is Exit.USAGE
    update.check(parser.parse_args(["nightly", "--pids", "1"]))


@pytest.mark.parametrize("add_arguments", [start.add_arguments, update.add_arguments])
def test_the_help_has_the_limits_in_a_group_of_their_own(
    add_arguments: Callable[[ArgumentParser], object],
) -> None:
    parser = Parser(allow_abbrev=False)
    add_arguments(parser)
    text = parser.format_help()
    group = text[text.index("\nlimits:\n") :]
    for word in (
        *("--cpus", "--cpu-weight", "--cpuset", "--memory", "--memory-high", "--memory-swap"),
        *("--pids", "--io-weight", "--io-read-bps", "--io-write-bps", "--io-read-iops"),
        *("--io-write-iops", "--oom-group[=true|false]", "powers of 1024", "forbids swap"),
        "as docker has it",
    ):
        assert word in " ".join(group.split())


# how limits are told


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (NO_LIMITS, "none"),
        (
            Limits(1500, 200, "0-3", 64 * MIB, 48 * MIB, 96 * MIB, 32, 50),
            "--cpus 1.5 --cpu-weight 200 --cpuset 0-3 --memory 64M --memory-high 48M "
            "--memory-swap 96M --pids 32 --io-weight 50",
        ),
        (Limits(cpu_millis=UNLIMITED, cpuset=""), "--cpus max --cpuset max"),
        (Limits(memory_bytes=10_000_000), "--memory 10000000"),
        (Limits(pids=2048), "--pids 2048"),
        (
            Limits(io=(IoLimit("/a b", write_bps=MIB, read_iops=4096, write_iops=UNLIMITED),)),
            "--io-write-bps '/a b:1M' --io-read-iops '/a b:4096' --io-write-iops '/a b:max'",
        ),
        (Limits(oom_group=True), "none"),
        (Limits(oom_group=False), "--oom-group=false"),
    ],
)
def test_limits_are_told_as_flags(limits: Limits, text: str) -> None:
    assert format_limits(limits) == text


MEMORY = st.none() | st.just(UNLIMITED) | st.integers(4096, 1 << 60)


@given(
    st.builds(
        Limits,
        cpu_millis=st.none() | st.integers(10, 8_192_000) | st.just(UNLIMITED),
        cpu_weight=st.none() | st.integers(1, 10_000),
        cpuset=st.sampled_from([None, "", "0-3,6"]),
        memory_high_bytes=MEMORY,
        pids=st.none() | st.integers(1, 1 << 22),
        io=st.sampled_from([(), (IoLimit("/a b", 1024, UNLIMITED, 7),)]),
        oom_group=st.none() | st.just(False),
    )
)
def test_what_is_told_can_be_given_again(limits: Limits) -> None:
    text = format_limits(limits)
    assert limits_of("" if text == "none" else text) == limits


@given(st.integers(0, 1 << 60))
def test_an_exact_size_is_read_back(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


def test_in_json_a_lifted_limit_is_a_word_and_one_that_is_not_set_is_null() -> None:
    told = limits_json(
        Limits(
            cpu_millis=UNLIMITED,
            cpuset="",
            memory_bytes=MIB,
            io=(IoLimit("/x", read_bps=1, write_bps=UNLIMITED),),
            oom_group=False,
        )
    )
    assert told == {
        "cpu_millis": "max",
        "cpu_weight": None,
        "cpuset": "max",
        "memory_bytes": MIB,
        "memory_high_bytes": None,
        "memory_swap_bytes": None,
        "pids": None,
        "io_weight": None,
        "io": [
            {
                "path": "/x",
                "read_bps": 1,
                "write_bps": "max",
                "read_iops": None,
                "write_iops": None,
            }
        ],
        "oom_group": False,
    }
