"""The events of one call for a job's log: what is there, what comes, and the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable

from ..model.errors import JobError, Reason, invalid
from ..model.log_query import LogQuery
from ..model.record import Progress
from .api import LogEnd, LogEvent
from .live import LiveJob
from .log_files import removed_error
from .log_filter import LineSearch
from .log_reader import Position, encode_cursor
from .logs import Found, LogReading, LogTail
from .store import JobRecord, status_of
from .tail import TailHub


class LogStreams:
    """Gives the logs of one instance's jobs."""

    def __init__(
        self,
        jobs_dir: str,
        tail: TailHub[Position, Found],
        compile_search: Callable[[str], LineSearch] | None,
    ) -> None:
        self._jobs_dir = jobs_dir
        self._tail = tail
        self._compile_search = compile_search

    async def read(
        self, record: JobRecord, course: Progress | None, live: LiveJob | None, query: LogQuery
    ) -> AsyncIterator[LogEvent]:
        """Yield what Worker.logs gives; `live` where the job has not ended."""

        def progress() -> Progress | None:
            return live.progress if live is not None else course

        directory = f"{self._jobs_dir}/{record.job_id}"
        search = self._search(query.grep)
        with (
            contextlib.closing(_open_log(directory, query, search)) as reading,
            contextlib.ExitStack() as stack,
        ):
            await reading.start()
            follows = query.follow and live is not None
            tail = self._follow(directory, stack) if follows else None
            async for batch in reading.read(progress, tail):
                yield batch
            # As it was before the last look at the log: what came after that has not been given.
            known = reading.course
            yield LogEnd(
                reading.is_over or (known is not None and known.log_size is not None),
                reading.position.totals,
                status_of(record, known),
                encode_cursor(reading.position),
                reading.sent.stdout_bytes,
                reading.sent.stderr_bytes,
            )

    def _follow(self, directory: str, stack: contextlib.ExitStack) -> LogTail | None:
        try:
            return stack.enter_context(self._tail.following(directory))
        except FileNotFoundError:  # the job has ended and was removed: nothing more comes
            return None

    def _search(self, pattern: str) -> LineSearch | None:
        if not pattern:
            return None
        if self._compile_search is None:
            raise invalid(
                "cannot search in the log: this program has no engine for it",
                "give LocalWorker one (compile_search)",
            )
        return self._compile_search(pattern)


def _open_log(directory: str, query: LogQuery, search: LineSearch | None) -> LogReading:
    try:
        return LogReading(directory, query, search)
    except FileNotFoundError as error:
        if not os.path.exists(directory):
            raise removed_error() from error
        raise JobError(
            Reason.LOG_UNREADABLE,
            "cannot read the log: the job has none",
            "the host may have crashed as the job began",
        ) from error
