"""What the spawner was started with, and one order to start a job, checked."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import stat
from dataclasses import dataclass
from typing import Final

from ..linux.files import parse_json, read_whole
from ..model.errors import JobError
from ..model.io_rates import IoOrder, parse_io_order
from ..model.protocol import Failure, Step, StepError
from ..model.rlimits import check_rlimit
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
    accounts: frozenset[tuple[int, int]] = frozenset()
    """Pairs of uid and gid that jobs may be given beside these; no order can add one."""
    hidden: tuple[str, ...] = ()
    """Directories and files that isolated jobs do not see, beside the usual ones."""


@dataclass(frozen=True, slots=True)
class Order:
    """A job to start. The descriptors are the keeper's own."""

    job_id: str
    spec: JobSpec
    io: IoOrder
    """Its I/O rates, of which the spec has none."""
    uid: int | None
    executable: str | None
    """The absolute path to execute in the place of what argv[0] names; None: that."""
    gid: int | None
    user: str
    """The user's name in the job's environment, and nothing else."""
    rlimits: tuple[tuple[str, int, int, int], ...]
    """Names, and the arguments of setrlimit(2): which, soft, hard."""
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
    uid, gid = _checked_user(site, message.get("uid"), message.get("gid"))
    try:
        user, rlimits = _name(message.get("user")), _rlimits(message.get("rlimits"))
        if fcntl.fcntl(spec_fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("the spec is not sealed")
        raw = parse_json(read_whole(spec_fd))
        io = parse_io_order(raw.pop("io"))
        executable = _executable(raw.pop("executable", None))
        spec = parse_spec(raw)
    except (ValueError, KeyError, TypeError, OSError, JobError) as error:
        raise StepError(Failure(Step.ORDER, 22)) from error
    return Order(job_id, spec, io, uid, executable, gid, user, rlimits, directory, site)


def _checked_user(site: Site, uid: object, gid: object) -> tuple[int | None, int | None]:
    """Return the user if this site's jobs may run as him; whatever jobd says, no other is taken."""
    if type(uid) is int and type(gid) is int and site.uids:
        is_an_owners = uid in site.uids and gid == uid
        is_the_servers = uid == site.peer_uid and uid != 0
        if is_an_owners or ((uid, gid) in site.accounts and not is_the_servers):
            return uid, gid
    elif uid is None and gid is None and not site.uids:
        return None, None
    raise StepError(Failure(Step.USER, errno.EPERM, f"{uid}:{gid}"[:64]))


def _name(value: object) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > 256:
        raise ValueError("not a user's name")
    return value


def _rlimits(value: object) -> tuple[tuple[str, int, int, int], ...]:
    if not isinstance(value, list):
        raise TypeError("not a list of resource limits")
    found = []
    for name, soft, hard in value:
        check_rlimit(name, soft, hard)
        found.append((name, int(getattr(resource, f"RLIMIT_{name.upper()}")), soft, hard))
    return tuple(found)


def _executable(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("not the path of a program")
    return value
