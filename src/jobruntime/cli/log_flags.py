"""The flags of `jobc logs`, what they ask for together, and its help."""

from __future__ import annotations

import time
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Final

from .failure import Exit, Failure
from .values import DEFAULT_RETRY_MS, duration_ms, exact

if TYPE_CHECKING:
    from jobruntime.model.log_query import LogQuery

USAGE: Final = "[FLAGS] ID [ID ...]"
DESCRIPTION: Final = """\
Print the output of a job from its first byte, and go on as it is written until the job ends.
Of several jobs, all at once: each line of text has its job before it (`name | `), each object of
JSON the job's id under the key "job".

In JSON, each line of output is an object on a line:

  {"log": "text", "stream": "stdout", "time": "2022-01-24T10:00:00.000000000Z"}

The time is that of capture. "partial": true marks a piece that no newline ended (the end of the
output, or of 16 MiB of one line). Where bytes are not UTF-8, "log_base64" has them exactly. Output
that could not be kept is {"gap": {"bytes": N, "cause": "...", "until": TIME}, "stream", "time"}.
As text and raw, what the job wrote to stderr goes to stderr, and a gap is told there.
"""
EPILOG: Final = """\
ID is a job's id, a unique beginning of one, or its name.

A TIME is RFC 3339 (2022-01-24T10:00:00Z, 2022-01-24T11:00:00.5+01:00), Unix time (1643018400.5),
or a duration, which means that long ago (10m, 1h30m). What is given together must all hold:
--tail counts those lines that the other flags leave. PATTERN is RE2, whose time is linear in the
text (github.com/google/re2/wiki/Syntax); the server searches, and sends whole lines.

Where the server goes away meanwhile, jobc comes back to the same byte and says so. Ctrl-C (exit
code 130) leaves the job alone. Where nobody reads any more (| head -1), jobc ends quietly, with 141
as cat does. The exit code is 0 only if all that was asked for was printed, up to the end of the
job, the time of --until, or with --no-follow the present end; of several jobs it is the worst.

examples:
  jobc logs nightly | jq -r .log
  jobc logs --no-follow a62d
  jobc logs -o raw a62d >out 2>err
  jobc logs -f -n 20 -o text nightly            the last 20 lines, and on
  jobc logs -n 0 -o text -t web db cache        what comes from now on, of three jobs
  jobc logs --no-follow --since 1h --until 30m nightly
  jobc logs --until 2030-01-01T00:00:00Z nightly
  jobc logs --stream stderr --grep 'error|fatal' -i -o text nightly
  jobc logs --no-follow --show-cursor nightly   tells on stderr: jobc: cursor: C
  jobc logs --no-follow --cursor C nightly      what was written since
"""


