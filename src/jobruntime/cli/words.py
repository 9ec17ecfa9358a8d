"""Splits a command line at the first word that is no option, alike on every Python.

argparse cannot be left to it: what REMAINDER and `--` do differs from 3.11 to 3.13
(cpython issues 61252, 66419, 81691).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def split_options(words: Sequence[str], valued: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the options that `words` begins with, and the rest without a `--` before it.

    `valued` maps each option that takes a value to its long form. An option is given back as one
    word, `--name=value`, so that argparse takes any value, also one that begins with `-`.
    """
    options: list[str] = []
    left = list(words)
    while left and _is_option(left[0]):
        word = left.pop(0)
        if word == "--":
            break
        options += _take_option(word, left, valued)
    return options, left


def gather_options(words: Sequence[str], valued: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return all options, wherever they stand before a `--`, and all other words."""
    options: list[str] = []
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return options, others + left
        if _is_option(word):
            options += _take_option(word, left, valued)
        else:
            others.append(word)
    return options, others


def join_implied(words: Sequence[str], implied: Mapping[str, str]) -> list[str]:
    """Return `words` with `--name=value` in the place of a bare `--name` of `implied`.

    argparse would take the word behind it for its value.
    """
    end = words.index("--") if "--" in words else len(words)
    return [
        f"{word}={implied[word]}" if word in implied and place < end else word
        for place, word in enumerate(words)
    ]


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _take_option(word: str, left: list[str], valued: Mapping[str, str]) -> list[str]:
    """Return the options in `word`; takes a value from the words that are `left` behind it."""
    options: list[str] = []
    if not word.startswith("--"):  # short ones may share a word: -fn 5
        while len(word) > 2 and word[:2] not in valued:
            options.append(word[:2])
            word = f"-{word[2:]}"
    name, separator, value = _split_option(word, valued)
    long_name = valued.get(name)
    if long_name is None:
        return [*options, word]
    if separator:
        return [*options, f"{long_name}={value}"]
    # Without any value argparse says what is missing.
    return [*options, f"{long_name}={left.pop(0)}" if left else long_name]


def _split_option(word: str, valued: Mapping[str, str]) -> tuple[str, bool, str]:
    """Return an option's name, whether a value is joined to it, and that value."""
    if word.startswith("--"):
        name, separator, value = word.partition("=")
        return name, bool(separator), value
    if word[:2] in valued and len(word) > 2:
        return word[:2], True, word[2:].removeprefix("=")
    return word, False, ""
