"""An instance that root has made for a server without privileges, on its way to that server.

It travels as JSON in a memfd, which the server gets at its start beside two other descriptors: the
instance's lock, and the socket to the monitor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..linux.controllers import Lack, Offer
from ..linux.files import encode_json, parse_json, read_whole, write_all
from ..linux.privileges import forbid_inspection
from ..model.errors import JobError, Reason
from ..model.limits import Controller
from .instance import Instance, join_lock, make_inner_directories
from .settings import Account
from .tree import Tree


@dataclass(frozen=True, slots=True)
class Prepared:
    """An instance that root holds for this process, and what this process must ask root for."""

    instance: Instance
    start_spawner: Callable[[], Awaitable[int]]
    """Has a spawner started and returns a pipe that tells when it serves, as `start_spawner`."""
    ask: Callable[[dict[str, object]], Awaitable[int]]
    """Has the monitor start what a request names, and returns the pipe that is its stdout."""
    disks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Those of the paths in the operator's limits, also the policy's: this process may not be able
    to see them."""
    notes: tuple[str, ...] = ()
    """What the log is to tell of this, once the server serves."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a server is given at its start."""

    instance: Instance
    monitor: socket.socket
    words: dict[str, str]
    """What the caller of the monitor tells the server: its own business."""


def hand_over(instance: Instance, monitor: socket.socket, words: dict[str, str]) -> int:
    """Return a memfd with all of it, for a process that inherits lock and socket."""
    fd = os.memfd_create("instance", os.MFD_CLOEXEC)
    places = {"instance": encode_instance(instance), "monitor": monitor.fileno(), "words": words}
    write_all(fd, encode_json(places))
    return fd


def take_over(fd: int) -> Handed:
    """Return what `hand_over` put into `fd`, with the server's part of the lock taken.

    Nobody but root looks into this process from here on. Raises JobError (INSTANCE_IN_USE,
    CONFIG_INVALID).
    """
    forbid_inspection()
    raw = parse_json(read_whole(fd))
    os.close(fd)
    instance = decode_instance(raw["instance"])
    words, channel = raw["words"], raw["monitor"]
    if not isinstance(words, dict) or not isinstance(channel, int):
        raise TypeError("not what hand_over has written")
    os.set_inheritable(instance.lock, False)
    os.set_inheritable(channel, False)
    try:
        join_lock(instance.lock)
        make_inner_directories(instance.state_dir)
    except (BlockingIOError, PermissionError) as error:
        raise JobError(
            Reason.INSTANCE_IN_USE,
            f"cannot use the state directory {instance.state_dir}: {error.strerror}",
            "see that no other server works in it, and that all in it is the server's user's",
        ) from error
    return Handed(instance, socket.socket(fileno=channel), words)


def encode_instance(instance: Instance) -> dict[str, object]:
    """Return `instance` as JSON-ready values; `decode_instance` is the inverse, but for a scope."""
    tree, server = instance.tree, instance.server
    return {
        "state_dir": instance.state_dir,
        "runtime_dir": instance.runtime_dir,
        "work_dir": instance.work_dir,
        "root": tree.root,
        "place": tree.place,
        "files": sorted(tree.offer.files),
        "lacks": {name: [lack.cause, lack.remedy] for name, lack in tree.offer.lacks.items()},
        "uids": [instance.uids.start, instance.uids.stop],
        "lock": instance.lock,
        "reserve_bytes": instance.reserve_bytes,
        "owns_runtime_dir": instance.owns_runtime_dir,
        "hidden": list(instance.hidden),
        "accounts": {name: list(pair) for name, pair in instance.accounts.items()},
        "server": None if server is None else [server.uid, server.gid],
    }


def decode_instance(raw: object) -> Instance:
    """Return the instance that root has described."""
    if not isinstance(raw, dict):
        raise TypeError("not an instance")
    lacks = {Controller(name): Lack(*words) for name, words in raw["lacks"].items()}
    offer = Offer(frozenset(raw["files"]), MappingProxyType(lacks))
    return Instance(
        state_dir=raw["state_dir"],
        runtime_dir=raw["runtime_dir"],
        work_dir=raw["work_dir"],
        tree=Tree(raw["root"], raw["place"], offer),
        uids=range(*raw["uids"]),
        lock=raw["lock"],
        reserve_bytes=raw["reserve_bytes"],
        owns_runtime_dir=raw["owns_runtime_dir"],
        hidden=tuple(raw["hidden"]),
        accounts={name: (uid, gid) for name, (uid, gid) in raw["accounts"].items()},
        server=None if raw["server"] is None else Account(*raw["server"]),
    )
