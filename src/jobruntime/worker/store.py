"""The jobs' directories on disk: what was asked for, what became of it. The files decide."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, replace

from ..linux.files import (
    create_exclusive,
    encode_json,
    open_directory,
    read_json,
    replace_json,
    try_lock,
    write_all,
)
from ..model.frames import parse_segment_name
from ..model.io_rates import NO_IO, IoOrder, encode_io_order
from ..model.limits import NO_LIMITS, Limits, encode_limits, parse_limits
from ..model.log_policy import NO_POLICY, LogPolicy, encode_log_policy, parse_log_policy
from ..model.protocol import (
    OUTCOME_FILE,
    PARTIAL_OUTCOME_FILE,
    SPEC_FILE,
    STATUS_FILE,
)
from ..model.record import Progress, encode_progress, parse_progress
from ..model.shares import Share, encode_shares, parse_shares
from ..model.spec import JobSpec, encode_spec, parse_spec
from ..model.state import State
from ..model.status import JobStatus

_SPEC_VERSION = 1


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it was ordered: what never changes about it but with whom it is shared."""

    job_id: str
    owner: str
    spec: JobSpec
    created_at_ns: int
    boot_id: str
    limits: Limits = NO_LIMITS
    """What was in force at its start: the spec's own with the server's defaults and ceilings."""
    log: LogPolicy = NO_POLICY
    """The same of its log's bounds."""
    io: IoOrder = NO_IO
    """What its keeper makes the I/O rates of, which it then tells; not kept."""
    shares: tuple[Share, ...] = ()
    """With whom it is shared now; the spec's own are what its start asked for."""
    user: str = ""
    """As whom it runs: an account's name or a uid; empty in what older versions wrote."""
    executable: str | None = None
    """The path that the policy has checked, to be executed in the place of what argv[0] names."""


