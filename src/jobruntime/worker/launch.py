"""How a spawner is started: with arguments that the configuration alone decides."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from ..linux.files import open_as
from ..linux.limits import DECIDING_FILES
from .instance import Instance
from .scope import launcher

_ENTRY: Final = str(Path(__file__).parent.parent / "keeper" / "__main__.py")


def spawner_arguments(instance: Instance) -> list[str]:
    """Return the words that make a spawner this instance's."""
    peer_uid = os.geteuid() if instance.server is None else instance.server.uid
    arguments = ["--runtime-dir", instance.runtime_dir, "--work-dir", instance.work_dir]
    arguments += ["--peer-uid", str(peer_uid)]
    arguments += ["--log-reserve-bytes", str(instance.reserve_bytes // 2)]
    if instance.cgroup_root is not None:
        arguments += ["--cgroup-root", instance.cgroup_root]
        files = sorted(instance.tree.offer.files & DECIDING_FILES)
        arguments += ["--cgroup-files", ",".join(files)]
    if instance.uids:
        arguments += ["--uid-first", str(instance.uids.start)]
        arguments += ["--uid-count", str(len(instance.uids))]
    if instance.accounts:
        pairs = sorted(f"{uid}:{gid}" for uid, gid in instance.accounts.values())
        arguments += ["--accounts", ",".join(pairs)]
    for path in instance.hidden:
        arguments += ["--hide", path]
    return arguments


def start_spawner(instance: Instance) -> tuple[int, int]:
    """Start a spawner; return its pid and a pipe that says `ready` once it serves, or just ends.

    Raises OSError.
    """
    # posix_spawn and not fork: this process may have gRPC's threads (grpc issue 22624).
    log = _open_log(instance)
    ready, ready_end = os.pipe2(os.O_CLOEXEC)
    try:
        # By path and isolated: neither site-packages nor the environment can change it.
        command = [sys.executable, "-I", "-S", _ENTRY, *spawner_arguments(instance)]
        if instance.tree.scope is not None:
            command = [*launcher(), *command]
        pid = os.posix_spawnp(
            command[0],
            command,
            {"PATH": os.defpath, "LANG": "C.UTF-8"} | _session(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, ready_end, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(ready_end)
        os.close(log)
    return pid, ready


def _open_log(instance: Instance) -> int:
    # As the one whose directory it is: a link in its place leads nowhere that he could not write.
    uid = None if instance.server is None else instance.server.uid
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
    return open_as(uid, instance.state_dir, "spawner.log", flags)


def _session() -> dict[str, str]:
    # How systemd-run finds the user's systemd; jobs get an environment of their own.
    names = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    return {name: os.environ[name] for name in names if name in os.environ}
