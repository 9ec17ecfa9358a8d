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
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            index += 1
            break
        if not word.startswith("-") or word == "-":
            break
        index += 1
        name, separator, value = _split_option(word, valued)
        long_name = valued.get(name)
        if long_name is None:
            options.append(word)
        elif separator:
            options.append(f"{long_name}={value}")
        elif index < len(words):
            options.append(f"{long_name}={words[index]}")
            index += 1
        else:
            options.append(long_name)  # argparse says what is missing
    return options, list(words[index:])


def join_implied(words: Sequence[str], implied: Mapping[str, str]) -> list[str]:
    """Return `words` with `--name=value` in the place of a bare `--name` of `implied`.

    argparse would take the word behind it for its value.
    """
    end = words.index("--") if "--" in words else len(words)
    return [
        f"{word}={implied[word]}" if word in implied and place < end else word
        for place, word in enumerate(words)
    ]


def _split_option(word: str, valued: Mapping[str, str]) -> tuple[str, bool, str]:
    """Return an option's name, whether a value is joined to it, and that value."""
    if word.startswith("--"):
        name, separator, value = word.partition("=")
        return name, bool(separator), value
    if word[:2] in valued and len(word) > 2:
        return word[:2], True, word[2:].removeprefix("=")
    return word, False, ""
