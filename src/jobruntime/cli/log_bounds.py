"""The bounds of a job's log: the flags of `start` that set them, and how they are told."""

from __future__ import annotations

from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jobruntime.model.log_policy import LogPolicy

FULL: Final = ("drop-oldest", "stop-recording", "block")

_DESCRIPTION: Final = """\
How much of the job's output is kept on the server's disk, until it is removed (jobc rm, jobc
prune). What is not given is the server's default: all of it, as long as the disk has room. Whatever
is dropped shows in `jobc logs` as a gap with its bytes and times.
"""


def add_bounds_flags(parser: ArgumentParser) -> list[Action]:
    """Add the flags in a group of their own."""
    add = parser.add_argument_group("log", _DESCRIPTION).add_argument
    return [
        add(
            "--log-max",
            type=_log_size,
            metavar="SIZE",
            help="the most that the log takes, 1M or more",
        ),
        add(
            "--log-full",
            choices=FULL,
            metavar="WAY",
            help="what happens then: drop-oldest makes room for what comes, stop-recording drops "
            "what comes, block lets the job wait in its next write. Where the disk has no room, "
            "the first two drop what comes until there is some (default: drop-oldest)",
        ),
    ]


def bounds_of(args: Namespace) -> LogPolicy:
    """Return the bounds that the flags name."""
    from jobruntime.model.log_policy import LogFull, LogPolicy

    return LogPolicy(args.log_max, None if args.log_full is None else LogFull(args.log_full))


def format_bounds(bounds: LogPolicy) -> str:
    """Return the flags of `jobc start` that ask for exactly these bounds; empty for none."""
    from .limits_told import exact_size

    words = []
    if bounds.max_bytes is not None:
        words += ["--log-max", exact_size(bounds.max_bytes)]
    if bounds.on_full is not None:
        words += ["--log-full", str(bounds.on_full)]
    return " ".join(words)


def bounds_json(bounds: LogPolicy) -> dict[str, object]:
    """Return every field of the API's LogBounds; null is not set."""
    return {
        "max_bytes": bounds.max_bytes,
        "on_full": None if bounds.on_full is None else str(bounds.on_full),
    }


def _log_size(text: str) -> int:
    from jobruntime.model.errors import JobError
    from jobruntime.model.log_policy import LogPolicy, check_log_policy
    from jobruntime.model.quantities import parse_size

    try:
        size = parse_size(text)
        check_log_policy(LogPolicy(size))
    except JobError as error:
        raise ArgumentTypeError(str(error)) from error
    return size
