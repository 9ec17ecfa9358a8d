"""`jobc resume`: let a paused job go on."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit
from .values import exact

if TYPE_CHECKING:
    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Let a paused job go on where it was held.

Prints nothing. A job that is not paused is no error.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

examples:
  jobc resume nightly
"""
DEADLINE_SECONDS = 60


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the argument of this verb."""
    return [parser.add_argument("job", metavar="ID", help="the job")]


def run(args: Namespace, settings: Settings) -> Exit:
    """Resume the job; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    request = pb.ResumeRequest(job=exact(args.job))
    call(
        settings,
        lambda stub: stub.Resume(
            request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="the job may or may not go on; give the command again, that is safe",
    )
    return Exit.OK
