"""The first process of a guest: mounts, runs one command, tells how it ended, powers off.

The launcher puts it beside its plan in the guest's run directory. Standard library only, because
nothing else is there when it starts, and in another root not even the host's Python.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import json
import os
import pwd
import select
import signal
import socket
import struct
import sys
import termios
import threading
import traceback
from dataclasses import dataclass
from typing import Final

RUN: Final = "/run/bed"  # the run directory, as the guest sees it; the host writes and reads it too
PLAN: Final = "plan.json"
STATUS: Final = "status"
DISK: Final = "/disk"
HIDDEN: Final = ("/tmp", "/run", "/dev/shm")  # where a guest has file systems of its own

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_MOVE = 1, 2, 4, 8, 8192
_MNT_DETACH: Final = 2
_POWER_OFF: Final = 0x4321FEDC  # reboot(2)
_SYS_PIVOT_ROOT, _SYS_FINIT_MODULE = 155, 313  # x86-64
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_CGROUPS: Final = "/sys/fs/cgroup"
_SCRATCH: Final = "/tmp"  # before the new root is in place: a tmpfs for what is written
_NEW: Final = f"{_SCRATCH}/root"
_DEVICES: Final = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
}

_libc: Final = ctypes.CDLL(None, use_errno=True)
_overlays: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Plan:
    """What the launcher asks for; `root`, `run`, `modules`, `shown`, `writable` are the host's."""

    root: str
    run: str
    modules: str
    python: str
    shown: list[str]
    writable: list[str]
    has_disk: bool
    has_swap: bool
    is_systemd: bool
    user: str
    cgroup: str
    env: dict[str, str]
    chdir: str
    command: list[str]


def main() -> None:
    """Set the guest up and run the command; as a service of the guest's systemd only the latter."""
    directory = os.path.dirname(os.path.abspath(__file__))
    with open(f"{directory}/{PLAN}") as file:
        plan = Plan(**json.load(file))
    if directory != RUN:
        _assemble(plan)
        _enter()
        _configure(plan)
        if plan.is_systemd:
            _become_systemd(plan)
        _distribute(plan.cgroup)
    _tell(_run(plan))


# ---------------------------------------------------------------- the root


