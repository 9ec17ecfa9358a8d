"""`jobc stop`: end a job, and return when nothing of it lives any more."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit
from .values import duration_ms, exact, signal_number

if TYPE_CHECKING:
    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Ask a job to end, kill it if it has not within its grace, and return when all of it is gone.

Prints nothing. A job that has ended already is no error: its outcome stays what it was.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

examples:
  jobc stop nightly
  jobc stop a62d --grace 500ms
  jobc stop a62d --signal INT
  jobc stop a62d --grace 0        kill it at once
"""


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the argument of this verb."""
    add = parser.add_argument
    return [
        add("job", metavar="ID", help="the job"),
        add(
            "--signal",
            type=signal_number,
            metavar="SIGNAL",
            help="send this instead of the job's own stop signal: TERM, SIGTERM or 15",
        ),
        add(
            "--grace",
            type=duration_ms,
            metavar="DURATION",
            help="how long it may take before it is killed: 500ms, 10s, 0 (default: the job's)",
        ),
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Stop the job; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    request = pb.StopRequest(job=exact(args.job), signal=args.signal, grace_ms=args.grace)
    # No deadline: the job's grace is its own, and keepalive notices a server that is gone.
    call(
        settings,
        lambda stub: stub.Stop(request),
        if_lost="the job may or may not have been stopped; give the command again, that is safe",
    )
    return Exit.OK
