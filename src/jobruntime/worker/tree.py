"""The instance's cgroups: where they are, who gave them, and what jobs can be limited to there.

    <root>/supervisor   spawner and keepers
    <root>/server       jobd, where a service manager started it in <root> itself
    <root>/jobs/<id>    the processes of one job, and nothing else

Only leaves have processes: a group with processes can give its children no controllers ("no
internal processes", cgroup-v2.rst).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ..linux import cgroup
from ..linux.controllers import Offer, enable, has_controllers, read_offer, unenforceable
from ..linux.limits import (
    LimitError,
    apply_writes,
    io_writes,
    limit_writes,
    only_writes,
    read_file,
    reset_writes,
)
from ..model.errors import JobError, Reason
from ..model.limits import NO_LIMITS, Limits, check_together
from .scope import Scope, ScopeError, has_systemd, open_scope

_LEAVE_S: Final = 2.0
_logger = logging.getLogger(__name__)
_NOT_OURS: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Tree:
    """The cgroups of one instance; `root` None: it works without."""

    root: str | None
    place: str
    """Where the root comes from, in words."""
    offer: Offer
    scope: Scope | None = None

    @property
    def jobs(self) -> str:
        """The group above all jobs."""
        return f"{self.root}/jobs"

    def release(self) -> None:
        """Let go of the groups; jobs and spawner stay in them."""
        if self.scope is not None:
            self.scope.close()

    def remove(self) -> None:
        """Remove the groups; jobs and spawner have ended. What is still used stays."""
        self.release()
        if self.root is None:
            return
        with contextlib.suppress(OSError):
            cgroup.wait_empty(f"{self.root}/supervisor", _LEAVE_S)
            for leaf in ("jobs", "supervisor"):
                os.rmdir(f"{self.root}/{leaf}")
            if self.scope is None:  # a scope's group is systemd's: it would miss the scope's end
                os.rmdir(self.root)


def open_tree(setting: str, tag: str) -> Tree:
    """Make the instance's groups with all controllers that can be had.

    `setting` is `auto`, `none` or a path; raises OSError where that can't be used.
    """
    if setting == "none":
        return Tree(None, "none, as configured: jobs are tracked as subreaper", Offer())
    hierarchy = cgroup.find_hierarchy()
    if hierarchy is None:
        if setting != "auto":
            raise FileNotFoundError(errno.ENOENT, "no cgroup v2 is mounted")
        return Tree(None, "none (no cgroup v2 is mounted): jobs are tracked as subreaper", Offer())
    if setting != "auto":
        return _make(setting, hierarchy.mount, [], "configured")
    try:
        return _auto(hierarchy, tag)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        return Tree(
            None,
            "none (the cgroup v2 of this host is not writable for jobd): jobs are tracked as "
            "subreaper",
            Offer(),
        )


def _auto(hierarchy: cgroup.Hierarchy, tag: str) -> Tree:
    mount, own = hierarchy.mount, hierarchy.mount + hierarchy.own.rstrip("/")
    if delegated := delegated_group(mount, own):
        return _make(delegated, mount, [], "delegated by the service manager", leave=own)
    if has_controllers(mount) and has_systemd():
        try:
            return _make_in_scope(open_scope(tag, mount), mount)
        except ScopeError as error:
            _logger.warning("cannot have a scope of systemd's: %s", error)
    if os.geteuid() != 0:
        return _make(f"{own}/jobd-{tag}", mount, [], "in jobd's own group, not delegated")
    if not cgroup.is_root(mount):
        leave = _leave_namespace_root if hierarchy.own == "/" else _stay
        return _make(
            f"{mount}/jobd-{tag}", mount, [mount], "the container's own cgroup", first=leave
        )
    return _make(f"{mount}/jobd-{tag}", mount, [mount], "at the top, as root")


def _make_in_scope(scope: Scope, mount: str) -> Tree:
    try:
        return _make(scope.root, mount, [], "a scope of systemd's", scope=scope)
    except BaseException:
        scope.close()
        raise


def delegated_group(mount: str, own: str) -> str | None:
    """Return the group that a service manager gave to this process, also from a leaf of it."""
    candidates = [own]
    if os.path.basename(own) in ("server", "supervisor"):
        candidates.append(os.path.dirname(own))
    # A user's shell may run within what was given away to somebody else.
    return next(
        (
            path
            for path in candidates
            if path != mount and cgroup.is_delegated(path) and os.access(path, os.W_OK)
        ),
        None,
    )


def _stay(_mount: str) -> None:
    """Every process is in a leaf already."""


def _leave_namespace_root(mount: str) -> None:
    # The root of a container's cgroup namespace is a group like any other on the host: its
    # processes must be in a leaf before it can hand controllers down.
    cgroup.make(f"{mount}/init")
    for pid in cgroup.own_pids(mount):
        with contextlib.suppress(ProcessLookupError):
            cgroup.move(f"{mount}/init", pid)


def _make(
    root: str,
    mount: str,
    above: list[str],
    place: str,
    *,
    leave: str | None = None,
    first: Callable[[str], None] = _stay,
    scope: Scope | None = None,
) -> Tree:
    for leaf in ("supervisor", "jobs"):
        cgroup.make(f"{root}/{leaf}")
    first(mount)
    if leave == root:
        cgroup.make(f"{root}/server")
        cgroup.join(f"{root}/server")
    failed = enable([*above, root, f"{root}/jobs"])
    return Tree(root, place, read_offer(f"{root}/jobs", mount, failed), scope)


def check_enforceable(limits: Limits, offer: Offer, what: str) -> None:
    """Refuse limits that this host cannot hold; raises JobError (LIMIT_NOT_ENFORCEABLE)."""
    if found := unenforceable(limits, offer):
        flag, lack = found
        raise JobError(
            Reason.LIMIT_NOT_ENFORCEABLE,
            f"cannot {what} with {flag}: {lack.cause}",
            lack.remedy,
        )


def check_all_jobs(limits: Limits, offer: Offer) -> None:
    """Refuse limits of all jobs together that cannot be; raises JobError."""
    check_enforceable(limits, offer, "limit all jobs together")
    try:
        check_together(limits)
    except JobError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot use [limits.all] of the configuration: {error.message}",
            error.remedy,
        ) from error


def limit_all_jobs(tree: Tree, limits: Limits) -> None:
    """Hold all jobs together to `limits`, and to nothing else; raises JobError.

    Each I/O rate has its disk.
    """
    if tree.root is None and limits == NO_LIMITS:
        return
    check_all_jobs(limits, tree.offer)
    files = tree.offer.files
    # Never as a group: one job that takes too much must not end all of them.
    one_by_one = replace(limits, oom_group=False)
    wanted = {write.file: write for write in limit_writes(one_by_one, files)}
    lifted = [write for write in reset_writes(files) if write.file not in wanted]
    try:
        present = read_file(tree.jobs, "io.max") if "io.max" in files else ""
        rates = only_writes(io_writes(limits.io), present)
        apply_writes(tree.jobs, [*lifted, *wanted.values(), *rates])
    except (LimitError, OSError) as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot limit all jobs together: {error}",
            "correct [limits.all] of the configuration",
        ) from error
