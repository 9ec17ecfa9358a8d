"""The logs of several jobs at once: each read on its own, their lines told apart by a prefix."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Final

from .failure import Exit, Failure, printable, tell
from .lines import JsonLines, TextLines
from .log_reader import Reader
from .log_sinks import JsonSink, Sink, TextSink
from .outage import Notices, Outage
from .output import STDERR_FD, STDOUT_FD
from .references import find_jobs, label_jobs

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .settings import Settings

LAST_WORDS_SECONDS: Final = 1
"""How long a Ctrl-C waits for a write that is under way."""

INTERRUPT_SECONDS: Final = 0.2
"""How long a Ctrl-C may go unseen that came just before the wait for a reader."""

_COLOURS: Final = (36, 33, 32, 35, 34, 31)  # of console_codes(4): cyan first, red last


def read_several(
    settings: Settings,
    words: Sequence[str],
    request_of: Callable[[str], pb.LogsRequest],
    sinks: SinkMaker,
    retry_ms: int,
) -> Exit:
    """Read the logs of all jobs that `words` mean; return the worst of how the readings ended.

    What goes wrong with one is told at once, and the others go on.
    """
    jobs: dict[str, pb.JobStatus] = {}
    told = _Told()
    for found in find_jobs(settings, words):
        if isinstance(found, Failure):
            told.tell(found)
        else:
            jobs.setdefault(found.job_id, found)
    lock, notices = Lock(), Notices()
    made = sinks.make(list(jobs.values()))
    readers = [
        Reader(
            settings,
            request_of(job_id),
            sink,
            Outage(settings, retry_ms, notices),
            lock,
            was_answered=True,
        )
        for job_id, sink in zip(jobs, made, strict=True)
    ]
    ends: SimpleQueue[Failure | None] = SimpleQueue()
    try:
        for reader in readers:
            Thread(target=_read, args=(reader, ends), daemon=True).start()
        for _ in readers:
            if failure := _next_of(ends):
                told.tell(failure)
    except KeyboardInterrupt:
        # For good: what is written after the last words would be behind them.
        if lock.acquire(timeout=LAST_WORDS_SECONDS):
            for sink in made:
                sink.finish()
        raise
    return told.worst


class SinkMaker:
    """Makes the sinks of jobs that are shown together."""

    def __init__(self, form: str, *, has_times: bool) -> None:
        """`form` is `json` or `text`; `has_times` is whether lines of text begin with a time."""
        self._form = form
        self._has_times = has_times

    def make(self, jobs: Sequence[pb.JobStatus]) -> list[Sink]:
        """Return a sink for each job."""
        if self._form == "json":
            return [JsonSink(JsonLines(job=job.job_id)) for job in jobs]
        labels = [printable(label) for label in label_jobs(jobs)]
        width = max(map(len, labels), default=0)
        return [
            TextSink(
                TextLines(
                    {
                        stream: prefix(f"{label:<{width}}", place, in_colour=wants_colour(fd))
                        for stream, fd in (("stdout", STDOUT_FD), ("stderr", STDERR_FD))
                    },
                    has_times=self._has_times,
                ),
                label,
            )
            for place, label in enumerate(labels)
        ]


def prefix(label: str, place: int, *, in_colour: bool) -> bytes:
    """Return what stands before each line of the job that is shown at this place."""
    if not in_colour:
        return f"{label} | ".encode()
    return f"\x1b[{_COLOURS[place % len(_COLOURS)]}m{label} |\x1b[0m ".encode()


def wants_colour(fd: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `fd` is a terminal and nobody has said no (no-color.org)."""
    return os.isatty(fd) and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


class _Told:
    """What has gone wrong so far; what hits several jobs alike is told once."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self.worst = Exit.OK

    def tell(self, failure: Failure) -> None:
        self.worst = max(self.worst, failure.exit_code)
        if str(failure) not in self._texts:
            self._texts.add(str(failure))
            tell(str(failure))


def _next_of(ends: SimpleQueue[Failure | None]) -> Failure | None:
    """Wait for a reader's end; raises KeyboardInterrupt.

    A signal ends a wait that is under way, not one that begins right after it came.
    """
    while True:
        try:
            return ends.get(timeout=INTERRUPT_SECONDS)
        except Empty:
            continue


def _read(reader: Reader, ends: SimpleQueue[Failure | None]) -> None:
    try:
        reader.read()
    except Failure as failure:
        ends.put(failure)
    except Exception as error:  # noqa: BLE001 (the thread's boundary)
        cause = f"{type(error).__name__}: {error}"
        ends.put(Failure(Exit.OWN_FAILURE, f"cannot go on: {cause}; this is a defect of jobc's"))
    else:
        ends.put(None)
