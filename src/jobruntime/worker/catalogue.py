"""The catalogue: finds jobs by id, prefix, name, request id and owner among any number of them.

An index over the jobs' directories, in SQLite (WAL): it can be rebuilt from them at any time, so
a commit does not wait for the disk. Used from one thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from ..model.access import Verb
from ..model.retention import Kept
from ..model.shares import Share
from .store import JobRecord

_logger = logging.getLogger(__name__)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT,
    request_id TEXT,
    created_at_ns INTEGER NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,
    ended_at_ns INTEGER,
    size_bytes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_name ON jobs (name, created_at_ns) WHERE name IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_request ON jobs (owner, request_id)
    WHERE request_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (ended_at_ns) WHERE ended = 1;
CREATE INDEX IF NOT EXISTS jobs_by_owner_and_end ON jobs (owner, ended_at_ns) WHERE ended = 1;
CREATE TABLE IF NOT EXISTS shares (
    user TEXT NOT NULL,
    verb TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT,
    PRIMARY KEY (user, verb, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS shares_by_id ON shares (id);
CREATE INDEX IF NOT EXISTS shares_by_name ON shares (user, verb, name) WHERE name IS NOT NULL;
"""
_VERSION: Final = 3
_LIVING_FIRST: Final = "ORDER BY ended, created_at_ns DESC"
"""One that still runs goes before all others."""


