"""What the tests of limits need where they run: root, cgroup v2's controllers and a disk."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobruntime.linux import cgroup

CONTROLLERS: Final = ("cpu", "io", "memory", "pids")
DISK_BYTES: Final = 256 << 20

_FILES: Final = ("cpu.max", "io.max", "memory.max", "pids.max")
_SYS_FINIT_MODULE: Final = 313  # x86-64
_libc: Final = ctypes.CDLL(None, use_errno=True)
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing() -> str | None:
    """Return what the tests of limits lack here; None where they can run."""
    if os.geteuid() != 0:
        return "they need root"
    hierarchy = cgroup.find_hierarchy()
    if hierarchy is None:
        return "no cgroup v2 is mounted here"
    top = Path(hierarchy.mount)
    lacking = [name for name in CONTROLLERS if name not in _words(top / "cgroup.controllers")]
    if lacking:
        return f"the cgroup v2 in {top} lacks {', '.join(lacking)}"
    try:
        _try_controllers(top)
        with tempfile.TemporaryDirectory() as scratch, disk(Path(scratch)):
            return None
    except OSError as error:
        return f"the controllers in {top} cannot be used: {error.strerror}"
    except subprocess.CalledProcessError as error:
        return f"a disk cannot be made: {error.stderr.decode().strip()}"


@contextmanager
def disk(scratch: Path) -> Iterator[Path]:
    """Give a directory on a block device of its own, writable for everybody."""
    if "BED_DISK" in os.environ:
        yield Path(os.environ["BED_DISK"])
        return
    image, place = scratch / "disk.img", scratch / "disk"
    place.mkdir()
    image.touch()
    os.truncate(image, DISK_BYTES)
    _run("mkfs.ext4", "-q", "-F", str(image))
    _run("mount", "-o", "loop", str(image), str(place))
    try:
        place.chmod(0o1777)
        yield place
    finally:
        _run("umount", str(place))


def load_modules(*names: str) -> None:
    """Load modules of a guest's kernel; those that are there are no error."""
    for name in names:
        if Path("/sys/module", name.replace("-", "_")).exists():
            continue
        # Its root is the host's, so no modprobe knows of them.
        [path] = Path("/usr/lib/uml/modules", os.uname().release).rglob(f"{name}.ko")
        with path.open("rb") as file:
            if _libc.syscall(_SYS_FINIT_MODULE, file.fileno(), b"", 0) != 0:
                raise OSError(ctypes.get_errno(), f"cannot load {path}")


def _try_controllers(top: Path) -> None:
    """Give a new group the controllers, and take away again what was not there before."""
    switches = top / "cgroup.subtree_control"
    before = _words(switches)
    added = [name for name in CONTROLLERS if name not in before]
    group = top / f"bed-{os.getpid()}"
    group.mkdir()
    try:
        switches.write_text(" ".join(f"+{name}" for name in added))
        for name in _FILES:
            (group / name).read_text()
        switches.write_text(" ".join(f"-{name}" for name in added))
    finally:
        group.rmdir()


def _words(path: Path) -> list[str]:
    return path.read_text().split()


def _run(*words: str) -> None:
    env = {"PATH": _PATH}
    subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=True)
