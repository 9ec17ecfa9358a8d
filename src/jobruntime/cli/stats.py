"""`jobc stats`: what a job uses, once or again and again until it has ended."""

from __future__ import annotations

import time
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Protocol

from .failure import Exit, Failure
from .output import end_with_stdout, write_line
from .values import DEFAULT_RETRY_MS, duration_ms, exact

if TYPE_CHECKING:
    from jobruntime.model.usage import Usage
    from jobruntime.rpc.gen import service_pb2 as pb

    from .facts import Facts
    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Print what all processes of a job together use, and have used since its start: CPU time, memory,
swap, processes and threads (pids), each beside its limit, and bytes and operations of disks (their
limits: jobc status -o wide); of a job that has ended, its receipt. What the server's host does not
count is `-`, in JSON null, never 0.

Where the counters call for it, a line of advice says which limit the job has come to feel.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

With --follow there is a line for each sample: of CPU (100 % is one), of the periods in which the
job was throttled, and of disks it tells the time since the line before. It ends with the
receipt when the job does. Where the server goes away meanwhile, jobc looks for it again. Ctrl-C
(exit code 130) leaves the job alone.

The keys of -o json are job_id, state, the fields of Usage in the API (times in ns or us, as their
names say, sizes in bytes), limits (as in `jobc status -o json`) and advice.

examples:
  jobc stats nightly
  jobc stats -f --interval 5s nightly
  jobc stats -f -o json a62d | jq .memory_bytes
"""
DEADLINE_SECONDS = 30
MIN_INTERVAL_MS = 100
MAX_INTERVAL_MS = 3_600_000


def interval_ms(text: str) -> int:
    """Return the milliseconds of a duration that the server takes as an interval."""
    value = duration_ms(text)
    if not MIN_INTERVAL_MS <= value <= MAX_INTERVAL_MS:
        raise ArgumentTypeError(f"cannot take a sample every {text}; give 100ms to 1h")
    return value


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the argument of this verb."""
    parser.set_defaults(check=check)
    add = parser.add_argument
    return [
        add("job", metavar="ID", help="the job"),
        add("-f", "--follow", action="store_true", help="go on until the job has ended"),
        add(
            "--interval",
            type=interval_ms,
            metavar="DURATION",
            help="with --follow, the time between two samples: 100ms to 1h (default: 1s)",
        ),
        add(
            "-o",
            "--output",
            choices=("text", "json"),
            default="text",
            metavar="FORM",
            help="text: to read; json: one object, with --follow one on each line (default: text)",
        ),
        add(
            "--retry-for",
            type=duration_ms,
            default=DEFAULT_RETRY_MS,
            metavar="DURATION",
            help="with --follow, how long to look for a server that went away (default: 30s)",
        ),
    ]


def check(args: Namespace) -> None:
    """Refuse an interval without anything to wait for; raises Failure."""
    if args.interval is not None and not args.follow:
        raise Failure(
            Exit.USAGE,
            "cannot use --interval: there is one sample only",
            "give --follow too; see jobc stats --help",
        )


def run(args: Namespace, settings: Settings) -> Exit:
    """Print what the job uses; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    request = pb.StatsRequest(job=exact(args.job), follow=args.follow, interval_ms=args.interval)
    if args.follow:
        end_with_stdout()
        sink: Sink = JsonSink() if args.output == "json" else TableSink()
        Follower(settings, request, sink, args.retry_for).follow_to_end()
        return Exit.OK
    from .connection import call

    responses = call(
        settings,
        lambda stub: list(
            stub.Stats(request, timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000)
        ),
        if_lost="try again",
    )
    if not responses:
        raise _cut_off(request.job)
    form = format_json if args.output == "json" else format_block
    write_line(form(responses[-1]))
    return Exit.OK


def format_json(response: pb.StatsResponse) -> str:
    """Return one JSON object; its keys are those that the help names."""
    import json

    from .advice import advise
    from .counters import usage_json
    from .limits_told import limits_json

    facts, usage = _read(response)
    told = {
        "job_id": response.status.job_id,
        "state": str(facts.state),
        **usage_json(usage),
        "limits": limits_json(facts.limits),
        "advice": advise(usage, facts.limits, facts.oom),
    }
    return json.dumps(told, ensure_ascii=False)


def format_block(response: pb.StatsResponse) -> str:
    """Return a block of lines to read."""
    from .counters import usage_rows
    from .status import advice_rows, format_line, format_rows

    facts, usage = _read(response)
    rows = [
        ("Job", response.status.job_id),
        ("Name", response.status.name),
        ("Status", format_line(response.status)),
        *usage_rows(usage, facts.limits, facts.state),
        *advice_rows(usage, facts),
    ]
    return format_rows(rows)


class Sink(Protocol):
    """Where samples go."""

    def take(self, response: pb.StatsResponse, *, is_last: bool) -> None:
        """Print one sample at once; the last is the receipt. Raises Failure."""


class JsonSink:
    """A JSON object on each line."""

    def take(self, response: pb.StatsResponse, *, is_last: bool) -> None:
        """Print the object."""
        write_line(format_json(response))


class TableSink:
    """A line for each sample below a header, and the receipt as a block."""

    def __init__(self) -> None:
        self._is_empty = True
        self._before: Usage | None = None

    def take(self, response: pb.StatsResponse, *, is_last: bool) -> None:
        """Print the line, or the receipt."""
        from .counters import header, sample_line

        if is_last:
            block = format_block(response)
            write_line(block if self._is_empty else f"\n{block}")
            return
        facts, usage = _read(response)
        line = sample_line(self._before, usage, facts.limits, facts.state)
        write_line(f"{header()}\n{line}" if self._is_empty else line)
        self._is_empty = False
        self._before = usage


class Follower:
    """One following of a job's counters, across lost connections."""

    def __init__(
        self, settings: Settings, request: pb.StatsRequest, sink: Sink, retry_ms: int
    ) -> None:
        from .outage import Outage

        self._settings = settings
        self._request = request
        self._sink = sink
        self._outage = Outage(settings, retry_ms)
        self._was_answered = False

    def follow_to_end(self) -> None:
        """Give all samples to the sink until the receipt was among them; raises Failure."""
        from jobruntime.rpc.errors import from_rpc_error
        from jobruntime.rpc.tls import grpc

        has_ended = False
        while not has_ended:
            began_at = time.monotonic()
            try:
                has_ended = self._read_stream()
            except grpc.RpcError as error:
                lasted = time.monotonic() - began_at
                self._outage.wait(from_rpc_error(error), lasted, was_answered=self._was_answered)
                continue
            if not has_ended:
                raise _cut_off(self._request.job)

    def _read_stream(self) -> bool:
        """Return whether the job has ended by the end of the stream."""
        from .connection import connect

        with connect(self._settings) as stub:
            for response in stub.Stats(self._request):
                self._outage.end()
                self._was_answered = True
                # A name may be another job's by the time of a second call.
                self._request.job = response.status.job_id
                is_last = response.status.HasField("outcome")
                self._sink.take(response, is_last=is_last)
                if is_last:
                    return True
        return False


def _read(response: pb.StatsResponse) -> tuple[Facts, Usage | None]:
    from jobruntime.rpc.convert import usage_from_proto

    from .facts import read_facts

    usage = usage_from_proto(response.usage) if response.HasField("usage") else None
    return read_facts(response.status), usage


def _cut_off(job: str) -> Failure:
    return Failure(
        Exit.REFUSED,
        f"cannot tell what job {job} uses: the stream was cut off before its end",
        "give the command again",
    )