def _assemble(plan: Plan) -> None:
    """Mount at _NEW what will be the guest's root."""
    _load_overlay(plan.modules)
    _mount("tmpfs", _SCRATCH, "tmpfs", "mode=755,size=80%")
    _mount("hostfs", f"{_SCRATCH}/run", "hostfs", plan.run)
    _overlay(plan.root, _NEW)
    _mount("/dev", f"{_NEW}/dev", flags=_MS_MOVE)  # the kernel has mounted its devtmpfs there
    _mount("proc", f"{_NEW}/proc", "proc", flags=_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount("sys", f"{_NEW}/sys", "sysfs", flags=_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount("devpts", f"{_NEW}/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666")
    for directory in HIDDEN:
        mode = "755" if directory == "/run" else "1777"
        _mount("tmpfs", _NEW + directory, "tmpfs", f"mode={mode}", _MS_NOSUID | _MS_NODEV)
    cgroups = f"{_NEW}{_CGROUPS}"
    _mount("cgroup2", cgroups, "cgroup2", "nsdelegate", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount(f"{_SCRATCH}/run", f"{_NEW}{RUN}", flags=_MS_MOVE)
    for path in sorted({*plan.shown, *plan.writable}):  # what is inside another comes after it
        if path in plan.writable:
            _mount("hostfs", _NEW + path, "hostfs", path)
        else:
            _overlay(path, _NEW + path)


def _enter() -> None:
    """Make _NEW the root and leave the old one behind."""
    os.chdir(_NEW)
    _check(_libc.syscall(_SYS_PIVOT_ROOT, b".", b"."), "pivot_root")  # "." twice: pivot_root(2)
    _check(_libc.umount2(b".", _MNT_DETACH), "umount of the old root")
    os.chdir("/")


def _load_overlay(modules: str) -> None:
    fd = os.open(f"{modules}/kernel/fs/overlayfs/overlay.ko", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syscall(_SYS_FINIT_MODULE, fd, b"", 0), "insmod overlay")
    finally:
        os.close(fd)


def _overlay(host_path: str, target: str) -> None:
    """Mount a directory of the host's, read-only below a layer that takes what is written."""
    number = next(_overlays)
    lower, upper, work = (f"{_SCRATCH}/{name}/{number}" for name in ("lower", "upper", "work"))
    _mount("hostfs", lower, "hostfs", host_path, _MS_RDONLY)
    for directory in (upper, work):
        os.makedirs(directory)
    _mount("overlay", target, "overlay", f"lowerdir={lower},upperdir={upper},workdir={work}")


def _mount(source: str, target: str, kind: str = "none", options: str = "", flags: int = 0) -> None:
    os.makedirs(target, exist_ok=True)
    done = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(done, f"mount {kind} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# ---------------------------------------------------------------- the system


def _configure(plan: Plan) -> None:
    """Bring up what a booted system has: device names, loopback, modprobe, disks."""
    for name, target in _DEVICES.items():
        if os.path.lexists(f"/dev/{name}"):
            os.unlink(f"/dev/{name}")
        os.symlink(target, f"/dev/{name}")
    os.makedirs("/lib/modules", exist_ok=True)
    modules = f"/lib/modules/{os.uname().release}"
    if not os.path.lexists(modules):
        os.symlink(plan.modules, modules)
    socket.sethostname("guest")
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    if plan.has_disk:
        _mount("/dev/ubdb", DISK, "ext4")
        os.chmod(DISK, 0o1777)  # noqa: S103 - for jobs of any user, like /tmp
    if plan.has_swap:
        _check(_libc.swapon(b"/dev/ubdc", 0), "swapon")


def _distribute(group: str) -> None:
    """Give the groups below the top, and those on the way to `cgroup`, every controller."""
    with open(f"{_CGROUPS}/cgroup.controllers") as file:
        everything = " ".join(f"+{name}" for name in file.read().split())
    path = _CGROUPS
    for part in group.split("/") if group else []:
        _write(f"{path}/cgroup.subtree_control", everything)
        path = f"{path}/{part}"
        os.mkdir(path)
    if not group:
        _write(f"{path}/cgroup.subtree_control", everything)


def _become_systemd(plan: Plan) -> None:
    units = "/run/systemd/system"
    os.makedirs(units)
    _write(
        f"{units}/bed.service",
        "[Unit]\nAfter=multi-user.target\n"
        "[Service]\nDelegate=yes\nOOMPolicy=continue\n"
        f"ExecStart={plan.python} -I -S {RUN}/init\n",
    )
    wants = "Requires=multi-user.target\nAfter=multi-user.target\nWants=bed.service\n"
    _write(f"{units}/bed.target", f"[Unit]\n{wants}")
    for name in (
        "getty.target",
        "modprobe@.service",
        "e2scrub_reap.service",
        "systemd-binfmt.service",
    ):
        os.symlink("/dev/null", f"{units}/{name}")  # not wanted, or slow here
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb"}
    os.execve("/lib/systemd/systemd", ["systemd", "--unit=bed.target"], environment)


# ---------------------------------------------------------------- the command


def _run(plan: Plan) -> int:
    """Run the command and return its exit code, 128 and the signal where one has killed it."""
    outputs = [_open_console(1), _open_console(2)]
    pipes = [os.pipe(), os.pipe()]  # the command's output is no terminal
    pid = os.fork()
    if pid == 0:
        _become_command(plan, [os.open("/dev/null", os.O_RDWR), *(end for _, end in pipes)])
    ended = threading.Event()
    relays = []
    for (source, end), console in zip(pipes, outputs, strict=True):
        os.close(end)
        relays.append(threading.Thread(target=_relay, args=(source, console, ended)))
        relays[-1].start()
    code = os.waitstatus_to_exitcode(_reap(pid))
    ended.set()
    for relay in relays:
        relay.join()
    for console in outputs:
        termios.tcdrain(console)  # until the host has every byte
    return code if code >= 0 else 128 - code


def _open_console(number: int) -> int:
    """Open one of the kernel's consoles so that bytes go through it as they are."""
    fd = os.open(f"/dev/tty{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    modes = termios.tcgetattr(fd)
    modes[0] = modes[1] = modes[3] = 0  # iflag, oflag, lflag
    termios.tcsetattr(fd, termios.TCSANOW, modes)
    return fd


def _reap(pid: int) -> int:
    """Wait for the command, and as the first process also for what others leave behind."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return status


def _relay(source: int, console: int, ended: threading.Event) -> None:
    poll = select.poll()
    poll.register(source, select.POLLIN)
    while True:
        if not poll.poll(500):
            if ended.is_set():
                return  # a daemon that the command has left holds the pipe, and is silent
            continue
        data = os.read(source, 65536)
        if not data:
            return
        while data:
            data = data[os.write(console, data) :]


def _become_command(plan: Plan, fds: list[int]) -> None:
    name = plan.command[0]
    try:
        os.setsid()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        env = dict(plan.env)
        if plan.cgroup:
            _join(f"{_CGROUPS}/{plan.cgroup}", plan.user)
        if plan.user:
            env |= _drop(plan.user)
        os.chdir(plan.chdir)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(name, plan.command, env)
    except OSError as error:
        print(f"cannot run {name}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(126 if error.errno == errno.EACCES else 127)  # as a shell has it
    finally:
        os._exit(125)


def _join(group: str, user: str) -> None:
    """Join the group, which becomes the user's as a service manager delegates it."""
    if user:
        entry = pwd.getpwnam(user)
        for name in (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
            os.chown(f"{group}/{name}", entry.pw_uid, entry.pw_gid)
    for name in ("trusted.delegate", "user.delegate"):  # systemd's CGROUP_DELEGATION.md
        os.setxattr(group, name, b"1")
    _write(f"{group}/cgroup.procs", "0")


def _drop(user: str) -> dict[str, str]:
    """Become the user; return what changes in the environment."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    return {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user}


def _tell(code: int) -> None:
    _write(f"{RUN}/{STATUS}.tmp", str(code))
    os.rename(f"{RUN}/{STATUS}.tmp", f"{RUN}/{STATUS}")


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - the kernel would panic; its log gets the reason
        traceback.print_exc()
    finally:
        _libc.umount2(DISK.encode(), _MNT_DETACH)  # no disk: no matter
        os.sync()
        _libc.reboot(_POWER_OFF)