@dataclass(frozen=True, slots=True)
class Match:
    """A job that a reference may mean."""

    job_id: str
    owner: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended, when (UTC ns), and the room that its directory has."""

    job_id: str
    ended_at_ns: int
    size_bytes: int


class Catalogue:
    """The index of one instance's jobs."""

    def __init__(self, path: str) -> None:
        """Open or make the catalogue at `path`; a damaged one or another version's starts empty."""
        try:
            self._db = _open(path)
        except sqlite3.OperationalError as error:
            # A full disk must not keep the server away: this once the index is in memory, and
            # recovery fills it from the jobs' directories.
            _logger.warning("keeping the catalogue in memory: cannot write %s: %s", path, error)
            self._db = _open(":memory:")
        except sqlite3.DatabaseError:
            # It is only an index: the next recovery fills it again from the jobs' directories.
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path + suffix)
            self._db = _open(path)
        self._count = self._size_bytes = 0
        self._sizes: Counter[str] = Counter()
        self._sum_up()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, record: JobRecord) -> None:
        """Add a job that runs; one that is there already is left as it is, but for its shares."""
        # Before the job itself: without it they find nothing, and it is never without them.
        self._share(record, record.shares)
        self._db.execute(
            "INSERT OR IGNORE INTO jobs (id, owner, name, request_id, created_at_ns)"
            " VALUES (?, ?, ?, ?, ?)",
            (
                record.job_id,
                record.owner,
                record.spec.name,
                record.spec.request_id,
                record.created_at_ns,
            ),
        )

    def share(self, record: JobRecord, shares: tuple[Share, ...]) -> None:
        """Put these in the place of the job's shares, all at once."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM shares WHERE id = ?", (record.job_id,))
            self._share(record, shares)

    def _share(self, record: JobRecord, shares: tuple[Share, ...]) -> None:
        # Not with the owner himself: what is his is found as his, and only once.
        rows = [
            (share.user, str(verb), record.job_id, record.spec.name)
            for share in shares
            if share.user != record.owner
            for verb in share.verbs
        ]
        if rows:
            self._db.executemany("INSERT OR IGNORE INTO shares VALUES (?, ?, ?, ?)", rows)

    def mark_ended(self, ended: Ended) -> None:
        """Note that the job has ended."""
        row = self._db.execute(
            "SELECT owner FROM jobs WHERE id = ? AND ended = 0", (ended.job_id,)
        ).fetchone()
        if row is None:
            return
        self._db.execute(
            "UPDATE jobs SET ended = 1, ended_at_ns = ?, size_bytes = ? WHERE id = ?",
            (ended.ended_at_ns, ended.size_bytes, ended.job_id),
        )
        self._count += 1
        self._size_bytes += ended.size_bytes
        self._sizes[row[0]] += ended.size_bytes

    def add_ended(self, jobs: Iterable[tuple[JobRecord, Ended]]) -> None:
        """Add jobs that have ended, all at once."""
        try:
            with self._db:
                self._db.execute("BEGIN")
                for record, ended in jobs:
                    self.add(record)
                    self.mark_ended(ended)
        finally:
            self._sum_up()

    def remove(self, job_id: str) -> None:
        """Forget the job."""
        row = self._db.execute(
            "SELECT size_bytes, owner FROM jobs WHERE id = ? AND ended = 1", (job_id,)
        ).fetchone()
        self._db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        self._db.execute("DELETE FROM shares WHERE id = ?", (job_id,))
        if row is not None:
            size_bytes, owner = row
            self._count -= 1
            self._size_bytes -= size_bytes
            self._sizes[owner] -= size_bytes

    def remove_all(self, job_ids: Iterable[str]) -> None:
        """Forget these jobs."""
        with self._db:
            self._db.execute("BEGIN")
            rows = [(job_id,) for job_id in job_ids]
            self._db.executemany("DELETE FROM jobs WHERE id = ?", rows)
            self._db.executemany("DELETE FROM shares WHERE id = ?", rows)
        self._sum_up()

    def _sum_up(self) -> None:
        totals = "SELECT count(*), ifnull(sum(size_bytes), 0) FROM jobs WHERE ended = 1"
        self._count, self._size_bytes = self._db.execute(totals).fetchone()
        sizes = "SELECT owner, sum(size_bytes) FROM jobs WHERE ended = 1 GROUP BY owner"
        self._sizes = Counter(dict(self._db.execute(sizes)))

    @property
    def kept(self) -> Kept:
        """The jobs that have ended, all together. Asking is free."""
        return Kept(self._count, self._size_bytes)

    def kept_bytes(self, owner: str) -> int:
        """Return the room of the owner's jobs that have ended. Free, and safe from any thread."""
        return self._sizes[owner]

    def oldest(self, until_ns: int, most: int) -> list[Ended]:
        """Return the jobs that ended first, and not after `until_ns`, in this order."""
        rows = self._db.execute(
            "SELECT id, ended_at_ns, size_bytes FROM jobs WHERE ended = 1 AND ended_at_ns <= ?"
            " ORDER BY ended_at_ns LIMIT ?",
            (until_ns, most),
        )
        return [Ended(*row) for row in rows]

    def behind_newest(
        self, owner: str | None, newest: int, until_ns: int, most: int
    ) -> list[Ended]:
        """Return the owner's jobs (None: everybody's) that ended not after `until_ns`.

        Without so many of his that ended last; the latest first.
        """
        whose, values = ("", ()) if owner is None else (" AND owner = ?", (owner,))
        # Only constants of this module reach the text of the statement.
        rows = self._db.execute(
            "SELECT * FROM (SELECT id, ended_at_ns, size_bytes FROM jobs"  # noqa: S608
            f" WHERE ended = 1{whose} ORDER BY ended_at_ns DESC LIMIT -1 OFFSET ?)"
            " WHERE ended_at_ns <= ? LIMIT ?",
            (*values, newest, until_ns, most),
        )
        return [Ended(*row) for row in rows]

    def ids(self, *, ended: bool) -> set[str]:
        """Return the ids of the jobs that have ended, or of those that have not."""
        rows = self._db.execute("SELECT id FROM jobs WHERE ended = ?", (int(ended),))
        return {job_id for (job_id,) in rows}

    def find(
        self,
        reference: str,
        owner: str | None,
        verb: Verb | None = None,
        hidden: frozenset[str] = frozenset(),
    ) -> list[Match]:
        """Return the jobs that `reference` may mean among the owner's (None: everybody's).

        And among those that are shared with him for `verb`; None: no shared ones. An exact id is
        the one; then a name's newest job of each owner; then a prefix's jobs, at most two of them,
        for two are already too many. What is shared is found by its name only where nothing else is
        meant: nobody's choice of a name takes the place of a job of the caller's own. Ids that are
        `hidden` stand in nobody's way.
        """

        def select(where: str, *values: str, tail: str = "") -> Iterator[Match]:
            found = self._select(where, values, owner, tail)
            return (match for match in found if match.job_id not in hidden)

        def shared(where: str, *values: str, tail: str = "") -> Iterator[Match]:
            found = self._shared(where, values, owner, verb, tail)
            return (match for match in found if match.job_id not in hidden)

        between = ("id >= ? AND id < ?", reference, f"{reference}g")
        return (
            list(select("id = ?", reference))
            or list(shared("id = ?", reference))
            or _newest(select("name = ?", reference, tail=_LIVING_FIRST))
            or list(islice(chain(select(*between), shared(*between)), 2))
            or _newest(shared("name = ?", reference, tail=_LIVING_FIRST))
        )

    def _select(
        self, where: str, values: tuple[str, ...], owner: str | None, tail: str
    ) -> Iterator[Match]:
        # Only constants of this module reach the text of the statement.
        sql = f"SELECT id, owner, ended FROM jobs WHERE {where}"  # noqa: S608
        if owner is not None:
            sql += " AND owner = ?"
            values = (*values, owner)
        for job_id, who, ended in self._db.execute(f"{sql} {tail}", values):
            yield Match(job_id, who, bool(ended))

    def _shared(
        self,
        where: str,
        values: tuple[str, ...],
        user: str | None,
        verb: Verb | None,
        tail: str,
    ) -> Iterator[Match]:
        # Begins with the caller's own shares, so that it takes as long for a job that is somebody
        # else's as for one that is not there. (CROSS JOIN keeps SQLite to that order.)
        if user is None or verb is None:
            return
        rows = self._db.execute(
            "SELECT jobs.id, jobs.owner, jobs.ended FROM (SELECT id FROM shares"  # noqa: S608
            f" WHERE user = ? AND verb = ? AND {where}) AS found"
            f" CROSS JOIN jobs ON jobs.id = found.id {tail}",
            (user, str(verb), *values),
        )
        for job_id, who, ended in rows:
            yield Match(job_id, who, bool(ended))

    def find_request(self, owner: str, request_id: str) -> str | None:
        """Return the id of the job that the owner's request started, or None."""
        row = self._db.execute(
            "SELECT id FROM jobs WHERE owner = ? AND request_id = ?", (owner, request_id)
        ).fetchone()
        return None if row is None else str(row[0])

    def running_named(self, owner: str, name: str) -> str | None:
        """Return the job of the owner's that has this name and has not ended."""
        row = self._db.execute(
            "SELECT id FROM jobs WHERE name = ? AND owner = ? AND ended = 0", (name, owner)
        ).fetchone()
        return None if row is None else str(row[0])


def _newest(matches: Iterable[Match]) -> list[Match]:
    """Return the first of each owner's."""
    newest: dict[str, Match] = {}
    for match in matches:
        newest.setdefault(match.owner, match)
    return list(newest.values())


def _open(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        db.close()
        raise sqlite3.DatabaseError(found)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        db.execute("DROP TABLE IF EXISTS jobs")
        db.execute("DROP TABLE IF EXISTS shares")
    db.executescript(_SCHEMA)
    db.execute(f"PRAGMA user_version={_VERSION}")
    return db
