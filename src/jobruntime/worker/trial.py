"""A worker for trial jobs, beside a server with the same settings and without touching it.

It has its own state, its own directories for the jobs and its own cgroup, and of the range of uids
the last one. When it is left nothing of it remains; what a killed one leaves, the next removes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from ..linux import cgroup
from ..linux.controllers import (
    Lack,
    Offer,
    enable,
    handed_down,
    take_back,
    unenforceable,
    why_missing,
)
from ..model.errors import JobError, Reason
from ..model.limits import Controller, Limits
from .engine import LocalWorker
from .instance import instance_tag, open_instance, remove_places
from .settings import Settings
from .tree import delegated_group, limit_all_jobs
from .trial_leftovers import PREFIX, clear_leftovers, marked

BY: Final = "jobd doctor"


@dataclass(frozen=True, slots=True)
class Trial:
    """A worker that runs trial jobs, and what the host offers them."""

    worker: LocalWorker
    place: str
    """Where its groups are, and who gave them, in words."""
    offer: Offer
    work_dir: str

    def lack_of(self, limits: Limits) -> Lack | None:
        """Return why these limits can't be had here; None: they can."""
        found = unenforceable(limits, self.offer)
        return None if found is None else found[1]

    def limit_all(self, limits: Limits) -> None:
        """Hold all jobs of the trial together to `limits`; raises JobError."""
        limit_all_jobs(self.worker.instance.tree, limits)

    @property
    def jobs_group(self) -> str | None:
        """The cgroup above the trial's jobs; None: jobs have none here."""
        tree = self.worker.instance.tree
        return None if tree.root is None else tree.jobs

    def group_of(self, job_id: str) -> str | None:
        """Return the path of a job's cgroup; None: jobs have none here."""
        jobs = self.jobs_group
        return None if jobs is None else f"{jobs}/{job_id}"


@contextlib.asynccontextmanager
async def open_trial(settings: Settings, work_parent: str) -> AsyncIterator[Trial]:
    """Give a worker as these settings make one; its jobs get their directories in `work_parent`.

    Without the operator's limits: what the host can do is tried, not what jobs are allowed. Raises
    JobError as entering a LocalWorker does.
    """
    await clear_leftovers(tempfile.gettempdir(), BY)
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(_directory(tempfile.gettempdir()))
        work = stack.enter_context(_directory(work_parent))
        site = stack.enter_context(_beside(settings.cgroup_root, instance_tag(f"{own}/state")))
        trial_settings = Settings(
            state_dir=f"{own}/state",
            runtime_dir=f"{own}/run",
            work_dir=work,
            cgroup_root=site.setting,
            # Owners get theirs from the other end: this one is hardly anybody's.
            uid_first=settings.uid_first and settings.uid_first + settings.uid_count - 1,
            uid_count=1,
            hidden=settings.hidden,
        )
        stack.enter_context(marked(own, trial_settings))
        async with _entered(trial_settings) as worker:
            try:
                yield _trial(worker, site, work)
            finally:
                await worker.stop_all(by=BY)
                await worker.retire()


@contextlib.asynccontextmanager
async def _entered(settings: Settings) -> AsyncIterator[LocalWorker]:
    """Enter a worker; where that fails, remove what it has made, and say what its spawner said."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            worker = await stack.enter_async_context(LocalWorker(settings))
        except JobError as error:
            with contextlib.suppress(JobError):
                instance = open_instance(settings)
                remove_places(instance)
                instance.close()
            remedy, words = error.remedy, _last_words(settings)
            if words:  # it is where the error says, and will be removed
                remedy = "see that this may use its cgroup and processes; a container may forbid it"
            raise JobError(error.reason, error.message + words, remedy) from error
        yield worker


def _last_words(settings: Settings) -> str:
    try:
        with open(f"{settings.state_dir}/spawner.log", encoding="utf-8", errors="replace") as log:
            lines = log.read().splitlines()
    except OSError:
        return ""
    return f" ({lines[-1]})" if lines else ""


@dataclass(frozen=True, slots=True)
class _Site:
    """The cgroup setting of the trial, and what is known of the group above."""

    setting: str
    mount: str = ""
    place: str | None = None
    failed: tuple[tuple[Controller, OSError], ...] = ()


def _trial(worker: LocalWorker, site: _Site, work: str) -> Trial:
    tree = worker.instance.tree
    lacks = dict(tree.offer.lacks)
    for controller, error in site.failed:
        lacks[controller] = why_missing(controller, site.mount, error)
    return Trial(
        worker, site.place or tree.place, replace(tree.offer, lacks=MappingProxyType(lacks)), work
    )


@contextlib.contextmanager
def _directory(parent: str) -> Iterator[str]:
    try:
        directory = tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent)
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot make a directory in {parent}: {error.strerror}",
            "run this as the server's user",
        ) from error
    with directory as path:
        yield path


@contextlib.contextmanager
def _beside(setting: str, tag: str) -> Iterator[_Site]:
    """Give the trial a group of its own where servers with this setting would share one."""
    hierarchy = cgroup.find_hierarchy()
    if setting == "none" or hierarchy is None:
        yield _Site(setting)
        return
    mount, own = hierarchy.mount, hierarchy.mount + hierarchy.own.rstrip("/")
    if setting != "auto":
        with _within(setting, mount, tag, own) as failed:
            yield _Site(f"{setting}/jobd-{tag}", mount, "configured", failed)
    elif group := delegated_group(mount, own):
        with _within(group, mount, tag, own) as failed:
            yield _Site(f"{group}/jobd-{tag}", mount, "delegated by the service manager", failed)
    elif own == mount and not cgroup.is_root(mount):
        with _restoring(mount, f"{mount}/init"):
            yield _Site(setting)
    else:
        yield _Site(setting)


@contextlib.contextmanager
def _within(
    group: str, mount: str, tag: str, own: str
) -> Iterator[tuple[tuple[Controller, OSError], ...]]:
    """Have `group` hand its controllers down; a server that works in it has done that already."""
    _check_group(group, mount)
    made = not os.path.isdir(group)
    leaf = f"{group}/doctor-{tag}"
    with _usable(group):
        cgroup.make(group)
    try:
        with _restoring(group, leaf):
            with _usable(group):
                if own == group:
                    cgroup.make(leaf)
                    cgroup.join(leaf)
                failed = enable([group])
            yield tuple(failed.items())
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(group)


@contextlib.contextmanager
def _restoring(group: str, leaf: str) -> Iterator[None]:
    """Bring the group's processes back from a leaf that is made inside, and its switches too."""
    before, was_there = handed_down(group), os.path.isdir(leaf)
    try:
        yield
    finally:
        take_back(group, handed_down(group) - before)
        if not was_there and os.path.isdir(leaf):
            # Where somebody has begun to work in the group meanwhile, it stays as it is.
            with contextlib.suppress(OSError):
                for pid in cgroup.own_pids(leaf):
                    cgroup.move(group, pid)
                os.rmdir(leaf)


@contextlib.contextmanager
def _usable(group: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot use the cgroup {group}: {error.strerror}",
            "run this as the server's user, and give jobd a cgroup that it may write",
        ) from error


def _check_group(group: str, mount: str) -> None:
    above = group
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    if not os.path.exists(f"{above}/cgroup.controllers"):
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot use the cgroup {group}: it is not below {mount}, where cgroup v2 is",
            "correct cgroup.root of the configuration, or take `auto`",
        )
