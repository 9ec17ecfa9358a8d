"""`jobc pause`: hold all processes of a job still, until it is resumed or stopped."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit
from .values import exact

if TYPE_CHECKING:
    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Hold all processes of a job still, and return when they are.

Prints nothing. The job keeps its memory and its files, and its timeout goes on; a stop wakes it. A
job that is paused already is no error.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

examples:
  jobc pause nightly
  jobc resume nightly
"""
DEADLINE_SECONDS = 60


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the argument of this verb."""
    return [parser.add_argument("job", metavar="ID", help="the job")]


def run(args: Namespace, settings: Settings) -> Exit:
    """Pause the job; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    request = pb.PauseRequest(job=exact(args.job))
    call(
        settings,
        lambda stub: stub.Pause(
            request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="the job may or may not be paused; give the command again, that is safe",
    )
    return Exit.OK
