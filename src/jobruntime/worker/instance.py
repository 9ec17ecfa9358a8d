"""One instance: its directories, its lock, its place among the cgroups."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..linux.files import make_private_directory, open_as
from ..linux.ownership import make_directory_of
from ..model.errors import JobError, Reason
from ..model.protocol import KEEPER_SOCKETS, SPAWNER_SOCKET
from .settings import Account, Settings
from .tree import Tree, open_tree
from .uids import check_free, find_accounts

_MOST_RESERVE_BYTES: Final = 1 << 30
_ORPHAN_S: Final = 5.0
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
    server: Account | None = None
    """Who works in the state directory, where that is not the one who made the instance."""

    @property
    def is_prepared(self) -> bool:
        """Whether root made it for this process, which has no privileges itself."""
        return self.server is not None and os.geteuid() != 0

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
    uids, server = _uids(settings), settings.server
    check_free(uids)
    accounts = find_accounts(settings.accounts if uids else (), uids)
    try:
        if server is None:
            make_private_directory(state_dir)
            make_inner_directories(state_dir)
        else:
            _check_apart(settings, state_dir)
            make_directory_of(state_dir, server.uid, server.gid)
        lock = _take_lock(state_dir, server)
    except OSError as error:
        raise _unusable("state directory", state_dir, error) from error
    try:
        instance = Instance(
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
            server=server,
        )
        _show_groups(instance)
        return instance
    except BaseException:
        _release(state_dir, lock)
        raise


def make_inner_directories(state_dir: str) -> None:
    """Make what the one who works in the state directory needs there; raises OSError."""
    make_private_directory(f"{state_dir}/jobs")
    make_private_directory(f"{state_dir}/removed")


def _show_groups(instance: Instance) -> None:
    # A job finds its own group by name; the names of the others only the server may list.
    if instance.uids and instance.cgroup_root is not None:
        if instance.server is not None:
            os.chown(instance.tree.jobs, -1, instance.server.gid)
        os.chmod(instance.tree.jobs, 0o751)  # noqa: S103 - see above


def _check_apart(settings: Settings, state_dir: str) -> None:
    # What root makes must not lie where somebody else could put links in its way.
    for name in ("runtime_dir", "work_dir"):
        path = os.path.realpath(getattr(settings, name) or "/")
        if os.path.commonpath([path, state_dir]) == state_dir:
            raise JobError(
                Reason.CONFIG_INVALID,
                f"cannot use {path}: as root, {name} must not be inside the state directory, which "
                "is the unprivileged server's own",
                f"set {name} to a directory elsewhere",
            )


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
        # The monitor's part first: it stands for the server, too, until both have ended.
        return _holder_of(fd, 0, 1) or _holder_of(fd, 0, 0)
    finally:
        os.close(fd)


def _holder_of(fd: int, start: int, length: int) -> int | None:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)


def share_lock(lock: int) -> None:
    """Leave all but the first byte of the lock to the server, which takes it by `join_lock`."""
    fcntl.lockf(lock, fcntl.LOCK_UN, 0, 1)


def join_lock(lock: int) -> None:
    """Hold the server's part of the lock, which ends with this process; raises OSError."""
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1)


def _release(state_dir: str, lock: int) -> None:
    _held.discard(state_dir)
    os.close(lock)


def _take_lock(state_dir: str, server: Account | None) -> int:
    # A POSIX lock: it ends with this process, no child inherits it, the kernel names its holder. It
    # does not keep out a second worker of this process, and closing any descriptor of the file here
    # would drop it (fcntl(2)): therefore the table of what this process holds.
    holder: int | None = os.getpid()
    if state_dir not in _held:
        uid = None if server is None else server.uid
        fd = open_as(uid, state_dir, "lock", os.O_RDWR | os.O_CREAT)
        try:
            _lock_soon(fd)
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


def _lock_soon(fd: int) -> None:
    deadline = time.monotonic() + _ORPHAN_S
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            # A server whose monitor was killed has SIGKILL pending, and is gone in a moment.
            if _holder_of(fd, 0, 1) is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _uids(settings: Settings) -> range:
    if os.geteuid() != 0 or settings.uid_first is None:
        return range(0)
    return range(settings.uid_first, settings.uid_first + settings.uid_count)


def _make_runtime_dir(settings: Settings, state_dir: str) -> str:
    tag = instance_tag(state_dir)
    path = settings.runtime_dir
    # The sockets in it are the server's, the directory is not: it cannot put others in their place.
    mode, gid = (0o700, -1) if settings.server is None else (0o710, settings.server.gid)
    try:
        if path is None and os.geteuid() == 0:
            make_private_directory("/run/jobd", 0o711)
            path = f"/run/jobd/{tag}"
        elif path is None:
            # Not XDG_RUNTIME_DIR: another login has another one, or none, and logging out removes
            # it, while the jobs go on.
            path = f"{state_dir}/run"
        make_private_directory(path, mode, gid=gid)
        make_private_directory(f"{path}/{KEEPER_SOCKETS}", mode, gid=gid)
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


def remove_unused_places(instance: Instance) -> None:
    """Remove them where no job and no spawner is left."""
    runtime = instance.runtime_dir
    with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError):
        if os.listdir(f"{runtime}/{KEEPER_SOCKETS}"):
            return
        with open(f"{runtime}/spawner.lock", "rb+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_places(instance)


def _unusable(what: str, path: str, error: OSError) -> JobError:
    return JobError(
        Reason.CONFIG_INVALID,
        f"cannot use the {what} {path}: {error.strerror}",
        "give it a directory of the server's own user that has mode 0700 or is empty",
    )
