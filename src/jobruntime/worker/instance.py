"""One instance: its directories, its lock, its place among the cgroups."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..linux.files import make_private_directory
from ..model.errors import JobError, Reason
from ..model.protocol import KEEPER_SOCKETS, SPAWNER_SOCKET
from .settings import Settings
from .tree import Tree, open_tree
from .uids import check_free, find_accounts

_MOST_RESERVE_BYTES: Final = 1 << 30
_held: set[str] = set()
"""State directories that this process serves."""
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux (fcntl(2))


@dataclass(frozen=True, slots=True)
class Instance:
    """The places of one instance, made and checked, and the lock that makes it the only one."""

    state_dir: str
    runtime_dir: str
    work_dir: str
    tree: Tree
    uids: range
    lock: int
    reserve_bytes: int
    """Free room that the disk of the state directory keeps."""
    hidden: tuple[str, ...] = ()
    """What isolated jobs do not see."""
    owns_runtime_dir: bool = True
    """It was not configured, so it goes when nothing is in it any more."""
    accounts: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    """Uid and gid of the accounts that jobs may be given beside `uids`."""

    @property
    def cgroup_root(self) -> str | None:
        """The instance's own cgroup; None: jobs are tracked as subreaper."""
        return self.tree.root

    @property
    def jobs_dir(self) -> str:
        """Where each job has its directory."""
        return f"{self.state_dir}/jobs"

    @property
    def removed_dir(self) -> str:
        """Where the directory of a job goes that is being removed; nobody looks for jobs there."""
        return f"{self.state_dir}/removed"

    def close(self) -> None:
        """Give the lock back, and let go of the cgroups; what runs in them stays."""
        self.tree.release()
        _release(self.state_dir, self.lock)


def open_instance(settings: Settings) -> Instance:
    """Make what is missing, take the lock, and return the instance.

    Raises JobError: INSTANCE_IN_USE where another process serves it, CONFIG_INVALID where a
    directory can't be used.
    """
    state_dir = os.path.realpath(settings.state_dir)
    uids = _uids(settings)
    check_free(uids)
    accounts = find_accounts(settings.accounts if uids else (), uids)
    try:
        make_private_directory(state_dir)
        make_private_directory(f"{state_dir}/jobs")
        make_private_directory(f"{state_dir}/removed")
        lock = _take_lock(state_dir)
    except OSError as error:
        raise _unusable("state directory", state_dir, error) from error
    try:
        return Instance(
            state_dir=state_dir,
            runtime_dir=_make_runtime_dir(settings, state_dir),
            work_dir=_make_work_dir(settings, state_dir, uids),
            tree=_open_tree(settings, state_dir),
            uids=uids,
            lock=lock,
            reserve_bytes=_reserve_bytes(settings, state_dir),
            hidden=(state_dir, *settings.hidden),
            owns_runtime_dir=settings.runtime_dir is None,
            accounts=accounts,
        )
    except BaseException:
        _release(state_dir, lock)
        raise


