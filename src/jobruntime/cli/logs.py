"""`jobc logs`: all of a job's output from its first byte, and on as it is written."""

from __future__ import annotations

import time
from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Protocol

from .failure import Exit, Failure, tell
from .output import STDERR_FD, STDOUT_FD, end_with_stdout, write_all
from .values import DEFAULT_RETRY_MS, duration_ms, exact

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .lines import JsonLines
    from .settings import Settings

USAGE = "[FLAGS] ID"
DESCRIPTION = """\
Print all output of a job from its first byte, and go on as it is written until the job ends.

Each line of it is a line of JSON:

  {"log": "text", "stream": "stdout", "time": "2022-01-24T10:00:00.000000000Z"}

The time is that of capture. "partial": true marks a piece that no newline ended (the end of the
output, or of 16 MiB of one line). Where bytes are not UTF-8, "log_base64" has them exactly. Output
that could not be kept is {"gap": {"bytes": N, "cause": "...", "until": TIME}, "stream", "time"}.
"""
EPILOG = """\
ID is a job's id, a unique beginning of one, or its name.

Where the server goes away meanwhile, jobc comes back to the same byte. Ctrl-C (exit
code 130) leaves the job alone. Where nobody reads any more (| head -1), jobc ends quietly, with 141
as cat does. The exit code is 0 only if all was printed up to the end of the job, or with
--no-follow the present end.

examples:
  jobc logs nightly | jq -r .log
  jobc logs --no-follow a62d
  jobc logs --raw a62d >out 2>err
"""
WRITE_CHARS = 32 * 1024
"""Lines are written in pieces of this length, or less at the end of a message."""


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags and the argument of this verb."""
    add = parser.add_argument
    return [
        add("job", metavar="ID", help="the job"),
        add("--no-follow", action="store_true", help="stop at the present end of the output"),
        add(
            "--raw",
            action="store_true",
            help="the bytes themselves, stdout to stdout and stderr to stderr",
        ),
        add(
            "--retry-for",
            type=duration_ms,
            default=DEFAULT_RETRY_MS,
            metavar="DURATION",
            help="how long to look for a server that went away meanwhile (default: 30s)",
        ),
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Print the log; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb
    from jobruntime.rpc.memory import keep_large_blocks

    request = pb.LogsRequest(job=exact(args.job), follow=not args.no_follow)
    sink: Sink
    if args.raw:
        sink = RawSink()
    else:
        from .lines import JsonLines

        sink = JsonSink(JsonLines())
    keep_large_blocks()
    end_with_stdout()
    reader = Reader(settings, request, sink, args.retry_for)
    try:
        end = reader.read_to_end()
    finally:
        # Also when the rest is out of reach: what was received is not kept back.
        sink.finish()
    reader.check(end)
    return Exit.OK


class Sink(Protocol):
    """Where the output goes."""

    def take(self, entries: pb.LogsBatch) -> None:
        """Write all of `entries`, at once; raises Failure."""

    def finish(self) -> None:
        """Write what has been kept back."""


class JsonSink:
    """Lines of JSON on stdout."""

    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines

    def take(self, entries: pb.LogsBatch) -> None:
        """Write the lines that end in `entries`."""
        texts: list[str] = []
        length = 0
        for entry in entries.entries:
            for text in self._lines_of(entry):
                texts.append(text)
                length += len(text)
                if length >= WRITE_CHARS:
                    self._write(texts)
                    length = 0
        self._write(texts)

    def finish(self) -> None:
        """Write the lines that no newline ended."""
        self._write([self._lines.finish()])

    def _lines_of(self, entry: pb.LogEntry) -> list[str]:
        if entry.HasField("chunk"):
            chunk = entry.chunk
            return self._lines.take_chunk(stream_name(chunk.stream), chunk.time_ns, chunk.data)
        if entry.HasField("gap"):
            gap = entry.gap
            name = stream_name(gap.stream)
            return [
                self._lines.take_gap(name, gap.lost_bytes, gap.first_ns, gap.last_ns, gap.cause)
            ]
        return []

    def _write(self, texts: list[str]) -> None:
        if texts:
            write_all(STDOUT_FD, "".join(texts).encode())
            texts.clear()


class RawSink:
    """Each stream's bytes on the fd of the same name."""

    def take(self, entries: pb.LogsBatch) -> None:
        """Write all of `entries`, with one call for neighbours of one stream."""
        fd = STDOUT_FD
        joined: list[bytes] = []
        for entry in entries.entries:
            entry_fd = STDOUT_FD
            if entry.HasField("chunk"):
                entry_fd = STDERR_FD if entry.chunk.stream == _STDERR else STDOUT_FD
            if entry_fd != fd or entry.HasField("gap"):
                self._write(fd, joined)
                fd = entry_fd
            if entry.HasField("chunk"):
                joined.append(entry.chunk.data)
            elif entry.HasField("gap"):
                gap = entry.gap
                name = stream_name(gap.stream)
                tell(f"{gap.lost_bytes} bytes of {name} are missing here: {gap.cause}")
        self._write(fd, joined)

    def finish(self) -> None:
        """Nothing is kept back."""

    def _write(self, fd: int, joined: list[bytes]) -> None:
        if joined:
            write_all(fd, joined[0] if len(joined) == 1 else b"".join(joined))
            joined.clear()


