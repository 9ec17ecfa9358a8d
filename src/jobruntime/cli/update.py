"""`jobc update`: change the limits of a running job."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit, Failure
from .limit_flags import add_limit_flags, limits_of
from .values import exact

if TYPE_CHECKING:
    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Change the limits that are given, and no others, of a running job.

Prints nothing: either all of them hold when it returns, or none was changed. A --memory below
what the job uses takes memory from it, and kills where that is not enough; without a --memory-swap
beside it, a new --memory forbids swap.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

examples:
  jobc update nightly --memory 4G
  jobc update nightly --cpus max --pids 200
  jobc update a62d --io-write-bps /srv:5M --io-read-bps /srv:max
"""
DEADLINE_SECONDS = 60


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the argument of this verb."""
    job = parser.add_argument("job", metavar="ID", help="the job")
    actions = [job, *add_limit_flags(parser, "What is not given stays as it is.")]
    parser.set_defaults(check=check)
    return actions


def check(args: Namespace) -> None:
    """Refuse limits that contradict each other, and a command without any; raises Failure."""
    from jobruntime.model.limits import NO_LIMITS

    if limits_of(args) == NO_LIMITS:
        raise Failure(
            Exit.USAGE,
            "cannot update a job: no limit was given",
            "give at least one, such as --memory 2G; see jobc update --help",
        )


def run(args: Namespace, settings: Settings) -> Exit:
    """Change the limits; raises Failure."""
    from jobruntime.rpc.convert_limits import limits_to_proto
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    request = pb.UpdateRequest(job=exact(args.job), limits=limits_to_proto(limits_of(args)))
    call(
        settings,
        lambda stub: stub.Update(
            request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="whether the limits were changed is not known; give the command again, that is "
        "safe",
    )
    return Exit.OK
