"""The one interface of every engine that runs jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from ..model.access import Verb
from ..model.admission import NO_TERMS, Terms
from ..model.frames import Entry, Totals
from ..model.limits import Limits
from ..model.log_query import WHOLE_LOG, LogQuery
from ..model.shares import Share
from ..model.spec import JobSpec
from ..model.status import JobStatus
from ..model.usage import Usage
from .policy import Plan


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Output in the order in which it was captured; `cursor` is where to go on behind it."""

    entries: tuple[Entry, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The last event of a whole stream.

    `complete` is whether this was all that was asked for: the job has ended, or the query's
    `until` has come. `totals` count the whole log up to here, `sent_*` what this reading gave.
    """

    complete: bool
    totals: Totals
    status: JobStatus
    cursor: str
    sent_stdout_bytes: int = 0
    sent_stderr_bytes: int = 0


LogEvent = LogBatch | LogEnd


@dataclass(frozen=True, slots=True)
class Removed:
    """Jobs that were removed, and the room on disk that they had."""

    job_ids: tuple[str, ...]
    freed_bytes: int


class Worker(ABC):
    """Runs jobs for owners.

    A job is named by `job`: its id, a unique prefix of it, or its name. Where `owner` is given,
    only that owner's jobs are looked at, and those that are shared with him for this very verb
    (`wait` counts as status); any other answers exactly as one that does not exist.
    All methods raise JobError; every one names its reasons.
    """

    @abstractmethod
    async def start(self, spec: JobSpec, *, owner: str, terms: Terms = NO_TERMS) -> str:
        """Start a job and return its id, once exec has succeeded; a failed start leaves nothing.

        `terms` are what a policy admits it on; they are held here, and not asked for again. Without
        any, the job gets no user but the owner's own. Their quota is the owner's, and holds however
        many starts are made at once; a retry that finds its job does not count.

        A `request_id` in the spec makes a retry safe: the same id and spec return the same job.

        Raises JobError: PROGRAM_*, WORKING_DIRECTORY, SPEC_TOO_LARGE, KILLED_BEFORE_EXEC or
        START_STEP_FAILED for what the start ran into; REQUEST_ID_REUSED, NAME_IN_USE;
        LIMIT_NOT_ENFORCEABLE, LIMIT_ABOVE_CEILING, LIMIT_REFUSED, and INVALID_ARGUMENT for limits
        that contradict each other or the defaults; PERMISSION_DENIED for a user that is not
        granted, USER_UNAVAILABLE for one that is not to be had; RESOURCE_EXHAUSTED;
        SPAWNER_UNAVAILABLE.
        """

    @abstractmethod
    async def plan(self, spec: JobSpec, *, owner: str, terms: Terms = NO_TERMS) -> Plan:
        """Return what `start` would give the job, and start nothing.

        Raises JobError: LIMIT_NOT_ENFORCEABLE, LIMIT_ABOVE_CEILING, INVALID_ARGUMENT,
        PERMISSION_DENIED, USER_UNAVAILABLE; RESOURCE_EXHAUSTED where a quota has no room now.
        """

    @abstractmethod
    async def stop(
        self,
        job: str,
        *,
        by: str,
        owner: str | None = None,
        signo: int | None = None,
        grace_ms: int | None = None,
    ) -> JobStatus:
        """End a job and return its status once nothing of it lives; an ended one is left as it is.

        `signo` and `grace_ms` take the place of the spec's; a grace of 0 kills at once.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS, INVALID_ARGUMENT; KEEPER_UNREACHABLE also
        where the job has not ended long after it should have been killed.
        """

    @abstractmethod
    async def update(
        self, job: str, changes: Limits, *, owner: str | None = None, terms: Terms = NO_TERMS
    ) -> JobStatus:
        """Change what `changes` sets of a running job's limits: all of it, or nothing.

        `terms` are what a policy admits it on; their quota is the job's owner's.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS, INVALID_ARGUMENT, LIMIT_ABOVE_CEILING,
        LIMIT_NOT_ENFORCEABLE, LIMIT_REFUSED, WRONG_STATE, KEEPER_UNREACHABLE, RESOURCE_EXHAUSTED.
        """

    @abstractmethod
    async def share(
        self,
        job: str,
        *,
        owner: str | None = None,
        give: Iterable[Share] = (),
        take: Iterable[str] = (),
    ) -> JobStatus:
        """Change with whom a job is shared, also one that has ended.

        `give` comes in the place of what those users had; from those in `take` all is taken, and
        whoever of them follows its log gets JOB_NOT_FOUND. Only what is the owner's is found.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS, INVALID_ARGUMENT, INTERNAL.
        """

    @abstractmethod
    async def pause(self, job: str, *, owner: str | None = None) -> JobStatus:
        """Hold all processes of a job still; when this returns they are. Repeating it is no error.

        Its timeout goes on, and a stop wakes it.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS, LIMIT_NOT_ENFORCEABLE, WRONG_STATE,
        KEEPER_UNREACHABLE.
        """

    @abstractmethod
    async def resume(self, job: str, *, owner: str | None = None) -> JobStatus:
        """Let a paused job go on; one that runs is left as it is. The errors of `pause`."""

    @abstractmethod
    async def stats(self, job: str, *, owner: str | None = None) -> tuple[Usage, JobStatus]:
        """Return what the job has used so far; of one that has ended, its receipt.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS.
        """

    @abstractmethod
    async def status(
        self, job: str, *, owner: str | None = None, verb: Verb = Verb.STATUS
    ) -> JobStatus:
        """Return what the job is doing, or how it ended; found as another verb would find it.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS.
        """

    @abstractmethod
    async def wait(self, job: str, *, owner: str | None = None) -> JobStatus:
        """Return the job's status once it has ended.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS.
        """

    @abstractmethod
    def logs(
        self, job: str, query: LogQuery = WHOLE_LOG, *, owner: str | None = None
    ) -> AsyncIterator[LogEvent]:
        """Yield what `query` asks for of the job's output, then one LogEnd.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS, CURSOR_INVALID, INVALID_ARGUMENT for a
        pattern that is none; LOG_UNREADABLE where the log is damaged, after all that could be read
        was yielded.
        """

    @abstractmethod
    async def remove(self, job: str, *, owner: str | None = None) -> Removed:
        """Remove a job that has ended: its log, its own directory, and all that is known of it.

        Whoever reads its log may get an error instead of the rest.

        Raises JobError: JOB_NOT_FOUND, JOB_AMBIGUOUS; WRONG_STATE where it has not ended.
        """

    @abstractmethod
    async def prune(
        self,
        *,
        owner: str | None = None,
        ended_before_ms: int | None = None,
        keep: int = 0,
        dry_run: bool = False,
    ) -> Removed:
        """Remove the owner's jobs (None: everybody's) that have ended, at most 100,000.

        Only those that ended `ended_before_ms` ago or earlier, and none of the `keep` that ended
        last. With `dry_run` nothing is removed, and the room that is told is without the jobs' own
        directories.

        Raises JobError (INVALID_ARGUMENT).
        """
