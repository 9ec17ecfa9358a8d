"""`jobc can-i`: whether the caller may do something, and the rule that decides."""

from __future__ import annotations

import json
from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Final

from .failure import Exit, printable
from .output import write_line
from .values import exact

if TYPE_CHECKING:
    from .settings import Settings

USAGE = "[FLAGS] VERB [ID]"
DESCRIPTION = """\
Print whether you may do something: `yes` or `no`, the rule that decides, and why.
"""
EPILOG = """\
VERB is a command of jobc's: start, stop, status, logs, stats, update, pause, resume, rm, prune,
renew.
ID is a job's id, a unique beginning of one, or its name. Of a job that is not yours to see, the
answer is that of one that does not exist.

Whether one start is allowed, with its command and limits, `jobc start --explain` tells.

exit codes: 0 yes, 1 no or refused, others as in jobc --help

examples:
  jobc can-i start
  jobc can-i stop nightly && jobc stop nightly
"""
DEADLINE_SECONDS = 30
_NAMES_OF_RPCS: Final = {"rm": "remove"}


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and arguments of this verb."""
    add = parser.add_argument
    return [
        add("verb", metavar="VERB", help="what you would do"),
        add("job", metavar="ID", nargs="?", default="", help="the job with which"),
        add(
            "-o",
            "--output",
            choices=("text", "json"),
            default="text",
            metavar="FORM",
            help="json: one object (default: text)",
        ),
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Print the answer; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    verb = exact(args.verb)
    request = pb.CanIRequest(verb=_NAMES_OF_RPCS.get(verb, verb), job=exact(args.job))
    response = call(
        settings,
        lambda stub: stub.CanI(
            request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="try again",
    )
    if args.output == "json":
        told = {"allowed": response.allowed, "rule": response.rule, "why": response.why}
        write_line(json.dumps(told))
    else:
        word = "yes" if response.allowed else "no"
        write_line(printable(f"{word} ({response.rule}): {response.why}"))
    return Exit.OK if response.allowed else Exit.REFUSED