def add_log_flags(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the arguments."""
    add = parser.add_argument
    return [
        add("jobs", metavar="ID", nargs="+", help="the job, or several"),
        add(
            "-f",
            "--follow",
            action="store_true",
            help="go on until the job ends, which is the default",
        ),
        add("--no-follow", action="store_true", help="stop at the present end of the output"),
        *_add_choice(parser),
        *_add_form(parser),
        add("--cursor", default="", metavar="C", help="go on where an earlier reading ended"),
        add(
            "--show-cursor",
            action="store_true",
            help="tell on stderr at the end where another reading goes on",
        ),
        add(
            "--retry-for",
            type=duration_ms,
            default=DEFAULT_RETRY_MS,
            metavar="DURATION",
            help="how long to look for a server that went away meanwhile (default: 30s)",
        ),
    ]


def _add_choice(parser: ArgumentParser) -> list[Action]:
    add = parser.add_argument
    return [
        add(
            "-n",
            "--tail",
            type=line_count,
            metavar="N",
            help="only the last N lines, and what follows them; 0: only what follows, all: every "
            "line (default: all)",
        ),
        add(
            "--since", type=instant_ns, metavar="TIME", help="only what was captured then or later"
        ),
        add(
            "--until",
            type=instant_ns,
            metavar="TIME",
            help="only what was captured then or earlier; one to come is waited for",
        ),
        add(
            "--stream", choices=("stdout", "stderr"), metavar="NAME", help="only stdout, or stderr"
        ),
        add(
            "--grep", metavar="PATTERN", help="only lines in which this regular expression matches"
        ),
        add(
            "-i",
            "--ignore-case",
            action="store_true",
            help="let --grep match whatever the case of letters",
        ),
    ]


def _add_form(parser: ArgumentParser) -> list[Action]:
    add = parser.add_argument
    return [
        add(
            "-o",
            "--output",
            choices=("json", "text", "raw"),
            metavar="FORM",
            help="json: as above; text: the lines, stdout to stdout and stderr to stderr; raw: the "
            "same, byte for byte (default: json)",
        ),
        add("--raw", action="store_true", help="the same as -o raw"),
        add(
            "-t",
            "--timestamps",
            action="store_true",
            help="with -o text: the time of capture before each line",
        ),
    ]


def check(args: Namespace) -> None:
    """Refuse flags that contradict each other, and settle the form; raises Failure."""
    if args.raw and args.output not in (None, "raw"):
        raise _contradiction("--raw", f"-o {args.output} is another form")
    args.output = "raw" if args.raw else args.output or "json"
    if args.follow and args.no_follow:
        raise _contradiction("--follow", "--no-follow is its opposite")
    if args.ignore_case and args.grep is None:
        raise _contradiction("--ignore-case", "it goes with --grep")
    if args.timestamps and args.output == "json":
        raise _contradiction("--timestamps", "JSON has the time anyway; give -o text too")
    if args.timestamps and args.output == "raw":
        raise _contradiction("--timestamps", "raw is the job's bytes alone; give -o text")
    if args.cursor and (args.tail is not None or args.since is not None):
        other = "--since" if args.tail is None else "--tail"
        raise _contradiction("--cursor", f"it says where to begin, and {other} does too")
    if None not in (args.since, args.until) and args.until < args.since:
        raise _contradiction("--until", "it is before --since")
    if len(args.jobs) > 1:
        _check_several(args)
    query_of(args)


def query_of(args: Namespace) -> LogQuery:
    """Return the part of the log that the flags ask for; raises Failure."""
    from jobruntime.model.errors import JobError
    from jobruntime.model.frames import Stream
    from jobruntime.model.log_query import BOTH, LogQuery

    grep = exact(args.grep or "")
    if args.ignore_case:
        grep = f"(?i){grep}"
    for flag, text in (("--grep", grep), ("--cursor", args.cursor)):
        if not _is_utf8(text):
            raise _contradiction(flag, "its value is not UTF-8")
    try:
        return LogQuery(
            follow=not args.no_follow,
            cursor=args.cursor,
            tail_lines=None if args.tail == ALL_LINES else args.tail,
            since_ns=args.since,
            until_ns=args.until,
            streams=BOTH if args.stream is None else frozenset({Stream[args.stream.upper()]}),
            grep=grep,
        )
    except JobError as error:
        raise Failure(Exit.USAGE, error.message, error.remedy) from error


ALL_LINES: Final = -1
"""`--tail all`: as if there were no --tail, but for those before it on the command line."""


def line_count(text: str) -> int:
    """Return the number of lines, or ALL_LINES."""
    from jobruntime.model.errors import JobError
    from jobruntime.model.quantities import parse_count

    if text == "all":
        return ALL_LINES
    try:
        return parse_count(text)
    except JobError as error:
        raise ArgumentTypeError(
            f"cannot read the number of lines {text[:64]!r}; give 0 or more, or all"
        ) from error


def instant_ns(text: str) -> int:
    """Return the UTC nanoseconds of a time, or of a duration before now."""
    from jobruntime.model.errors import JobError
    from jobruntime.model.instants import parse_instant_ns

    try:
        return parse_instant_ns(text, time.time_ns())
    except JobError as error:
        raise ArgumentTypeError(str(error)) from error


def _check_several(args: Namespace) -> None:
    if args.output == "raw":
        raise _contradiction(
            "--raw" if args.raw else "-o raw",
            "the bytes of several jobs would run into each other; give -o text",
        )
    for flag, is_given in (("--cursor", args.cursor), ("--show-cursor", args.show_cursor)):
        if is_given:
            raise _contradiction(flag, "a cursor is one job's, and several were given")


def _contradiction(flag: str, cause: str) -> Failure:
    return Failure(Exit.USAGE, f"cannot use {flag}: {cause}", "see jobc logs --help")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
