"""A systemd scope for an instance's jobs: a group that systemd gives away and leaves alone.

Jobs must not live in the unit of jobd itself: systemd would end them with it, and refuses to start
a delegated unit anew while its group has others below (systemd issue 24064). And beside systemd
nobody may make groups of his own at the top (systemd's CGROUP_DELEGATION.md). So jobd asks for a
scope, as podman does for its containers; it lasts as long as a process lives in it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
from typing import IO, Final

_READY_S: Final = 15.0
_RUN: Final = ("systemd-run", "--scope", "--quiet", "--collect")
_HOLD: Final = """
scope=$1$(sed -n 's/^0:://p' /proc/self/cgroup)
scope=${scope%/supervisor}
mkdir -p "$scope/supervisor" "$scope/jobs" && echo 0 >"$scope/supervisor/cgroup.procs" || exit 1
echo "$scope"
read -r _
"""
_JOIN: Final = 'echo 0 >"$1/supervisor/cgroup.procs" && echo "$1" && read -r _'


class ScopeError(Exception):
    """systemd did not give a scope; the text says why."""


class Scope:
    """An instance's scope, with a process in it that keeps it while this object is open."""

    def __init__(self, root: str, holder: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._holder = holder

    def close(self) -> None:
        """Let go: the scope ends with the last of its processes."""
        with contextlib.suppress(OSError):
            if self._holder.stdin is not None:
                self._holder.stdin.close()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        self._holder.wait()


def has_systemd() -> bool:
    """Return whether a systemd runs here that can be asked for a scope by this user."""
    if not os.path.isdir("/run/systemd/system") or shutil.which("systemd-run") is None:
        return False
    if os.geteuid() == 0:
        return True
    return os.path.exists(f"{os.environ.get('XDG_RUNTIME_DIR', '')}/systemd/private")


def open_scope(tag: str, mount: str) -> Scope:
    """Return the scope of the instance named `tag`: the one that its jobs are in, or a new one.

    Raises ScopeError.
    """
    unit = f"jobd-{tag}.scope"
    root = _find(unit, mount)
    if root is not None:
        return _hold([*launcher(), "sh", "-c", _JOIN, "sh", root])
    options = [f"--unit={unit}", "--property=Delegate=yes", f"--description=Jobs of jobd {tag}"]
    return _hold([*_RUN, *_whose(), *options, "sh", "-c", _HOLD, "sh", mount])


def launcher() -> list[str]:
    """Return the words before a command that shall be able to join a scope.

    Root may move any process. A user may only where all of the way between the two groups is his:
    not from his login's group, but from a scope of his own systemd.
    """
    return [] if os.geteuid() == 0 else [*_RUN, *_whose()]


def _whose() -> list[str]:
    return [] if os.geteuid() == 0 else ["--user"]


def _find(unit: str, mount: str) -> str | None:
    command = ["systemctl", *_whose(), "show", "--property=ControlGroup", "--value", unit]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_READY_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ScopeError(f"systemctl: {error}") from error
    group = os.fsdecode(done.stdout).strip()
    path = mount + group
    return path if group and os.path.isdir(f"{path}/supervisor") else None


def _hold(command: list[str]) -> Scope:
    holder = subprocess.Popen(  # without preexec_fn no Python runs in the child, so it may
        command,  # be started beside gRPC's threads (grpc issue 22624)
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        root = _read_line(holder.stdout)
        # Not by the mark of delegation: a user's systemd sets none (seen with 252).
        if root and os.access(f"{root}/cgroup.subtree_control", os.W_OK):
            return Scope(root, holder)
    except OSError as error:
        holder.kill()
        raise ScopeError(str(error)) from error
    holder.kill()
    _, complaint = holder.communicate()
    raise ScopeError(os.fsdecode(complaint).strip() or f"{command[0]} gives no delegated scope")


def _read_line(pipe: IO[bytes] | None) -> str:
    if pipe is None or not select.select([pipe], [], [], _READY_S)[0]:
        return ""
    return os.fsdecode(os.read(pipe.fileno(), 4096)).strip()
