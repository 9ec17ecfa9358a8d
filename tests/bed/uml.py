"""Run a command as root in a throw-away guest: a real kernel, with all of cgroup v2.

    python -m tests.bed.uml --venv .venv --disk 256M -- pytest tests/limits -m v2

User-mode Linux boots on this host's own files; what is written stays in a layer above them, in the
guest's memory. stdout, stderr and the exit code are the command's own; 124: it took too long;
125: the guest could not be had, or has died.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from pathlib import Path

from tests.bed.machine import FAILED, BedError, Guest, boot, parse_size


def main(arguments: list[str]) -> int:
    """Boot the guest that the arguments describe; return the exit code."""
    guest = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        return boot(guest)
    except BedError as error:
        print(f"bed: {error}", file=sys.stderr)
        return FAILED


def _parse(arguments: list[str]) -> Guest:
    parser = _make_parser()
    given = parser.parse_args(arguments)
    command = given.command[given.command[:1] == ["--"] :]
    if not command:
        parser.error("no command")
    given.command = command
    given.env = dict(_variable(text) for text in given.env)
    if given.chdir is None:
        given.chdir = Path.cwd() if given.root == Path("/") else Path("/")
    return Guest(**vars(given))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bed.uml",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--venv", type=_path, help="first on PATH")
    add("--chdir", type=_path, help="the command's directory; default: the same as here")
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help="set, or pass on")
    add(
        "--ro", type=_path, action="append", default=[], metavar="DIR", help="show, of /tmp or /run"
    )
    add("--rw", type=_path, action="append", default=[], metavar="DIR", help="let it write there")
    _add_size(parser, "--mem", "1G", "the guest's memory")
    _add_size(parser, "--disk", "0K", "a block device with ext4 on /disk")
    _add_size(parser, "--swap", "0K", "a swap device")
    add("--user", default="", help="run the command as this user")
    add("--cgroup", default="", metavar="A/B", help="in this group, delegated to --user")
    add("--root", type=_path, default=Path("/"), metavar="DIR", help="boot this tree (debootstrap)")
    add("--systemd", action="store_true", help="boot systemd; the command is one of its services")
    # A guest is one CPU: its kernel and the process that it runs wait for each other in turn, which
    # takes three times as long where they are on two.
    cpus = sorted(os.sched_getaffinity(0))
    add("--cpu", type=int, default=random.choice(cpus), help="of this host; default: any")
    add("--timeout", type=float, dest="timeout_s", default=600.0, metavar="S", help="default 600")
    add("--log", type=_path, metavar="FILE", help="keep the kernel's messages")
    add("command", nargs=argparse.REMAINDER)
    return parser


def _add_size(parser: argparse.ArgumentParser, flag: str, default: str, text: str) -> None:
    parser.add_argument(
        flag,
        dest=f"{flag[2:]}_bytes",
        type=parse_size,
        default=parse_size(default),
        metavar="SIZE",
        help=f"{text}, e.g. 256M",
    )


def _path(text: str) -> Path:
    return Path(text).resolve()


def _variable(text: str) -> tuple[str, str]:
    name, is_set, value = text.partition("=")
    return name, value if is_set else os.environ.get(name, "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
