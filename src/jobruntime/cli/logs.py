"""`jobc logs`: the output of jobs, all or a part of it, and on as it is written."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit, tell
from .log_flags import DESCRIPTION, EPILOG, USAGE, add_log_flags, check, query_of
from .output import end_with_stdout

if TYPE_CHECKING:
    from jobruntime.model.log_query import LogQuery

    from .log_sinks import Sink
    from .settings import Settings

__all__ = ["DESCRIPTION", "EPILOG", "USAGE", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the arguments of this verb."""
    parser.set_defaults(check=check)
    return add_log_flags(parser)


def run(args: Namespace, settings: Settings) -> Exit:
    """Print the logs; raises Failure."""
    from jobruntime.rpc.convert_logs import logs_request_of
    from jobruntime.rpc.memory import keep_large_blocks

    query = query_of(args)
    keep_large_blocks()
    end_with_stdout()
    if len(args.jobs) == 1:
        return _read_one(args, settings, query)
    from .log_jobs import SinkMaker, read_several

    return read_several(
        settings,
        args.jobs,
        lambda job_id: logs_request_of(job_id, query),
        SinkMaker(args.output, has_times=args.timestamps),
        args.retry_for,
    )


def _read_one(args: Namespace, settings: Settings, query: LogQuery) -> Exit:
    from threading import Lock

    from jobruntime.rpc.convert_logs import logs_request_of

    from .log_reader import Reader
    from .outage import Outage
    from .references import find_id

    word = args.jobs[0]
    request = logs_request_of(find_id(settings, word), query)
    outage = Outage(settings, args.retry_for)
    was_asked = request.job != word
    reader = Reader(settings, request, _sink(args), outage, Lock(), was_answered=was_asked)
    try:
        reader.read()
    finally:
        if args.show_cursor and reader.cursor:
            tell(f"cursor: {reader.cursor}")
    return Exit.OK


def _sink(args: Namespace) -> Sink:
    from .lines import JsonLines, TextLines
    from .log_sinks import JsonSink, RawSink, TextSink

    if args.output == "json":
        return JsonSink(JsonLines())
    if args.timestamps:
        return TextSink(TextLines({}, has_times=True))
    return RawSink()
