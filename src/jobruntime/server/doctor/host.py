"""Checks of the host: its kernel, its clock, its cgroups and what they can do."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from jobruntime.model.limits import Controller, Limits
from jobruntime.worker.host import (
    free_swap_bytes,
    is_clock_synchronized,
    is_hybrid,
    missing_isolation,
    missing_pidfds,
)
from jobruntime.worker.trial import Trial

from .report import Check, failed, good, lacking

_NO_VERSION_1: Final = (
    "run: sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' "
    "/etc/default/grub && update-grub; then reboot (without GRUB or systemd: boot the kernel with "
    "cgroup_no_v1=all)"
)
_FEW_FILES: Final = 4096
_EARLIEST_S: Final = 1_767_225_600
"""The start of 2026: this program is younger."""
_LATEST_S: Final = 4_102_444_800
"""The start of 2100."""


@dataclass(frozen=True, slots=True)
class _Feature:
    """A file of a job's group: what it is for, what happens without it, and since when it is."""

    file: str
    controller: Controller | None
    gives: str
    without: str
    since: str


_FEATURES: Final = (
    _Feature(
        "cgroup.kill",
        None,
        "a job is killed in one step",
        "a job's processes are killed one after the other",
        "5.14",
    ),
    _Feature(
        "cgroup.freeze",
        None,
        "jobs can be paused, and a stop signal misses none of their processes",
        "jobs cannot be paused",
        "5.2",
    ),
    _Feature(
        "memory.peak",
        Controller.MEMORY,
        "receipts tell the most memory that a job had",
        "receipts do not tell the most memory that a job had",
        "5.19",
    ),
    _Feature(
        "memory.oom.group",
        Controller.MEMORY,
        "running out of memory can end the whole job",
        "running out of memory ends one process of a job",
        "4.19",
    ),
    _Feature(
        "pids.peak",
        Controller.PIDS,
        "receipts tell the most processes that a job had",
        "receipts do not tell the most processes that a job had",
        "6.1",
    ),
)


def check_system() -> Iterator[Check]:
    """Check what needs no cgroup."""
    about = os.uname()
    python = platform.python_version()
    yield good("system", f"Linux {about.release} on {about.machine}, Python {python}")
    yield _check_user()
    yield _check_pidfds()
    yield _check_clock()
    yield _check_open_files()
    yield _check_isolation()


def check_cgroups(trial: Trial) -> Iterator[Check]:
    """Check where the groups are, and what can be limited in them."""
    yield _check_place(trial)
    for controller in Controller:
        name = f"controller {controller}"
        lack = trial.offer.lacks.get(controller)
        if lack is None:
            yield good(name, "jobs have it")
        else:
            yield lacking(name, lack.cause, lack.remedy)
    if trial.worker.instance.cgroup_root is not None:
        for feature in _FEATURES:
            if feature.controller not in trial.offer.lacks:
                yield _check_feature(trial, feature)
    yield from _check_io_weight(trial)
    yield _check_swap(trial)


def _check_user() -> Check:
    if os.geteuid() == 0:
        return good("user", "root: the jobs of each owner run under a uid of their own")
    return lacking(
        "user",
        f"uid {os.geteuid()}: every job runs as this user, and can read what jobd can",
        "run jobd as root, or serve only users who trust each other",
    )


def _check_pidfds() -> Check:
    cause = missing_pidfds()
    if cause is None:
        return good("pidfds", "no signal of jobd's can reach a wrong process")
    return failed("pidfds", cause, "use Linux 5.3 or newer, and let a container have pidfd_open")


def _check_clock() -> Check:
    now_s = time.time()
    mend = "run: timedatectl set-ntp true (without systemd: start chronyd)"
    if not _EARLIEST_S < now_s < _LATEST_S:
        date = time.strftime("%Y-%m-%d", time.gmtime(now_s))
        return failed("clock", f"it is wrong: it says {date}; certificates depend on it", mend)
    match is_clock_synchronized():
        case True:
            return good("clock", "synchronized")
        case False:
            return lacking("clock", "nothing keeps it right (adjtimex: not synchronized)", mend)
        case None:
            return lacking("clock", "whether it is synchronized cannot be told here", mend)


def _check_open_files() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return good("open files", "no limit")
    text = f"at most {hard}: each connection, followed log and running job takes one"
    if hard >= _FEW_FILES:
        return good("open files", text, limit=hard)
    remedy = "raise it: LimitNOFILE=65536 in jobd's unit, or ulimit -n 65536 as root before it"
    return lacking("open files", text, remedy, limit=hard)


def _check_isolation() -> Check:
    cause = missing_isolation()
    if cause is None:
        return good("isolation", "jobs can be isolated (jobc start --isolate)")
    remedy = "apt-get install bubblewrap"
    if "not installed" not in cause:
        remedy = (
            "run jobd as root, or allow user namespaces: sysctl -w user.max_user_namespaces=10000 "
            "kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0 "
            "(those that there are); a container needs the right to mount"
        )
    return lacking("isolation", f"jobs cannot be isolated: {cause}", remedy)


def _check_place(trial: Trial) -> Check:
    root = trial.worker.instance.cgroup_root
    if root is None:
        return lacking(
            "cgroup",
            trial.place,
            "run jobd as root on a host with cgroup v2, or with a group of its own: "
            "systemd-run --user --pty -p Delegate=yes jobd doctor",
        )
    text = f"v2, {trial.place} ({os.path.dirname(root)})"
    if is_hybrid() and not trial.offer.controllers:
        text += ", but the controllers are version 1: jobs can have no limits"
        return lacking("cgroup", text, _NO_VERSION_1, root=root)
    if "not delegated" in trial.place:
        remedy = "run it as: systemd-run --user --pty -p Delegate=yes jobd doctor"
        return lacking("cgroup", text, remedy, root=root)
    return good("cgroup", text, root=root)


def _check_feature(trial: Trial, feature: _Feature) -> Check:
    if feature.file in trial.offer.files:
        return good(feature.file, feature.gives)
    return lacking(
        feature.file,
        f"not in this kernel: {feature.without}",
        f"use Linux {feature.since} or newer",
    )


def _check_io_weight(trial: Trial) -> Iterator[Check]:
    if Controller.IO in trial.offer.lacks:
        return
    lack = trial.lack_of(Limits(io_weight=100))
    if lack is None:
        yield good("io.weight", "a disk's scheduler weighs I/O")
    else:
        yield lacking("io.weight", lack.cause, lack.remedy)


def _check_swap(trial: Trial) -> Check:
    free = free_swap_bytes()
    if free is None:
        return good("swap", "this host has none")
    if "memory.swap.max" in trial.offer.files:
        return good("swap", "jobs can be kept from it", free_bytes=free)
    return lacking(
        "swap",
        "this host has swap, and jobs cannot be kept from it (no memory.swap.max)",
        "run: swapoff -a; or let the kernel account for it (swapaccount=1 on its command line)",
        free_bytes=free,
    )
