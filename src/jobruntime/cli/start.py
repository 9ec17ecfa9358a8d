"""`jobc start`: run a command as a new job and print the job's id."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .explain import add_explain_flags, check_explain, explain
from .failure import Exit, Failure
from .limit_flags import add_limit_flags, limits_of
from .log_bounds import add_bounds_flags, bounds_of
from .output import write_line
from .share_flags import add_share_flag
from .values import (
    duration_ms,
    exact,
    key_and_value,
    positive_duration_ms,
    signal_number,
    variable,
)

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .settings import Settings

USAGE = "[FLAGS] [--] COMMAND [ARG...]"
DESCRIPTION = """\
Run COMMAND as a new job on the server and print the job's id, alone on a line.

The flags end at the first word that is none; all behind it is the command's own, also what looks
like a flag. A COMMAND without a slash is looked up in the job's PATH, on the server. The id is
printed after the program has been executed: a program that cannot be is an error, not a job.
"""
EPILOG = """\
examples:
  jobc start sleep 60
  jobc start --name nightly -e LEVEL=3 -w /srv/data --timeout 2h ./import.sh --all
  jobc start --memory 2G --cpus 1.5 --pids 100 --io-write-bps /srv:20M /srv/import.sh
  jobc start --isolate=loopback --memory 2G ./somebody-elses-build.sh
  jobc start --log-max 1G --log-full drop-oldest /srv/chatter
  jobc start --share bob:status,logs --share carol:stop /srv/import.sh
  jobc start --explain --memory 10G /srv/import.sh
  jobc start --grace 1m -- sh -c 'trap "sleep 30; exit 0" TERM; sleep 1h & wait'

exit codes: 126 the program cannot be executed, 127 it was not found, others as in jobc --help
"""
DEADLINE_SECONDS = 60


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags of this verb; the command is not argparse's to split."""
    add = parser.add_argument
    return [
        add("--name", default="", help="a name to use in place of the id"),
        add(
            "--label",
            action="append",
            default=[],
            type=key_and_value,
            metavar="KEY=VALUE",
            help="a word for your own use; may be given often",
        ),
        add(
            "-e",
            "--env",
            action="append",
            default=[],
            type=variable,
            metavar="NAME[=VALUE]",
            help="an environment variable of the job; without a value, the one it has here; "
            "may be given often, the last of a name counts",
        ),
        add(
            "-w",
            "--workdir",
            default="",
            metavar="DIR",
            help="working directory, absolute, on the server (default: a directory of its own)",
        ),
        add(
            "--user",
            default="",
            metavar="NAME",
            help="the account of the server's host to run as, where its policy allows that "
            "(default: a user that is yours alone)",
        ),
        add(
            "--timeout",
            type=positive_duration_ms,
            metavar="DURATION",
            help="stop the job when it has run for so long: 500ms, 90s, 2m, 1h30m (default: never)",
        ),
        add(
            "--signal",
            type=signal_number,
            metavar="SIGNAL",
            help="the signal that asks the job to stop: TERM, SIGTERM or 15 (default: TERM)",
        ),
        add(
            "--grace",
            type=duration_ms,
            metavar="DURATION",
            help="how long the job may take to stop before it is killed (default: the server's, "
            "10s unless configured)",
        ),
        add(
            "--request-id",
            default="",
            metavar="ID",
            help="makes a repeated call safe: the same ID and command give the same job "
            "(default: a random one, for a retry of jobc's own)",
        ),
        add_share_flag(parser, "jobc update changes it."),
        *add_explain_flags(parser),
        add(
            "--isolate",
            nargs="?",
            const="no-network",
            choices=("no-network", "loopback", "host-network", "none"),
            metavar="WAY",
            help="run it in a view of its own: only its own processes, a system that cannot be "
            "written, nothing of other people's, its own /tmp and /dev, system calls filtered; "
            "without a network (--isolate=no-network), with a loopback of its own (loopback), or "
            "with the server's network (host-network). A server that cannot do it refuses "
            "(default: none)",
        ),
        *add_limit_flags(parser, "What is not given is the server's default."),
        *add_bounds_flags(parser),
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Start the job and print its id; raises Failure."""
    request = request_of(args)
    if args.explain:
        return explain(request, args.output or "text", settings)
    from .connection import call

    response = call(
        settings,
        lambda stub: stub.Start(
            request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="whether the job was started is not known; give the same command with "
        f"--request-id {request.request_id} to start it or get the id of the one that was",
    )
    try:
        write_line(response.job_id)
    except Failure as failure:
        failure.message = f"cannot print the id of the started job {response.job_id}: {failure}"
        failure.remedy = ""
        raise
    return Exit.OK


def request_of(args: Namespace) -> pb.StartRequest:
    """Return the request that the command line asks for; raises Failure if it breaks a rule."""
    from jobruntime.model.errors import JobError
    from jobruntime.model.isolation import Isolation
    from jobruntime.model.limits import NO_LIMITS
    from jobruntime.model.shares import join_shares
    from jobruntime.model.spec import DEFAULT_GRACE_MS, JobSpec
    from jobruntime.rpc.convert import start_request_of

    check_explain(args)
    optional = {} if args.signal is None else {"stop_signal": args.signal}
    try:
        spec = JobSpec(
            argv=tuple(exact(word) for word in args.command),
            env=tuple(dict(pair for pair in args.env if pair is not None).items()),
            working_directory=exact(args.workdir) or None,
            labels=tuple(dict(args.label).items()),
            name=exact(args.name) or None,
            user=exact(args.user) or None,
            grace_ms=DEFAULT_GRACE_MS if args.grace is None else args.grace,
            timeout_ms=args.timeout,
            request_id=args.request_id or os.urandom(16).hex(),
            limits=limits_of(args),
            log=bounds_of(args),
            shares=join_shares(args.share),
            isolation=None if args.isolate is None else Isolation(args.isolate),
            **optional,
        )
        request = start_request_of(spec)
    except JobError as error:
        raise Failure(Exit.USAGE, error.message, error.remedy) from error
    if args.grace is None:
        request.ClearField("grace_ms")  # the server's default, which only the server knows
    if args.signal is None:
        request.ClearField("stop_signal")
    if spec.limits == NO_LIMITS:
        request.ClearField("limits")
    return request
