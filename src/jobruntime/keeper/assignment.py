"""A job on its way from the spawner through the zygote to its keeper: plain values, open files.

Deliberately plain: every page that a keeper touches for the first time is copied, which costs
five microseconds and 4 KiB, so it gets tuples, bytes and numbers instead of objects to rebuild.
"""

from __future__ import annotations

import marshal
import os
from typing import Final, NamedTuple

from ..linux.files import read_whole, write_all
from ..model.isolation import Isolation

_INLINE_BYTES: Final = 32 * 1024


class Paths(NamedTuple):
    """What is made on the host for one job outside its own directory."""

    home: str
    control: str
    """The keeper's socket."""
    cgroup: str | None


class Stopping(NamedTuple):
    """What the spec says of the job's end."""

    signo: int
    grace_ms: int
    timeout_ms: int | None


class Program(NamedTuple):
    """What the job's first process becomes."""

    candidates: tuple[bytes, ...]
    """Paths at which the program may be, in the order of PATH."""
    argv: tuple[bytes, ...]
    environment: dict[bytes, bytes]
    working_directory: bytes
    uid: int | None
    """None: stay who the spawner is."""
    gid: int | None = None
    rlimits: tuple[tuple[str, int, int, int], ...] = ()
    """Names, and the arguments of setrlimit(2): which, soft, hard."""


class Files(NamedTuple):
    """Descriptors, all close-on-exec. Those of the group are -1 where the job has none."""

    reply: int
    directory: int
    log: int
    outcome: int
    status: int
    control: int
    stdout: int
    stderr: int
    errors: int
    stdout_end: int
    stderr_end: int
    errors_end: int
    procs: int
    events: int
    memory_events: int
    """-1 also where the host has no memory controller."""
    view: int = -1
    """The socket that holds an isolated job's view; else -1."""


class Assignment(NamedTuple):
    """All that a keeper needs of its job."""

    job_id: str
    paths: Paths
    stopping: Stopping
    program: Program
    io: bytes
    """What `encode_io` made of the limits where there are I/O rates, else empty: only the keeper
    may wait for a path's disk."""
    peer_uids: tuple[int, ...]
    log: tuple[object, ...]
    """The log's bounds, as the fields of LogPolicy."""
    log_reserve_bytes: int
    """Free room on the disk that the log leaves to others."""
    isolation: str
    """A word of Isolation."""
    started_record: tuple[bytes, bytes]
    """The first status record, before and after the moment of the start."""
    files: Files


def encode_assignment(job: Assignment) -> tuple[bytes, list[int], int | None]:
    """Return message and descriptors, and of these the one that was made here and is to be closed.

    marshal, because the zygote trusts the spawner, and because it decodes without touching a page
    of Python code. What is too large for a message travels in a memfd.
    """
    values = [tuple(part) if isinstance(part, tuple) else part for part in job[:-1]]
    data = marshal.dumps(values)
    fds = [fd for fd in job.files if fd >= 0]
    if len(data) <= _INLINE_BYTES:
        return data, fds, None
    large = os.memfd_create("assignment", os.MFD_CLOEXEC)
    write_all(large, data)
    return b"", [*fds, large], large


def decode_assignment(data: bytes, fds: list[int]) -> Assignment:
    """Return the assignment that `encode_assignment` made."""
    if not data:
        large = fds.pop()
        data = read_whole(large)
        os.close(large)
    job_id, paths, stopping, program, *plain = marshal.loads(data)  # noqa: S302
    io, peers, log, reserve, isolation, record = plain
    view = fds.pop() if isolation != Isolation.NONE else -1
    group = [*fds[12:], -1, -1, -1][:3]
    files = Files(*fds[:12], *group)._replace(view=view)
    return Assignment(
        job_id,
        Paths(*paths),
        Stopping(*stopping),
        Program(*program),
        io,
        peers,
        log,
        reserve,
        isolation,
        record,
        files,
    )
