"""`jobc rm`: remove jobs that have ended, with their logs."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit, Failure, tell
from .output import write_line

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb
    from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub

    from .settings import Settings

USAGE = "[FLAGS] ID [ID ...]"
DESCRIPTION = """\
Remove jobs that have ended: their logs, their directories and all that is known of them.

Prints the id of each that was removed. What goes wrong with one is told, and the others are removed
all the same; the exit code is the worst.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

examples:
  jobc rm a62d
  jobc rm --force web db            stops them first, within their grace
  jobc prune --older-than 7d        removes what ended so long ago
"""


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flag and the arguments of this verb."""
    add = parser.add_argument
    return [
        add("jobs", metavar="ID", nargs="+", help="the job, or several"),
        add("-f", "--force", action="store_true", help="stop a job first that has not ended"),
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Remove the jobs; raises Failure for what hits all of them."""
    from .references import find_jobs

    worst = Exit.OK
    ids: dict[str, None] = {}
    for found in find_jobs(settings, args.jobs):
        if isinstance(found, Failure):
            worst = max(worst, found.exit_code)
            tell(str(found))
        else:
            ids[found.job_id] = None
    for job_id in ids:
        try:
            if args.force:
                _stop(settings, job_id)
            _remove(settings, job_id)
        except Failure as failure:
            worst = max(worst, failure.exit_code)
            tell(str(failure))
        else:
            write_line(job_id)
    return worst


def _stop(settings: Settings, job_id: str) -> None:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    # No deadline: the job's grace is its own, and keepalive notices a server that is gone.
    call(
        settings,
        lambda stub: stub.Stop(pb.StopRequest(job=job_id)),
        if_lost="the job may or may not have been stopped; give the command again, that is safe",
    )


def _remove(settings: Settings, job_id: str) -> None:
    from jobruntime.model.errors import Reason
    from jobruntime.rpc.errors import from_rpc_error
    from jobruntime.rpc.gen import service_pb2 as pb
    from jobruntime.rpc.tls import grpc

    from .connection import call

    attempts = 0

    def remove(stub: JobServiceStub) -> pb.RemoveResponse:
        nonlocal attempts
        attempts += 1
        try:
            response: pb.RemoveResponse = stub.Remove(pb.RemoveRequest(job=job_id))
        except grpc.RpcError as error:
            if attempts > 1 and from_rpc_error(error).reason == Reason.JOB_NOT_FOUND:
                return pb.RemoveResponse(job_id=job_id)  # the first call has removed it
            raise
        return response

    # No deadline: a log may be large. That it is asked for by its id makes a second call safe.
    call(
        settings,
        remove,
        if_lost="the job may or may not have been removed; give the command again, that is safe",
    )
