"""One reading of a job's log, across lost connections, and the proof that it is whole."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING

from jobruntime.rpc.errors import from_rpc_error
from jobruntime.rpc.tls import grpc

from .connection import connect
from .failure import Exit, Failure
from .log_sinks import Sink, stream_name
from .outage import Outage
from .settings import Settings

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb


class Reader:
    """Gives a sink all that a request asks for."""

    def __init__(
        self,
        settings: Settings,
        request: pb.LogsRequest,
        sink: Sink,
        outage: Outage,
        lock: Lock,
        *,
        was_answered: bool,
    ) -> None:
        """Hold `lock` while the sink writes, which readers may share.

        `was_answered` is whether the server has told anything since the command began: if so, one
        that is away is waited for.
        """
        self._settings = settings
        self._request = request
        self._sink = sink
        self._outage = outage
        self._lock = lock
        self._is_whole = _asks_for_all(request)
        self._was_answered = was_answered
        self._received = {"stdout": 0, "stderr": 0}
        self._received_now = dict(self._received)
        self._lost_bytes = 0

    @property
    def cursor(self) -> str:
        """Where another reading goes on; empty where there was no word of it."""
        return self._request.cursor

    def read(self) -> None:
        """Read to the end; raises Failure where that is not the end of all that was asked for."""
        try:
            end = self._read_to_end()
        finally:
            # Also when the rest is out of reach: what was received is not kept back.
            with self._lock:
                self._sink.finish()
        self._check(end)

    def _read_to_end(self) -> pb.LogsEnd:
        while True:
            began_at = time.monotonic()
            try:
                end = self._read_stream()
            except grpc.RpcError as error:
                lasted = time.monotonic() - began_at
                self._outage.wait(from_rpc_error(error), lasted, was_answered=self._was_answered)
                continue
            if end is None:
                raise self._incomplete("the stream was cut off before its end")
            return end

    def _read_stream(self) -> pb.LogsEnd | None:
        self._received_now = dict.fromkeys(self._received_now, 0)
        with connect(self._settings) as stub:
            for response in stub.Logs(self._request):
                self._outage.end()
                self._was_answered = True
                if response.HasField("batch"):
                    with self._lock:
                        self._take(response.batch)
                # Only now: what has not been written is asked for again.
                self._request.cursor = response.cursor or self._request.cursor
                if response.HasField("end"):
                    end: pb.LogsEnd = response.end
                    return end
        return None

    def _take(self, batch: pb.LogsBatch) -> None:
        received: dict[str, int] = {}
        for entry in batch.entries:
            chunk = entry.chunk
            if data := chunk.data:
                stream = stream_name(chunk.stream)
                received[stream] = received.get(stream, 0) + len(data)
                self._sink.take_chunk(stream, chunk.time_ns, data)
            elif entry.HasField("gap"):
                self._lost_bytes += entry.gap.lost_bytes
                self._sink.take_gap(entry.gap)
        self._sink.flush()
        for stream, count in received.items():
            self._received[stream] = self._received.get(stream, 0) + count
            self._received_now[stream] = self._received_now.get(stream, 0) + count

    def _check(self, end: pb.LogsEnd) -> None:
        """Refuse an end that does not fit what was asked for, or what was received."""
        outcome = end.status.outcome
        if outcome.WhichOneof("kind") == "lost" and not end.complete:
            failure = self._incomplete(
                f"it may be incomplete, for the job's end is not known ({outcome.lost})"
            )
            failure.remedy = "this is all that was kept"
            raise failure
        if self._request.follow and not end.complete:
            raise self._incomplete("the stream ended before the job did")
        sent = {"stdout": end.sent_stdout_bytes, "stderr": end.sent_stderr_bytes}
        self._compare(self._received_now, sent, "were sent")
        if self._is_whole:
            kept = {"stdout": end.stdout_bytes, "stderr": end.stderr_bytes}
            self._compare(self._received, kept, "are in it")
            if self._lost_bytes != end.lost_bytes:
                raise self._incomplete(
                    f"{self._lost_bytes} bytes were told as missing, and {end.lost_bytes} are"
                )

    def _compare(self, received: dict[str, int], told: dict[str, int], where: str) -> None:
        for stream, count in told.items():
            if received[stream] != count:
                raise self._incomplete(
                    f"{received[stream]} bytes of {stream} came, and {count} {where}"
                )

    def _incomplete(self, cause: str) -> Failure:
        return Failure(
            Exit.REFUSED,
            f"cannot show the whole log of job {self._request.job}: {cause}",
            "give the command again",
        )


def _asks_for_all(request: pb.LogsRequest) -> bool:
    """Return whether nothing is left out up to where the stream ends."""
    return not (
        request.cursor
        or request.grep
        or request.streams
        or request.HasField("tail_lines")
        or request.HasField("since")
        or request.HasField("until")
    )
