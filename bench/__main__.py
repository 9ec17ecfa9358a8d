"""`python -m bench [NAME ...]`: measure, and print a table or JSON."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .command import bench_status
from .figure import Figure, as_json, describe_machine, format_table
from .instance import BenchError, Instance, running_instance
from .logs import bench_followers, bench_idle, bench_latency, bench_tail
from .memory import bench_memory
from .options import Options
from .output import bench_capture, bench_replay, bench_writes
from .podman import bench_podman
from .start import bench_start, bench_starts

Bench = Callable[[Instance, Options], list[Figure]]

BENCHES: dict[str, Bench] = {
    "start": bench_start,
    "starts": bench_starts,
    "capture": bench_capture,
    "writes": bench_writes,
    "replay": bench_replay,
    "latency": bench_latency,
    "idle": bench_idle,
    "followers": bench_followers,
    "tail": bench_tail,
    "podman": bench_podman,
    "memory": bench_memory,
    "status": bench_status,
}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main() -> int:
    """Run the benches that were named, or all; return the exit code."""
    args = _parse()
    # A kill ends the server as well, and removes what was made.
    signal.signal(signal.SIGTERM, lambda signo, _: sys.exit(128 + signo))
    options = Options(size_bytes=args.size, rounds=args.rounds, scale=args.scale)
    figures: list[Figure] = []
    try:
        with running_instance(args.dir) as instance:
            for name in args.name or BENCHES:
                figures += _run(name, instance, options)
    except (BenchError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    machine = describe_machine()
    if args.output == "json":
        print(json.dumps({"machine": machine, "figures": [as_json(f) for f in figures]}, indent=2))
    else:
        print(format_table(figures))
        print("\n" + ", ".join(f"{key}: {value}" for key, value in machine.items()))
    return 0


def _run(name: str, instance: Instance, options: Options) -> list[Figure]:
    begin = time.monotonic()
    print(f"bench: {name} ...", end="", flush=True, file=sys.stderr)
    figures = BENCHES[name](instance, options)
    print(f" {time.monotonic() - begin:.1f} s", flush=True, file=sys.stderr)
    return figures


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure, each number beside its baseline."
    )
    add = parser.add_argument
    add("name", nargs="*", metavar="NAME", help=f"one or more of {', '.join(BENCHES)}; all")
    add("--size", type=_size, default=1 << 30, metavar="SIZE", help="of the output (1G)")
    add("--rounds", type=int, default=5, metavar="N", help="how often each side runs (5)")
    add("--scale", type=float, default=1, metavar="X", help="0.1: a tenth as many starts, jobs (1)")
    add("--dir", type=Path, metavar="DIR", help="where its server lives (the temporary directory)")
    add("-o", "--output", choices=("table", "json"), default="table")
    args = parser.parse_args()
    if unknown := set(args.name) - set(BENCHES):
        parser.error(f"there is no bench {unknown.pop()!r}; there are {', '.join(BENCHES)}")
    if args.rounds < 1 or args.size < 1 << 20:
        parser.error("it takes one round and 1M at least")
    return args


def _size(text: str) -> int:
    factor = _UNITS.get(text[-1:].upper())
    return int(text[:-1]) * factor if factor else int(text)


if __name__ == "__main__":
    sys.exit(main())