def _reserve_bytes(settings: Settings, state_dir: str) -> int:
    disk = os.statvfs(state_dir)
    size_bytes = disk.f_blocks * disk.f_frsize
    if settings.log_reserve_bytes is not None:
        if settings.log_reserve_bytes >= size_bytes:  # nothing would be kept, and all be removed
            raise JobError(
                Reason.CONFIG_INVALID,
                f"cannot keep {settings.log_reserve_bytes} bytes free on the disk of {state_dir}: "
                f"it has {size_bytes}",
                "make the reserve smaller, or give it in percent",
            )
        return settings.log_reserve_bytes
    if settings.log_reserve_percent is not None:
        return int(size_bytes * settings.log_reserve_percent / 100)
    return min(size_bytes // 20, _MOST_RESERVE_BYTES)


def instance_tag(state_dir: str) -> str:
    """Return the short name that tells this instance's places from another's."""
    return hashlib.sha256(os.fsencode(os.path.realpath(state_dir))).hexdigest()[:12]


def lock_holder(state_dir: str) -> int | None:
    """Return the pid of the process that serves this state directory, as the kernel tells it."""
    if os.path.realpath(state_dir) in _held:
        return os.getpid()
    try:
        fd = os.open(f"{state_dir}/lock", os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _release(state_dir: str, lock: int) -> None:
    _held.discard(state_dir)
    os.close(lock)


def _take_lock(state_dir: str) -> int:
    # A POSIX lock: it ends with this process, no child inherits it, the kernel names its holder. It
    # does not keep out a second worker of this process, and closing any descriptor of the file here
    # would drop it (fcntl(2)): therefore the table of what this process holds.
    holder: int | None = os.getpid()
    if state_dir not in _held:
        fd = os.open(f"{state_dir}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held.add(state_dir)
            return fd
        except (BlockingIOError, PermissionError):
            os.close(fd)
            holder = lock_holder(state_dir)
    raise JobError(
        Reason.INSTANCE_IN_USE,
        f"cannot use the state directory {state_dir}: process {holder} serves it already",
        "stop that one first (jobd stop), or give this one a state directory of its own",
    )


def _uids(settings: Settings) -> range:
    if os.geteuid() != 0 or settings.uid_first is None:
        return range(0)
    return range(settings.uid_first, settings.uid_first + settings.uid_count)


def _make_runtime_dir(settings: Settings, state_dir: str) -> str:
    tag = instance_tag(state_dir)
    path = settings.runtime_dir
    try:
        if path is None and os.geteuid() == 0:
            make_private_directory("/run/jobd", 0o711)
            path = f"/run/jobd/{tag}"
        elif path is None:
            # Not XDG_RUNTIME_DIR: another login has another one, or none, and logging out removes
            # it, while the jobs go on.
            path = f"{state_dir}/run"
        make_private_directory(path)
        make_private_directory(f"{path}/{KEEPER_SOCKETS}")
    except OSError as error:
        raise _unusable("runtime directory", path or "", error) from error
    return path


def _make_work_dir(settings: Settings, state_dir: str, uids: range) -> str:
    path = settings.work_dir
    if path is None:
        tag = instance_tag(state_dir)
        path = f"/var/lib/jobd/work-{tag}" if uids else f"{state_dir}/work"
    path = os.path.abspath(path)
    try:
        make_private_directory(path, 0o711 if uids else 0o700)
        path = os.path.realpath(path)
    except OSError as error:
        raise _unusable("directory for the jobs' own directories", path, error) from error
    if uids and (closed := _closed_parent(path)):
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot use {path} for the jobs' own directories: jobs run as users of their own "
            f"and cannot pass {closed}",
            f"run `chmod o+x {closed}`, or set work_dir to a path that everybody can pass",
        )
    return path


def _closed_parent(path: str) -> str | None:
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return path
        path = os.path.dirname(path)
    return None


def _open_tree(settings: Settings, state_dir: str) -> Tree:
    try:
        return open_tree(settings.cgroup_root, instance_tag(state_dir))
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot use the cgroup {settings.cgroup_root}: {error.strerror}",
            "give jobd a cgroup v2 directory that it may write, or `auto` or `none`",
        ) from error


def remove_places(instance: Instance) -> None:
    """Remove the instance's cgroups and runtime directory; its jobs and its spawner have ended."""
    runtime = instance.runtime_dir
    with contextlib.suppress(OSError):
        for name in ("spawner.lock", SPAWNER_SOCKET):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{runtime}/{name}")
        os.rmdir(f"{runtime}/{KEEPER_SOCKETS}")
        if instance.owns_runtime_dir:
            os.rmdir(runtime)
    instance.tree.remove()


def _unusable(what: str, path: str, error: OSError) -> JobError:
    return JobError(
        Reason.CONFIG_INVALID,
        f"cannot use the {what} {path}: {error.strerror}",
        "give it a directory of the server's own user that has mode 0700 or is empty",
    )
