"""What the jobs of these tests do, and how that is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jobruntime.rpc.gen import service_pb2 as pb
from tests.support import MIB, Api, eventually

BUSY: Final = ("sh", "-c", "while :; do :; done")
SLEEP: Final = ("sleep", "1000")
TRIES: Final = 3


def hoard(size_bytes: int) -> str:
    """Return a command for sh that takes so much memory, and at most twice that.

    The shell itself takes it: a read into a large buffer would do so in the kernel, and user-mode
    Linux does not survive that where the memory is refused (6.1, maybe_map).
    """
    return f"x=0123456789abcdef; while [ ${{#x}} -lt {size_bytes} ]; do x=$x$x; done"


def taking(size_bytes: int, then: str = "") -> tuple[str, ...]:
    """Return a job that takes so much memory and then does what is said."""
    return ("sh", "-c", f"{hoard(size_bytes)}; {then or ':'}")


def limits(**fields: object) -> pb.Limits:
    """Return Limits of the API."""
    return pb.Limits(**fields)  # type: ignore[arg-type]


def hog_limit(size_mib: int = 16) -> pb.Limits:
    """Return a limit of memory, without swap."""
    return limits(memory_bytes=size_mib * MIB)


def io_limit(path: Path, **rates: int) -> pb.Limits:
    """Return limits of the rates of one disk."""
    return limits(io=[pb.IoLimit(path=str(path), **rates)])  # type: ignore[arg-type]


def wait_output(api: Api, job: str, text: bytes) -> None:
    """Return once the job has written `text` to its stdout."""
    seen = b""
    for message in api.stream(job):
        seen += b"".join(entry.chunk.data for entry in message.batch.entries)
        if text in seen:
            return
    raise AssertionError(f"the job ended without {text!r}: {seen!r}")


def wait_usage(api: Api, job: str, holds: Callable[[pb.Usage], bool], what: str) -> pb.Usage:
    """Return what a job uses once that is as asked for; counters send no events."""

    def look() -> pb.Usage | None:
        usage = api.usage(job)
        return usage if holds(usage) else None

    return eventually(look, what=what)


def over(api: Api, jobs: list[str], seconds: float) -> list[pb.Usage]:
    """Return what each of these jobs has used in so many seconds, beginning now."""
    before = [api.usage(job) for job in jobs]
    time.sleep(seconds)  # it is the time itself that is measured over
    after = [api.usage(job) for job in jobs]
    return [_difference(*pair) for pair in zip(before, after, strict=True)]


def cpus(usage: pb.Usage) -> float:
    """Return how many CPUs are in this usage on average."""
    return usage.cpu_us * 1000 / usage.wall_ns


def measured(what: str, low: float, high: float, measure: Callable[[], float]) -> float:
    """Return a measurement within its bounds; one or two may be spoilt by what else runs here."""
    found: list[float] = []
    for _ in range(TRIES):
        found.append(measure())
        if low <= found[-1] <= high:
            break
    print(f"measured: {what}: {', '.join(f'{value:.4g}' for value in found)}")
    assert low <= found[-1] <= high, f"{what}: {found}, not from {low:g} to {high:g}"
    return found[-1]


def text_of(group: Path, file: str) -> str:
    """Return a file of a group without its last newline."""
    return (group / file).read_text().rstrip("\n")


def _difference(before: pb.Usage, after: pb.Usage) -> pb.Usage:
    fields = {field.name: getattr(after, field.name) for field, _ in after.ListFields()}
    return pb.Usage(
        **{name: max(0, value - getattr(before, name)) for name, value in fields.items()}
    )
