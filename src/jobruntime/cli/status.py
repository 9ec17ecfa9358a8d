"""`jobc status`: tell what a job is doing, or how it ended."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .failure import Exit, Failure, printable
from .output import write_line
from .times import time_text
from .values import exact

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from jobruntime.model.usage import Usage
    from jobruntime.rpc.gen import service_pb2 as pb

    from .facts import Facts
    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Print what a job is doing, or how it ended, on one line:

  starting, running, paused, stopping
  finished (exit code: N)    its first process ended by itself
  stopped (signal: N)        its first process was ended by a signal
  lost (REASON)              its end is not known; never to be read as success
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

-o wide tells also who or what ended it (a stop and whose, its timeout, running out of memory, or a
signal from elsewhere), the limits in force, and when it has ended, its receipt: what it has used.

The keys of -o json are the fields of JobStatus and Usage in the API. `cause` is one of exited,
signal (from elsewhere), stop, stop_kill, timeout, timeout_kill, oom (its own limit of memory),
oom_above (that of all jobs together, or the host's) and lost. In `limits`, null is not set and
"max" a limit that was lifted; `log` has the bounds of the job's log; `isolation` is one of none,
host-network, loopback and no-network; in `usage`, null is what the server's host does not count.

examples:
  jobc status nightly
  jobc status -o json a62d | jq .outcome
  jobc status -o json a62d | jq -r '.cause, .advice[]'
"""
DEADLINE_SECONDS = 30


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the argument of this verb."""
    add = parser.add_argument
    return [
        add("job", metavar="ID", help="the job"),
        add(
            "-o",
            "--output",
            choices=("line", "wide", "json"),
            default="line",
            metavar="FORM",
            help="wide: all that is known, to read; json: the same as one object (default: line)",
        ),
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Print the job's status; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    request = pb.StatusRequest(job=exact(args.job))
    response = call(
        settings,
        lambda stub: stub.Status(
            request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="try again",
    )
    form = {"line": format_line, "wide": format_wide, "json": format_json}[args.output]
    write_line(form(response.status))
    return Exit.OK


def format_line(status: pb.JobStatus) -> str:
    """Return the one line; raises Failure for a state that this version cannot tell truthfully."""
    from jobruntime.model.state import format_state
    from jobruntime.rpc.convert import UnreadableMessageError, state_from_proto

    try:
        return printable(format_state(*state_from_proto(status)))
    except UnreadableMessageError as error:
        raise Failure(
            Exit.REFUSED,
            f"cannot tell the status of job {status.job_id}: {error}",
            "use a jobc that is as new as the server",
        ) from error


def format_json(status: pb.JobStatus) -> str:
    """Return one JSON object; its keys are the fields of JobStatus in the API."""
    import json

    from .facts import read_facts
    from .share_flags import shares_json

    facts = read_facts(status)  # refuses what is not known
    fields: dict[str, object] = {
        "job_id": status.job_id,
        "owner": status.owner,
        "name": status.name or None,
        "user": status.user or None,
        "labels": dict(sorted(status.labels.items())),
        "shares": shares_json(status.shares),
        "argv": [arg.decode("utf-8", "replace") for arg in status.argv],
    }
    if not all(_is_utf8(arg) for arg in status.argv):
        from base64 import b64encode

        fields["argv_base64"] = [b64encode(arg).decode() for arg in status.argv]
    fields |= {
        "state": str(facts.state),
        "outcome": _outcome(status),
        "created_at": _time(status.created_at) if status.HasField("created_at") else None,
        "started_at": _time(status.started_at) if status.HasField("started_at") else None,
        "ended_at": _time(status.ended_at) if status.HasField("ended_at") else None,
        "stop_requested": _stop_requested(status),
        "timed_out": status.timed_out,
        **_course(status, facts),
    }
    return json.dumps(fields, ensure_ascii=False)


def format_wide(status: pb.JobStatus) -> str:
    """Return a block of lines to read; times are UTC."""
    import shlex

    from .causes import format_cause
    from .counters import usage_rows
    from .facts import read_facts
    from .limits_told import format_limits
    from .log_bounds import format_bounds
    from .share_flags import format_shares

    facts = read_facts(status)
    command = shlex.join(arg.decode("utf-8", "replace") for arg in status.argv)
    labels = " ".join(f"{key}={value}" for key, value in sorted(status.labels.items()))
    rows = [
        ("Job", status.job_id),
        ("Name", status.name),
        ("Owner", status.owner),
        ("User", status.user),
        ("Labels", labels),
        ("Shared", format_shares(status.shares)),
        ("Command", command),
        ("Status", format_line(status)),
        ("Cause", format_cause(facts)),
        ("Created", _time(status.created_at) if status.HasField("created_at") else ""),
        ("Started", _time(status.started_at) if status.HasField("started_at") else ""),
        ("Ended", _time(status.ended_at) if status.HasField("ended_at") else ""),
        ("Limits", format_limits(facts.limits) if status.HasField("limits") else ""),
        ("Log", format_bounds(facts.log)),
        ("Isolate", "" if facts.isolation == "none" else str(facts.isolation)),
        *(usage_rows(facts.usage, facts.limits, facts.state) if facts.usage is not None else ()),
        *advice_rows(facts.usage, facts),
    ]
    return format_rows(rows)


def format_rows(rows: Sequence[tuple[str, str]]) -> str:
    """Return the rows that have a text, a line for each."""
    return "\n".join(f"{name + ':':<9}{printable(value)}" for name, value in rows if value)


def advice_rows(usage: Usage | None, facts: Facts) -> list[tuple[str, str]]:
    """Return a row for each line of advice."""
    from .advice import advise

    return [("Advice", line) for line in advise(usage, facts.limits, facts.oom)]


def _course(status: pb.JobStatus, facts: Facts) -> dict[str, object]:
    """Return what ended the job, within which limits, and what it has used."""
    from .advice import advise
    from .counters import usage_json
    from .limits_told import limits_json
    from .log_bounds import bounds_json

    oom = facts.oom
    return {
        "killed": facts.killed,
        "oom": None
        if oom is None
        else {"scope": str(oom.scope), "kills": oom.kills, "leader": oom.leader},
        "cause": None if facts.cause is None else str(facts.cause),
        "limits": limits_json(facts.limits) if status.HasField("limits") else None,
        "log": bounds_json(facts.log) if status.HasField("log") else None,
        "isolation": str(facts.isolation),
        "usage": None if facts.usage is None else usage_json(facts.usage),
        "advice": advise(facts.usage, facts.limits, oom),
    }


def _outcome(status: pb.JobStatus) -> dict[str, object] | None:
    from jobruntime.model.state import signal_name

    match status.outcome.WhichOneof("kind"):
        case "exit_code":
            return {"exit_code": status.outcome.exit_code}
        case "signal":
            signo = status.outcome.signal
            return {"signal": signo, "signal_name": signal_name(signo)}
        case "lost":
            return {"lost": status.outcome.lost}
        case _:
            return None


def _stop_requested(status: pb.JobStatus) -> dict[str, object] | None:
    if not status.HasField("stop_requested"):
        return None
    stop = status.stop_requested
    return {
        "by": stop.by,
        "at": _time(stop.at),
        "signal": stop.signal,
        "grace_ms": stop.grace_ms,
    }


def _time(timestamp: Timestamp) -> str:
    return time_text(timestamp.seconds * 1_000_000_000 + timestamp.nanos)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
