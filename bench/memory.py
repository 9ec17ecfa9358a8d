"""What a running job costs in memory beside itself."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jobruntime.rpc.gen import service_pb2 as pb

from .figure import Figure, Goal, Rule
from .instance import BenchError, Instance
from .options import Options


def bench_memory(instance: Instance, options: Options) -> list[Figure]:
    """Measure the PSS of keepers, zygote and spawner, per job, while the jobs sleep."""
    count = options.scaled(100)
    with instance.stub() as stub:
        jobs = [stub.Start(pb.StartRequest(argv=["sleep", "600"])).job_id for _ in range(count)]
        keepers, parents = _own_processes(instance)
        if len(keepers) != count or not parents:
            raise BenchError(f"cannot find {count} keepers and their parents: {len(keepers)}")
        pss_kib = sum(map(_pss_kib, keepers + parents))
        for job in jobs:
            stub.Stop(pb.StopRequest(job=job, grace_ms=0))
    figure = Figure(
        f"PSS per job, of {count}",
        pss_kib * 1024 / 1e6 / count,
        "bare interpreter, asleep",
        _bare_pss_kib(count) * 1024 / 1e6 / count,
        "MB",
        Goal(Rule.VALUE_AT_MOST, 1.3),
    )
    return [figure]


def _own_processes(instance: Instance) -> tuple[list[int], list[int]]:
    """Return the instance's keepers, and the processes before them, which share a command line."""
    keepers: list[int] = []
    parents: list[int] = []
    mark = f"--work-dir\0{instance.work_dir}\0".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if mark in (entry / "cmdline").read_bytes():
                is_keeper = (entry / "comm").read_text() == "jobd-keeper\n"
                (keepers if is_keeper else parents).append(int(entry.name))
    return keepers, parents


def _pss_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def _bare_pss_kib(count: int) -> int:
    with _bare_interpreters(count) as pids:
        return sum(map(_pss_kib, pids))


@contextlib.contextmanager
def _bare_interpreters(count: int) -> Iterator[list[int]]:
    command = [sys.executable, "-I", "-S", "-c", "print(flush=True); input()"]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(count)
        ]
        for process in processes:
            if process.stdout is not None:
                process.stdout.readline()  # it has started
        yield [process.pid for process in processes]
        for process in processes:
            process.kill()
