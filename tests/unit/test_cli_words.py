"""Where jobc's own options end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.cli.words import gather_options, split_options

VALUED = {"-e": "--env", "--env": "--env", "-w": "--workdir", "--name": "--name"}


@pytest.mark.parametrize(
    ("line", "options", "rest"),
    [
        ("sleep -l 60", [], ["sleep", "-l", "60"]),
        ("-- -x", [], ["-x"]),
        ("-- -- -x", [], ["--", "-x"]),
        ("--name=a sh -c x -- --name b", ["--name=a"], ["sh", "-c", "x", "--", "--name", "b"]),
        ("--env A=B -e C=D cmd", ["--env=A=B", "--env=C=D"], ["cmd"]),
        ("-eA=B -w/x cmd -e F", ["--env=A=B", "--workdir=/x"], ["cmd", "-e", "F"]),
        ("-e=A=B cmd", ["--env=A=B"], ["cmd"]),
        ("-e -x -- cmd", ["--env=-x"], ["cmd"]),
        ("--env -- cmd", ["--env=--"], ["cmd"]),
        ("--help cmd", ["--help"], ["cmd"]),
        ("-h", ["-h"], []),
        ("- x", [], ["-", "x"]),
        ("--name", ["--name"], []),
        ("--name=", ["--name="], []),
        ("--unknown a", ["--unknown"], ["a"]),
        ("", [], []),
    ],
)
def test_options_end_at_the_first_word_that_is_none(
    line: str, options: list[str], rest: list[str]
) -> None:
    assert split_options(line.split(), VALUED) == (options, rest)


@given(st.lists(st.text()))
def test_what_follows_two_dashes_is_never_touched(words: list[str]) -> None:
    assert split_options(["--name", "a", "--", *words], VALUED) == (["--name=a"], words)


@given(st.text())
def test_any_value_survives(value: str) -> None:
    options, rest = split_options(["-e", value, "cmd"], VALUED)
    assert (options, rest) == ([f"--env={value}"], ["cmd"])


@pytest.mark.parametrize(
    ("line", "options", "others"),
    [
        ("a --name b c -x", ["--name=b", "-x"], ["a", "c"]),
        ("-xe A=B a", ["-x", "--env=A=B"], ["a"]),
        ("-xeA=B a", ["-x", "--env=A=B"], ["a"]),
        ("-xy a", ["-x", "-y"], ["a"]),
        ("a -e", ["--env"], ["a"]),
        ("a -x -- -y --name b", ["-x"], ["a", "-y", "--name", "b"]),
        ("- a", [], ["-", "a"]),
        ("", [], []),
    ],
)
def test_options_may_stand_among_the_other_words(
    line: str, options: list[str], others: list[str]
) -> None:
    assert gather_options(line.split(), VALUED) == (options, others)
