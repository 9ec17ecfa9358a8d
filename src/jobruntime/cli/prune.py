"""`jobc prune`: remove all jobs that have ended and fit what is asked."""

from __future__ import annotations

from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from .failure import Exit, Failure, tell
from .output import write_line
from .values import duration_ms

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb
    from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub

    from .settings import Settings

USAGE = "[FLAGS]"
DESCRIPTION = """\
Remove all your jobs that have ended, or those of them that fit all flags: their logs, their
directories and all that is known of them. Asks nothing.

Prints the ids of what was removed, and how much room on the server's disk that gave back.
"""
EPILOG = """\
The keys of -o json are job_ids, freed_bytes and dry_run.

examples:
  jobc prune --older-than 7d
  jobc prune --keep 100                    all but the 100 that ended last
  jobc prune --older-than 12h --dry-run    tells what would be removed
  jobc prune --all-owners --older-than 30d
"""


def count(text: str) -> int:
    """Return a whole number."""
    from jobruntime.model.errors import JobError
    from jobruntime.model.quantities import parse_count

    try:
        return parse_count(text)
    except JobError as error:
        raise ArgumentTypeError(str(error)) from error


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags of this verb."""
    parser.set_defaults(check=check)
    add = parser.add_argument
    return [
        add(
            "--older-than",
            type=duration_ms,
            metavar="DURATION",
            help="only what ended so long ago or longer: 90s, 12h, 7d",
        ),
        add("--keep", type=count, metavar="N", help="none of the N jobs that ended last"),
        add(
            "--all-owners",
            action="store_true",
            help="everybody's jobs; for administrators only",
        ),
        add(
            "--dry-run", action="store_true", help="tell what would be removed, and remove nothing"
        ),
        add("-q", "--quiet", action="store_true", help="print the ids alone"),
        add(
            "-o",
            "--output",
            choices=("text", "json"),
            default="text",
            metavar="FORM",
            help="text: to read; json: one object (default: text)",
        ),
    ]


def check(args: Namespace) -> None:
    """Refuse flags that contradict each other; raises Failure."""
    if args.quiet and args.output == "json":
        raise Failure(
            Exit.USAGE,
            "cannot use --quiet: -o json is one object always",
            "give one of them; see jobc prune --help",
        )


def run(args: Namespace, settings: Settings) -> Exit:
    """Remove the jobs; raises Failure."""
    response = _prune(args, settings)
    if args.output == "json":
        write_line(format_json(response, is_dry=args.dry_run))
    elif text := format_text(response, is_dry=args.dry_run, is_quiet=args.quiet):
        write_line(text)
    return Exit.OK


def format_json(response: pb.PruneResponse, *, is_dry: bool) -> str:
    """Return one JSON object."""
    import json

    told = {
        "job_ids": list(response.job_ids),
        "freed_bytes": response.freed_bytes,
        "dry_run": is_dry,
    }
    return json.dumps(told)


def format_text(response: pb.PruneResponse, *, is_dry: bool, is_quiet: bool) -> str:
    """Return the ids, and but for `is_quiet` a sentence."""
    from jobruntime.model.quantities import format_size

    lines = list(response.job_ids)
    if not is_quiet:
        number, size = len(lines), format_size(response.freed_bytes)
        jobs = "1 job" if number == 1 else f"{number} jobs"
        if not number:
            lines.append("No job to remove: none that has ended fits.")
        elif is_dry:
            lines.append(f"Would remove {jobs} and free {size}.")
        else:
            lines.append(f"Removed {jobs} and freed {size}.")
    return "\n".join(lines)


def _prune(args: Namespace, settings: Settings) -> pb.PruneResponse:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    request = pb.PruneRequest(
        ended_before_ms=args.older_than,
        keep=args.keep,
        all_owners=args.all_owners,
        dry_run=args.dry_run,
    )
    attempts = 0

    def prune(stub: JobServiceStub) -> pb.PruneResponse:
        nonlocal attempts
        attempts += 1
        response: pb.PruneResponse = stub.Prune(request)
        return response

    # No deadline: logs may be large, and keepalive notices a server that is gone.
    response = call(
        settings,
        prune,
        if_lost="some jobs may have been removed; give the command again, that is safe",
    )
    if attempts > 1 and not args.dry_run:
        tell("what was removed before the connection broke is not in this list")
    return response
