"""The same output through podman and conmon, side by side, where podman can run here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .figure import Figure, median
from .instance import Instance
from .options import Options
from .output import run_cat, write_data

_MB = 1_000_000
_MOST_BYTES = 128 * _MB
"""More takes podman minutes."""


def bench_podman(instance: Instance, options: Options) -> list[Figure]:
    """Measure capture and replay of one file by a job and by a container with k8s-file logs."""
    if not (shutil.which("podman") and shutil.which("runc")):
        print(" there is no podman with runc here", end="", file=sys.stderr)
        return []
    root = instance.directory / "podman"
    data = _make_root(root / "rootfs", min(options.size_bytes, _MOST_BYTES))
    size_mb = data.stat().st_size / _MB
    store = ["podman", "--root", str(root / "store"), "--runroot", str(root / "run")]
    podman = [*store, "--cgroup-manager", "cgroupfs", "--runtime", "runc"]
    rates: dict[str, list[float]] = {name: [] for name in ("run", "logs", "our run", "our logs")}
    try:
        for turn in range(min(options.rounds, 3)):
            name = f"bench{turn}"
            rates["run"].append(size_mb / _run_container(podman, name, root / "rootfs"))
            rates["logs"].append(size_mb / _time([*podman, "logs", name]))
            seconds, job_id = run_cat(instance, data)
            rates["our run"].append(size_mb / seconds)
            rates["our logs"].append(size_mb / _time(instance.jobc("logs", "-o", "text", job_id)))
            subprocess.run([*podman, "rm", "-f", name], check=True, capture_output=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return [
        Figure(what, median(rates[f"our {name}"]), f"podman {name}", median(rates[name]), "MB/s")
        for name, what in (("run", "cat FILE, until it has ended"), ("logs", "replay as text"))
    ]


def _make_root(rootfs: Path, size_bytes: int) -> Path:
    """Make a root with `cat` and a file, and return the file."""
    for program in ("/bin/cat", *_libraries_of("/bin/cat")):
        target = rootfs / program.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(program, target)
    for name in ("proc", "sys", "dev", "etc", "tmp", "run"):
        (rootfs / name).mkdir()
    return write_data(rootfs / "data", size_bytes)


def _libraries_of(program: str) -> list[str]:
    found = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return re.findall(r"(/\S+) \(0x", found)


def _run_container(podman: list[str], name: str, rootfs: Path) -> float:
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    words = ["run", "-d", "--name", name, "--log-driver", "k8s-file", "--network", "host", *limits]
    begin = time.perf_counter()
    command = [*podman, *words, "--rootfs", str(rootfs), "/bin/cat", "/data"]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([*podman, "wait", name], check=True, capture_output=True)
    return time.perf_counter() - begin


def _time(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin
