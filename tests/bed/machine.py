"""A guest as its host sees it: the kernel's process, its disks and consoles, and the end of them.

Debian's user-mode-linux is a kernel that runs as an ordinary process, on this host's own files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.bed import init

KERNEL: Final = Path("/usr/bin/linux.uml")
MODULES: Final = Path("/usr/lib/uml/modules")
TIMED_OUT: Final = 124
FAILED: Final = 125

_HOST: Final = Path("/")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LOG_TAIL: Final = 3000
_DRAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Guest:
    """What to boot and what to run in it; absolute paths, and 0 bytes for no disk."""

    command: list[str]
    chdir: Path
    venv: Path | None
    env: dict[str, str]
    ro: list[Path]
    rw: list[Path]
    mem_bytes: int
    disk_bytes: int
    swap_bytes: int
    user: str
    cgroup: str
    root: Path
    systemd: bool
    cpu: int
    timeout_s: float
    log: Path | None


class BedError(Exception):
    """The guest cannot be booted, or has died."""


def parse_size(text: str) -> int:
    """Return how many bytes a size such as 256M is."""
    return int(text[:-1]) * _UNITS[text[-1:].upper()]


def boot(guest: Guest) -> int:
    """Boot the guest, run its command and return its exit code, or TIMED_OUT."""
    if not (os.access(KERNEL, os.X_OK) and MODULES.is_dir()):
        raise BedError(f"there is no {KERNEL}; apt-get install user-mode-linux")
    run = Path(tempfile.mkdtemp(prefix="bed."))
    _guard(run)
    try:
        _write_plan(guest, run)
        return _run_kernel(guest, run, _make_disks(guest, run))
    finally:
        if guest.log is not None:
            with suppress(FileNotFoundError):
                shutil.copyfile(run / "log", guest.log)
        shutil.rmtree(run, ignore_errors=True)


# ---------------------------------------------------------------- before the boot


def _write_plan(guest: Guest, run: Path) -> None:
    modules = max(MODULES.iterdir())
    python = os.path.realpath(sys.executable)
    plan = init.Plan(
        root=str(guest.root),
        run=str(run),
        modules=str(modules),
        python=python if guest.root == _HOST else "/usr/bin/python3",
        shown=[str(path) for path in _hidden(guest, modules)],
        writable=[str(path) for path in guest.rw],
        has_disk=guest.disk_bytes > 0,
        has_swap=guest.swap_bytes > 0,
        is_systemd=guest.systemd,
        user=guest.user,
        cgroup=guest.cgroup,
        env=_environment(guest),
        chdir=str(guest.chdir),
        command=guest.command,
    )
    (run / init.PLAN).write_text(json.dumps(asdict(plan)))
    # A script, because the kernel's own unknown parameters come first among init's arguments.
    script = run / "init"
    script.write_text(f"#!{python} -IS\n{Path(init.__file__).read_text()}")
    script.chmod(0o700)


def _hidden(guest: Guest, modules: Path) -> list[Path]:
    """Return the host's directories that the guest needs and would not see by itself."""
    if guest.root != _HOST:
        return [*guest.ro, modules]
    found = list(guest.ro)
    needed = (guest.chdir, guest.venv or guest.chdir, Path(sys.base_prefix))
    for path in needed:
        is_seen = any(path.is_relative_to(other) for other in (*found, *guest.rw))
        if not is_seen and any(path.is_relative_to(place) for place in init.HIDDEN):
            found.append(path)
    return found


def _environment(guest: Guest) -> dict[str, str]:
    env = {"HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", "PATH": _PATH}
    if guest.venv is not None:
        env |= {"VIRTUAL_ENV": str(guest.venv), "PATH": f"{guest.venv}/bin:{_PATH}"}
    if guest.disk_bytes > 0:
        env["BED_DISK"] = init.DISK
    return env | guest.env


def _make_disks(guest: Guest, run: Path) -> list[str]:
    """Make the disks' files, which take room as they are written; return the kernel's arguments."""
    arguments = []
    for number, size, words in (
        (1, guest.disk_bytes, ["mkfs.ext4", "-q", "-F"]),
        (2, guest.swap_bytes, ["mkswap", "-q"]),
    ):
        if size > 0:
            path = run / f"disk{number}"
            path.touch(mode=0o600)
            os.truncate(path, size)
            _run_tool(*words, str(path))
            arguments.append(f"ubd{number}={path}")
    return arguments


def _run_tool(*words: str) -> None:
    try:
        subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, env={"PATH": _PATH}, check=True
        )
    except FileNotFoundError as error:
        raise BedError(f"there is no {words[0]}; apt-get install e2fsprogs util-linux") from error
    except subprocess.CalledProcessError as error:
        raise BedError(f"cannot run {words}: {error.stderr.decode()}") from error


# ---------------------------------------------------------------- the kernel


def _run_kernel(guest: Guest, run: Path, disks: list[str]) -> int:
    os.sched_setaffinity(0, {guest.cpu})  # see uml.py
    walls = _walls()
    with (run / "log").open("ab") as log, _consoles() as (out, err):
        process = subprocess.Popen(
            [*walls, KERNEL, *_kernel_arguments(guest, run, log.fileno(), out, err), *disks],
            env={"PATH": _PATH, "HOME": str(run), "TMPDIR": _memory_place(guest, run)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(log.fileno(), out, err),
            start_new_session=True,
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(guest.timeout_s)
            is_late = process.poll() is None
        finally:
            process.kill()
            process.wait()
            if "unshare" not in walls:
                _sweep(run)
    return _read_status(guest, run, is_late=is_late)


def _kernel_arguments(guest: Guest, run: Path, log: int, out: int, err: int) -> list[str]:
    return [
        f"mem={guest.mem_bytes}",
        *("rootfstype=hostfs", "rootflags=/", "ro", f"init={run}/init"),
        *(f"uml_dir={run}/", "umid=u"),
        *("noreboot", "panic=1"),
        *("con=null", f"con0=null,fd:{log}", f"con1=null,fd:{out}", f"con2=null,fd:{err}"),
    ]


def _walls() -> list[str]:
    """Return the words before the kernel's command that have it end with this process.

    As root a pid namespace takes the kernel's helpers with it. The kernel is not its first process,
    as which it would spin in abort(). In a user namespace the files would have other owners.
    """
    end = ["setpriv", "--pdeathsig", "KILL"]
    namespace = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL"]
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    tried = subprocess.run(
        [*namespace, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return [*end, *namespace, *shell] if tried.returncode == 0 else end


def _memory_place(guest: Guest, run: Path) -> str:
    """Return where the kernel keeps the guest's memory, as an unlinked file that it maps."""
    with suppress(OSError):
        found = os.statvfs("/dev/shm")
        room = found.f_bavail * found.f_frsize
        if room > guest.mem_bytes and not found.f_flag & os.ST_NOEXEC:
            return "/dev/shm"
    return str(run)


@contextmanager
def _consoles() -> Iterator[tuple[int, int]]:
    """Give two pipes that lead to stdout and stderr; the kernel would make these non-blocking."""
    pipes = [os.pipe(), os.pipe()]
    pumps = [
        threading.Thread(target=_pump, args=(source, target), daemon=True)
        for (source, _), target in zip(pipes, (1, 2), strict=True)
    ]
    for pump in pumps:
        pump.start()
    try:
        yield pipes[0][1], pipes[1][1]
    finally:
        for _, end in pipes:
            os.close(end)
        for pump in pumps:
            pump.join(_DRAIN_S)


def _pump(source: int, target: int) -> None:
    is_read = True
    while data := os.read(source, 65536):
        try:
            while is_read and data:
                data = data[os.write(target, data) :]
        except OSError:  # nobody reads any more: the guest goes on all the same
            is_read = False


def _read_status(guest: Guest, run: Path, *, is_late: bool) -> int:
    with suppress(FileNotFoundError):
        return int((run / init.STATUS).read_text())
    if is_late:
        print(f"bed: not done within {guest.timeout_s:g} s", file=sys.stderr)
        return TIMED_OUT
    log = (run / "log").read_text(errors="replace")
    raise BedError(f"the guest has died; its kernel's last words:\n{log[-_LOG_TAIL:]}")


# ---------------------------------------------------------------- the end


def _guard(run: Path) -> None:
    """Leave a process behind that cleans up when this one is gone, however it ended."""
    gone, held = os.pipe()
    if os.fork() != 0:
        os.close(gone)
        return  # `held` is open as long as this process lives
    try:
        os.setsid()
        os.close(held)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.read(gone, 1)
        if run.exists():
            _sweep(run)
            shutil.rmtree(run, ignore_errors=True)
    finally:
        os._exit(0)


def _sweep(run: Path) -> None:
    """Kill the guest's kernel and its helpers, which have sessions of their own."""
    mark = f"init={run}/init".encode()
    for _ in range(5):  # one that is being forked meanwhile is found by the next round
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (directory / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(directory.name), signal.SIGKILL)
        time.sleep(0.02)
