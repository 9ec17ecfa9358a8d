"""Which limits this host can enforce below one group, and why not the others."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..model.limits import IO_RATES, KINDS, UNLIMITED, Controller, Limits
from .limits import read_file

_NO_CGROUPS: Final = "jobs have no writable cgroup v2 here"
_NO_CGROUPS_REMEDY: Final = (
    "run jobd as root on a host with cgroup v2, or as a service with Delegate=yes"
)


@dataclass(frozen=True, slots=True)
class Lack:
    """Why something cannot be had, and what mends it."""

    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What the groups of jobs have."""

    files: frozenset[str] = frozenset()
    """The files of a job's group."""
    lacks: MappingProxyType[Controller, Lack] = field(
        default_factory=lambda: MappingProxyType(
            {controller: Lack(_NO_CGROUPS, _NO_CGROUPS_REMEDY) for controller in Controller}
        )
    )
    """The controllers that are missing."""

    @property
    def controllers(self) -> list[Controller]:
        """Return those that jobs can be limited with."""
        return [controller for controller in Controller if controller not in self.lacks]


def unenforceable(limits: Limits, offer: Offer) -> tuple[str, Lack] | None:
    """Return the first flag in `limits` that this host cannot enforce, and why; None: it can all.

    A limit that is only lifted asks for nothing.
    """
    asked = [
        (kind.flag, kind.controller, kind.file)
        for name, kind in KINDS.items()
        if getattr(limits, name) not in (None, UNLIMITED)
    ]
    if limits.cpuset:
        asked.append(("--cpuset", Controller.CPUSET, "cpuset.cpus"))
    asked += [
        (f"--io-{rate.replace('_', '-')}", Controller.IO, "io.max")
        for rate in IO_RATES
        if any(getattr(io, rate) not in (None, UNLIMITED) for io in limits.io)
    ]
    if limits.oom_group is not None:
        asked.append(("--oom-group", Controller.MEMORY, "memory.oom.group"))
    if limits.swap_bytes not in (None, UNLIMITED) and _has_swap():
        asked.append(("--memory (without swap)", Controller.MEMORY, "memory.swap.max"))
    for flag, controller, file in asked:
        if lack := offer.lacks.get(controller):
            return flag, lack
        if lack := _missing_file(file, offer):
            return flag, lack
    return None


def _missing_file(file: str, offer: Offer) -> Lack | None:
    if file == "io.weight":
        return None if _weighs_io(offer) else _NO_IO_WEIGHT
    if file in offer.files:
        return None
    return Lack(f"this kernel has no {file}", "use a kernel that has it (5.19 has all of them)")


_NO_IO_WEIGHT: Final = Lack(
    "no disk of this host has a scheduler that weighs I/O",
    "choose BFQ for a disk (echo bfq > /sys/block/DISK/queue/scheduler) or enable io.cost "
    "(echo 'MAJ:MIN enable=1' > /sys/fs/cgroup/io.cost.qos)",
)


def _weighs_io(offer: Offer) -> bool:
    # Both files may be there and do nothing: it is a scheduler that weighs, and each disk has one.
    if "io.bfq.weight" in offer.files and any("[bfq]" in text for text in _schedulers()):
        return True
    if "io.weight" in offer.files:
        with contextlib.suppress(OSError):
            return "enable=1" in read_file("/sys/fs/cgroup", "io.cost.qos")
    return False


def _schedulers() -> list[str]:
    found = []
    for disk in os.listdir("/sys/block") if os.path.isdir("/sys/block") else []:
        with contextlib.suppress(OSError):
            found.append(read_file(f"/sys/block/{disk}/queue", "scheduler"))
    return found


def _has_swap() -> bool:
    try:
        return len(read_file("/proc", "swaps").splitlines()) > 1
    except OSError:
        return False


def enable(groups: list[str]) -> dict[Controller, OSError]:
    """Hand all controllers down through `groups`, outermost first; return what failed, and how."""
    failed: dict[Controller, OSError] = {}
    for group in groups:
        present = read_file(group, "cgroup.controllers").split()
        enabled = read_file(group, "cgroup.subtree_control").split()
        for controller in Controller:
            if controller in present and controller not in enabled:
                try:
                    _write_subtree(group, f"+{controller}")
                except OSError as error:
                    failed.setdefault(controller, error)
    return failed


def handed_down(group: str) -> frozenset[str]:
    """Return the controllers that the group hands to its children."""
    return frozenset(read_file(group, "cgroup.subtree_control").split())


def take_back(group: str, controllers: frozenset[str]) -> None:
    """Hand these controllers down no more, but for those that a child hands on itself."""
    for controller in controllers:
        with contextlib.suppress(OSError):
            _write_subtree(group, f"-{controller}")


def _write_subtree(group: str, value: str) -> None:
    # One at a time: the kernel takes all of a write or nothing.
    fd = os.open(f"{group}/cgroup.subtree_control", os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def has_controllers(mount: str) -> bool:
    """Return whether version 2 has any controller that limits jobs on this host."""
    return bool(set(read_file(mount, "cgroup.controllers").split()) & {*Controller})


def read_offer(jobs: str, mount: str, failed: dict[Controller, OSError]) -> Offer:
    """Return what groups in `jobs` have: one is made to see, and removed."""
    probe = f"{jobs}/{uuid.uuid4()}"  # named as a job's, so that recovery removes it after a crash
    os.mkdir(probe)
    try:
        files = frozenset(os.listdir(probe))
        present = read_file(probe, "cgroup.controllers").split()
    finally:
        os.rmdir(probe)
    lacks = {
        controller: why_missing(controller, mount, failed.get(controller))
        for controller in Controller
        if controller not in present
    }
    return Offer(files, MappingProxyType(lacks))


def why_missing(controller: Controller, mount: str, error: OSError | None) -> Lack:
    """Return why jobs do not have a controller; `error` is what handing it down ran into."""
    name = f"the cgroup v2 controller '{controller}'"
    if error is not None and error.errno == errno.EBUSY:
        return Lack(
            f"{name} cannot be handed to jobs: other processes are in jobd's own cgroup",
            "start jobd as the only process of its cgroup: as a service with Delegate=yes, or as "
            "the main process of its container",
        )
    if error is not None:
        return Lack(
            f"{name} cannot be enabled for jobs: {os.strerror(error.errno or errno.EIO)}",
            "run jobd as root, or as a service with Delegate=yes",
        )
    v1 = "blkio" if controller is Controller.IO else controller.value
    if v1 in v1_controllers():
        return Lack(
            f"this host has the controller '{controller}' as cgroup version 1",
            "boot it with systemd.unified_cgroup_hierarchy=1 (kernel command line; without "
            "systemd: cgroup_no_v1=all), so that all controllers are version 2",
        )
    if controller in read_file(mount, "cgroup.controllers").split():
        return Lack(
            f"{name} is not delegated to jobd",
            "name it in the Delegate= line of its service (for user services: in "
            "user@.service.d/delegate.conf)",
        )
    return Lack(
        f"this kernel, or the container that jobd is in, does not offer {name}",
        "use a kernel that has it, or let the container have it",
    )


def v1_controllers() -> set[str]:
    """Return the controllers that this host has as cgroup version 1, by their names there."""
    found: set[str] = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").partition(" - ")[2].split(" ")
            if fields[0] == "cgroup":
                found.update(fields[-1].split(","))
    return found
