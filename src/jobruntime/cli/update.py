"""`jobc update`: change the limits of a running job, or with whom a job is shared."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit, Failure
from .limit_flags import add_limit_flags, limits_of
from .share_flags import add_share_flag
from .values import exact

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Change the limits that are given, and no others, of a running job.

Prints nothing: either all of them hold when it returns, or none was changed. A --memory below
what the job uses takes memory from it, and kills where that is not enough; without a --memory-swap
beside it, a new --memory forbids swap.

Or change with whom a job is shared, running or not; not both in one command.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

examples:
  jobc update nightly --memory 4G
  jobc update nightly --cpus max --pids 200
  jobc update a62d --io-write-bps /srv:5M --io-read-bps /srv:max
  jobc update a62d --share bob:logs --unshare carol
"""
DEADLINE_SECONDS = 60


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the argument of this verb."""
    job = parser.add_argument("job", metavar="ID", help="the job")
    actions = [
        job,
        *add_limit_flags(parser, "What is not given stays as it is."),
        add_share_flag(parser, "It comes in the place of what that user could do."),
        parser.add_argument(
            "--unshare",
            action="append",
            default=[],
            metavar="USER",
            help="take all shares of the job from this user, who may be reading its log; may be "
            "given often",
        ),
    ]
    parser.set_defaults(check=check)
    return actions


def check(args: Namespace) -> None:
    """Refuse limits that contradict each other, and a command without any; raises Failure."""
    from jobruntime.model.limits import NO_LIMITS

    shares = bool(args.share or args.unshare)
    if limits_of(args) == NO_LIMITS and not shares:
        raise Failure(
            Exit.USAGE,
            "cannot update a job: no limit was given",
            "give at least one, such as --memory 2G; see jobc update --help",
        )
    if limits_of(args) != NO_LIMITS and shares:
        raise Failure(
            Exit.USAGE,
            "cannot update limits and shares of a job at once",
            "give a command for each",
        )


def run(args: Namespace, settings: Settings) -> Exit:
    """Change the limits or shares; raises Failure."""
    from .connection import call

    request = _request_of(args)
    call(
        settings,
        lambda stub: stub.Update(
            request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="whether anything was changed is not known; give the command again, that is safe",
    )
    return Exit.OK


def _request_of(args: Namespace) -> pb.UpdateRequest:
    from jobruntime.model.shares import join_shares
    from jobruntime.rpc.convert_limits import limits_to_proto
    from jobruntime.rpc.convert_shares import shares_to_proto
    from jobruntime.rpc.gen import service_pb2 as pb

    if not args.share and not args.unshare:
        return pb.UpdateRequest(job=exact(args.job), limits=limits_to_proto(limits_of(args)))
    return pb.UpdateRequest(
        job=exact(args.job),
        share=shares_to_proto(join_shares(args.share)),
        unshare=[_utf8(user) for user in args.unshare],
    )


def _utf8(user: str) -> str:
    """Return the name with what no user's name can have in the place of bytes that are no text."""
    return exact(user).encode("utf-8", "replace").decode()
