"""What the spawner was started with, and one order to start a job, checked."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from dataclasses import dataclass
from typing import Final

from ..linux.files import parse_json, read_whole
from ..model.errors import JobError
from ..model.protocol import Failure, Step, StepError
from ..model.spec import JobSpec, parse_spec

_JOB_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Site:
    """Where this spawner's jobs live on the host, and who may ask it."""

    runtime_dir: str
    work_dir: str
    cgroup_root: str | None
    """The instance's own cgroup; None: jobs are tracked as subreaper."""
    peer_uid: int
    cgroup_files: frozenset[str]
    """Files of a job's group that not every host has, and that change how limits are written."""
    log_reserve_bytes: int
    """Free room on the disk that logs leave to others."""
    uids: range
    """The uids (and gids of the same number) that jobs may be given; empty: the spawner's own."""


@dataclass(frozen=True, slots=True)
class Order:
    """A job to start. The descriptors are the keeper's own."""

    job_id: str
    spec: JobSpec
    uid: int | None
    directory: int
    """The job's directory in the state directory; its lock is held through this descriptor."""
    site: Site

    @property
    def peer_uids(self) -> tuple[int, ...]:
        """Who may speak to the keeper."""
        return (self.site.peer_uid, os.geteuid())


def checked_job_id(value: object) -> str:
    """Return `value` if it is a job id; it becomes part of paths. Raises StepError otherwise."""
    if not isinstance(value, str) or not _JOB_ID.fullmatch(value):
        raise StepError(Failure(Step.ORDER, 22))
    return value


def check_reply(fd: int) -> None:
    """Refuse a reply descriptor that is no socket: what is written to it is written by root.

    Raises StepError.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise StepError(Failure(Step.ORDER, errno.ENOTSOCK))


def _check_directory(site: Site, fd: int) -> None:
    # Files are made in it: it must be the server's own, not one that it can merely open.
    about = os.fstat(fd)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != site.peer_uid:
        raise StepError(Failure(Step.ORDER, errno.EPERM))


def read_order(site: Site, message: dict[str, object], directory: int, spec_fd: int) -> Order:
    """Return the order in `message`; raises StepError for one that this site does not allow.

    The spec comes in a sealed memfd, so that what was checked is what is run.
    """
    job_id = checked_job_id(message.get("id"))
    _check_directory(site, directory)
    uid = message.get("uid")
    if site.uids:
        if not isinstance(uid, int) or uid not in site.uids:
            raise StepError(Failure(Step.USER, 1, str(uid)))
    elif uid is not None:
        raise StepError(Failure(Step.USER, 1, str(uid)))
    try:
        if fcntl.fcntl(spec_fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("the spec is not sealed")
        spec = parse_spec(parse_json(read_whole(spec_fd)))
    except (ValueError, KeyError, TypeError, OSError, JobError) as error:
        raise StepError(Failure(Step.ORDER, 22)) from error
    return Order(job_id, spec, uid if isinstance(uid, int) else None, directory, site)
