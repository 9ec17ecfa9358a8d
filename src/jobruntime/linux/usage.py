"""What a group has used, read from its files; a file that is not there was not counted."""

from __future__ import annotations

import os
import resource
from errno import ENODEV
from typing import Final

from ..model.usage import Oom, OomScope, Usage
from .limits import lines, read_file

_CPU: Final = {
    "usage_usec": "cpu_us",
    "user_usec": "cpu_user_us",
    "system_usec": "cpu_system_us",
    "nr_periods": "cpu_periods",
    "nr_throttled": "cpu_throttled_periods",
    "throttled_usec": "cpu_throttled_us",
}
_EVENTS: Final = {"high": "memory_high_events", "max": "memory_max_events"}
_IO: Final = {
    "rbytes": "io_read_bytes",
    "wbytes": "io_write_bytes",
    "rios": "io_reads",
    "wios": "io_writes",
}
_PEAKS: Final = {
    "memory.peak": "memory_peak_bytes",
    "memory.swap.peak": "swap_peak_bytes",
    "pids.peak": "pids_peak",
}
_PRESENT: Final = {
    "memory.current": "memory_bytes",
    "memory.swap.current": "swap_bytes",
    "pids.current": "pids",
}


def read_usage(group: str, wall_ns: int, *, ended: bool) -> Usage:
    """Return what the group has used; of one that has `ended`, what is in use now is left out."""
    values: dict[str, int] = {"wall_ns": wall_ns}
    _take(values, _CPU, _text(group, "cpu.stat"))
    _take(values, _EVENTS, _text(group, "memory.events"))
    _take(values, {"max": "pids_refused"}, _text(group, "pids.events"))
    for file, name in (_PEAKS if ended else _PEAKS | _PRESENT).items():
        text = _text(group, file)
        if text:
            values[name] = int(text)
    _take_io(values, group)
    return Usage(**values)


def usage_of_children(wall_ns: int) -> Usage:
    """Return what a subreaper knows of its descendants: the CPU time of those that were reaped."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    user_us, system_us = round(used.ru_utime * 1e6), round(used.ru_stime * 1e6)
    return Usage(
        wall_ns=wall_ns,
        cpu_us=user_us + system_us,
        cpu_user_us=user_us,
        cpu_system_us=system_us,
    )


class OomWatch:
    """Tells the OOM killer's work on a job from other ends by SIGKILL."""

    def __init__(self, memory_events: int) -> None:
        """Take the open memory.events of the job's group."""
        self._fd = memory_events
        self._kills = 0
        self._reached = 0

    def look(self) -> Oom | None:
        """Return what has happened since the last look; None: nothing was killed.

        Whether the job's first process was hit, only its end can tell.
        """
        counts = dict(lines(os.pread(self._fd, 4096, 0).decode()))
        kills, reached = counts.get("oom_kill", 0), counts.get("oom", 0)
        if kills <= self._kills:
            return None
        # `oom` is counted where the limit was reached and in the groups above it, `oom_kill` where
        # the killed process lived: a kill without an `oom` here or below came from above.
        scope = OomScope.JOB if reached > self._reached else OomScope.ABOVE
        self._kills, self._reached = kills, reached
        return Oom(scope, kills, leader=False)


def _text(group: str, file: str) -> str:
    try:
        return read_file(group, file)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _as_gone(error) from error


def _as_gone(error: OSError) -> OSError:
    # What a file answers whose group was removed after it was opened.
    return FileNotFoundError(error.errno, "the group is gone") if error.errno == ENODEV else error


def _take(values: dict[str, int], names: dict[str, str], text: str) -> None:
    for key, value in lines(text):
        if key in names:
            values[names[key]] = value


def _take_io(values: dict[str, int], group: str) -> None:
    try:
        text = read_file(group, "io.stat")
    except FileNotFoundError:
        return
    except OSError as error:
        raise _as_gone(error) from error
    sums = dict.fromkeys(_IO, 0)
    for line in text.splitlines():
        for pair in line.split()[1:]:  # a line may have no pairs
            key, _, value = pair.partition("=")
            if key in sums:
                sums[key] += int(value)
    values.update({_IO[key]: total for key, total in sums.items()})