class Reader:
    """One reading of a log, across lost connections."""

    def __init__(
        self, settings: Settings, request: pb.LogsRequest, sink: Sink, retry_ms: int
    ) -> None:
        from .outage import Outage

        self._settings = settings
        self._request = request
        self._sink = sink
        self._outage = Outage(settings, retry_ms)
        self._received = {"stdout": 0, "stderr": 0}

    def read_to_end(self) -> pb.LogsEnd:
        """Write all of the log to the sink and return its last message; raises Failure."""
        from jobruntime.rpc.errors import from_rpc_error
        from jobruntime.rpc.tls import grpc

        while True:
            began_at = time.monotonic()
            try:
                end = self._read_stream()
            except grpc.RpcError as error:
                lasted = time.monotonic() - began_at
                self._outage.wait(
                    from_rpc_error(error), lasted, was_answered=bool(self._request.cursor)
                )
                continue
            if end is None:
                raise Failure(
                    Exit.REFUSED,
                    f"cannot show the whole log of job {self._request.job}: "
                    "the stream was cut off before its end",
                    "give the command again",
                )
            return end

    def check(self, end: pb.LogsEnd) -> None:
        """Refuse an end that does not fit what was received; raises Failure."""
        job = self._request.job
        if end.status.outcome.WhichOneof("kind") == "lost" and not end.complete:
            raise Failure(
                Exit.REFUSED,
                f"cannot show the whole log of job {job}: it may be incomplete, "
                f"for the job's end is not known ({end.status.outcome.lost})",
                "this is all that was kept",
            )
        if self._request.follow and not end.complete:
            raise Failure(
                Exit.REFUSED,
                f"cannot show the whole log of job {job}: the stream ended before the job did",
                "give the command again",
            )
        told = {"stdout": end.stdout_bytes, "stderr": end.stderr_bytes}
        for name, received in self._received.items():
            if received != told.get(name, received):
                raise Failure(
                    Exit.REFUSED,
                    f"cannot show the whole log of job {job}: {received} bytes of {name} came, "
                    f"and it has {told[name]}",
                    "give the command again",
                )

    def _read_stream(self) -> pb.LogsEnd | None:
        from .connection import connect

        with connect(self._settings) as stub:
            for response in stub.Logs(self._request):
                self._outage.end()
                if response.HasField("batch"):
                    self._sink.take(response.batch)
                    self._count(response.batch)
                # Only now: what has not been written is asked for again.
                self._request.cursor = response.cursor or self._request.cursor
                if response.HasField("end"):
                    end: pb.LogsEnd = response.end
                    return end
        return None

    def _count(self, batch: pb.LogsBatch) -> None:
        for entry in batch.entries:
            if entry.HasField("chunk"):
                name = stream_name(entry.chunk.stream)
                self._received[name] = self._received.get(name, 0) + len(entry.chunk.data)


_STDERR = 2
_STREAM_NAMES = {1: "stdout", _STDERR: "stderr"}


def stream_name(stream: int) -> str:
    """Return the word for a LogStream; a number for one that a newer server may have."""
    return _STREAM_NAMES.get(stream) or f"stream {stream}"