class JobDirectory:
    """An open directory of one job. While it is locked, whoever holds the lock writes it."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def create(cls, jobs_dir: str, record: JobRecord) -> JobDirectory:
        """Make the directory of a new job, locked; raises OSError with nothing left behind."""
        path = f"{jobs_dir}/{record.job_id}"
        os.mkdir(path, 0o700)
        try:
            directory = cls(path, open_directory(path))
        except OSError:
            os.rmdir(path)
            raise
        try:
            try_lock(directory.fd)
            fd = create_exclusive(SPEC_FILE, directory.fd)
            try:
                write_all(fd, encode_json(_encode_record(record)))
            finally:
                os.close(fd)
        except BaseException:
            directory.discard()
            raise
        return directory

    @classmethod
    def open(cls, jobs_dir: str, job_id: str) -> JobDirectory:
        """Open an existing job's directory; raises FileNotFoundError where there is none."""
        path = f"{jobs_dir}/{job_id}"
        return cls(path, open_directory(path))

    def close(self) -> None:
        """Give this descriptor back; the lock stays while another copy of it is open."""
        os.close(self.fd)

    def __enter__(self) -> JobDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sync(self) -> None:
        """Bring the order to the disk, so that the job is known after a crash of the host.

        The file's fsync brings its new name along on ext4, xfs and btrfs.
        """
        fd = os.open(SPEC_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard(self) -> None:
        """Remove the directory of a job that never ran, and close it."""
        self.remove()
        self.close()

    def remove(self) -> None:
        """Remove the directory of a job that never ran."""
        for name in os.listdir(self.fd):
            os.unlink(name, dir_fd=self.fd)
        os.rmdir(self.path)

    def try_lock(self) -> bool:
        """Take the job's lock if its keeper is gone; return whether it was taken."""
        return try_lock(self.fd)

    def unlock(self) -> None:
        """Give the lock back."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def read_record(self) -> JobRecord | None:
        """Return what was ordered; None where the server died before it was written.

        Raises ValueError for a damaged file.
        """
        raw = read_json(SPEC_FILE, self.fd)
        return None if raw is None else _parse_record(raw)

    def write_record(self, record: JobRecord) -> None:
        """Put `record` in the place of what was ordered; on the disk when this returns.

        Only the server writes the order; a keeper has a copy of its own.
        """
        replace_json(SPEC_FILE, _encode_record(record), self.fd, sync=True)

    def read_outcome(self) -> Progress | None:
        """Return how the job ended, or None; raises ValueError for a damaged file."""
        raw = read_json(OUTCOME_FILE, self.fd)
        return None if raw is None else parse_progress(raw)

    def recover_outcome(self) -> Progress | None:
        """Return an outcome whose keeper wrote it and died before it was named; now it is.

        The caller holds the lock.
        """
        try:
            raw = read_json(PARTIAL_OUTCOME_FILE, self.fd)
            progress = None if raw is None else parse_progress(raw)
        except ValueError:  # only the room that was reserved
            return None
        if progress is None or progress.state is not State.TERMINATED:
            return None
        os.rename(PARTIAL_OUTCOME_FILE, OUTCOME_FILE, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        return progress

    def read_status(self) -> Progress | None:
        """Return what the keeper wrote last while the job ran, or None where that never came."""
        with contextlib.suppress(ValueError):
            raw = read_json(STATUS_FILE, self.fd)
            return None if raw is None else parse_progress(raw)
        return None

    def has_run(self) -> bool:
        """Return whether a keeper ever got so far as to make the log."""
        return any(parse_segment_name(name) is not None for name in os.listdir(self.fd))

    def write_outcome(self, progress: Progress) -> None:
        """Record the end in the dead keeper's place; the caller holds the lock."""
        replace_json(OUTCOME_FILE, encode_progress(progress), self.fd, sync=True)


def encode_order(record: JobRecord) -> bytes:
    """Return the spec as it is handed to a keeper, with the limits that it is to enforce.

    Without the shares: nobody reaches a job through its keeper.
    """
    limits = replace(record.limits, io=())
    spec = encode_spec(replace(record.spec, limits=limits, log=record.log, shares=()))
    more = {"io": encode_io_order(record.io), "executable": record.executable}
    return encode_json(spec | more)


def status_of(record: JobRecord, progress: Progress | None) -> JobStatus:
    """Return the status that the order and its course make together; None: it has only begun."""
    known = progress or Progress(State.STARTING)
    return JobStatus(
        job_id=record.job_id,
        owner=record.owner,
        spec=record.spec,
        state=known.state,
        outcome=known.outcome,
        created_at_ns=record.created_at_ns,
        started_at_ns=known.started_at_ns,
        ended_at_ns=known.ended_at_ns,
        stop_requested=known.stop_requested,
        timed_out=known.timed_out,
        killed=known.killed,
        oom=known.oom,
        limits=record.limits if known.limits is None else known.limits,
        log=record.log,
        usage=known.usage,
        shares=record.shares,
        user=record.user,
    )


def _encode_record(record: JobRecord) -> dict[str, object]:
    return {
        "version": _SPEC_VERSION,
        "job_id": record.job_id,
        "owner": record.owner,
        "created_at_ns": record.created_at_ns,
        "boot_id": record.boot_id,
        "spec": encode_spec(record.spec),
        "limits": encode_limits(record.limits),
        "log": encode_log_policy(record.log),
        "shares": encode_shares(record.shares),
        "user": record.user,
        "executable": record.executable,
    }


def _parse_record(raw: dict[str, object]) -> JobRecord:
    try:
        spec, created = raw["spec"], raw["created_at_ns"]
        if raw["version"] != _SPEC_VERSION or not isinstance(spec, dict):
            raise ValueError("not a job's spec of this version")
        if not isinstance(created, int):
            raise ValueError("no time of creation")
        return JobRecord(
            str(raw["job_id"]),
            str(raw["owner"]),
            parse_spec(spec),
            created,
            str(raw["boot_id"]),
            parse_limits(raw.get("limits", {})),
            parse_log_policy(raw.get("log")),
            shares=parse_shares(raw.get("shares")),
            user=str(raw.get("user", "")),
            executable=None if (executable := raw.get("executable")) is None else str(executable),
        )
    except (KeyError, TypeError) as error:
        raise ValueError("not a job's spec") from error
