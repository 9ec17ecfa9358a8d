"""Which job a caller means, and what is known of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace

from ..model.access import Verb
from ..model.errors import JobError, Reason
from ..model.record import Progress
from ..model.state import State
from .catalogue import Catalogue, Match
from .instance import Instance
from .live import LiveJob
from .store import JobDirectory, JobRecord
from .threads import Threads

found_job: ContextVar[Callable[[str], None]] = ContextVar("found_job", default=lambda _: None)
"""Told the id of the job that a call turns out to be about, or has started; for who keeps a record.

Set around the call of a worker's method."""

preferred_owner: ContextVar[str | None] = ContextVar("preferred_owner", default=None)
"""Whose job a name means first, where the caller may reach everybody's."""


class Lookup:
    """Finds jobs by what callers call them: in memory while they run, then in their files."""

    def __init__(
        self,
        instance: Instance,
        threads: Threads,
        catalogue: Catalogue,
        live: Mapping[str, LiveJob],
        starting: set[str],
    ) -> None:
        """`live` has the jobs that have not ended; ids that are `starting` are no jobs yet."""
        self._instance = instance
        self._threads = threads
        self._catalogue = catalogue
        self._live = live
        self._starting = starting

    async def resolve(self, reference: str, owner: str | None, verb: Verb | None = None) -> str:
        """Return the id of the job: the owner's (None: anybody's), or shared with him for `verb`.

        Raises JobError (JOB_NOT_FOUND, JOB_AMBIGUOUS).
        """
        live = self._live.get(reference)
        if live is not None and owner in (None, live.record.owner):
            found_job.get()(reference)
            return reference
        return (await self.match(reference, owner, verb)).job_id

    async def match(self, reference: str, owner: str | None, verb: Verb | None = None) -> Match:
        """Return what the catalogue has of the job; the errors of `resolve`."""
        # One way for all: what is another's, what is shared for something else, and what there
        # is not differ in nothing but the answer to one condition.
        matches: list[Match] = await self._threads.in_index(
            lambda: self._catalogue.find(reference, owner, verb, frozenset(self._starting))
        )
        if len(matches) > 1:
            matches = _preferred([self._as_it_is(match) for match in matches], reference)
        if len(matches) == 1 and owner is not None and matches[0].owner != owner:
            # The record decides: after a crash of the host the index may be older than it.
            record, _ = await self.look_up(matches[0].job_id)
            if not is_shared(record, owner, verb):
                raise not_found(reference)
        if not matches:
            raise not_found(reference)
        if len(matches) > 1:
            raise JobError(
                Reason.JOB_AMBIGUOUS,
                f"cannot tell which job {reference[:64]!r} is: several match",
                "give more characters of the id",
            )
        found_job.get()(matches[0].job_id)
        return matches[0]

    def _as_it_is(self, match: Match) -> Match:
        # The index learns of an end a moment later than whoever waited for it.
        live = self._live.get(match.job_id)
        return replace(match, ended=match.ended or (live is not None and live.ended.done()))

    async def look_up(self, job_id: str) -> tuple[JobRecord, Progress | None]:
        """Return the job's order and its course.

        Raises JobError: JOB_NOT_FOUND where it was removed meanwhile, INTERNAL for damaged files.
        """
        if live := self._live.get(job_id):
            return live.record, live.progress
        return await self._threads.in_files(lambda: self._read(job_id))

    def _read(self, job_id: str) -> tuple[JobRecord, Progress]:
        try:
            directory = JobDirectory.open(self._instance.jobs_dir, job_id)
        except FileNotFoundError as error:
            raise not_found(job_id) from error
        except OSError as error:
            raise _damaged(job_id, str(error)) from error
        try:
            with directory:
                record, progress = directory.read_record(), directory.read_outcome()
        except (OSError, ValueError) as error:
            raise _damaged(job_id, str(error)) from error
        if (record is None or progress is None) and not os.path.exists(directory.path):
            raise not_found(job_id)
        if record is None or progress is None or progress.state is not State.TERMINATED:
            raise _damaged(job_id, "it is not complete")
        return record, progress


def is_shared(record: JobRecord, user: str, verb: Verb | None) -> bool:
    """Return whether the job is shared with the user for `verb`."""
    return any(share.user == user and verb in share.verbs for share in record.shares)


def _preferred(matches: list[Match], reference: str) -> list[Match]:
    """Return the caller's own job where the others of its name do not speak against it.

    A name that he gave himself is his job's, as it is to every other user. But not where his own
    has ended and another's runs: who stops "web" then means the one that can be stopped. Prefixes
    of ids stay ambiguous, because nobody has chosen them.
    """
    own = [match for match in matches if match.owner == preferred_owner.get()]
    is_name = not any(match.job_id.startswith(reference) for match in matches)
    if len(own) == 1 and is_name and (not own[0].ended or all(match.ended for match in matches)):
        return own
    return matches


def not_found(reference: str) -> JobError:
    """Return the error for a job that there is not, or not for this caller."""
    return JobError(
        Reason.JOB_NOT_FOUND,
        f"cannot find job {reference[:64]!r}",
        "give the id that start printed, a unique prefix of it, or a name",
    )


def _damaged(job_id: str, cause: str) -> JobError:
    return JobError(
        Reason.INTERNAL,
        f"cannot read the record of job {job_id}: {cause}",
        "the operator should look at its directory in the state directory",
    )
