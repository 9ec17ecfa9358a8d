"""What a trial leaves that was killed: found by the next one, ended and removed.

A trial's directory holds a record of where the rest is, and its lock (flock) while the trial runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from typing import Final

from ..linux.files import open_directory, read_json, replace_json, try_lock
from ..linux.trees import remove_tree
from ..model.errors import JobError
from .engine import LocalWorker
from .settings import Settings

_logger = logging.getLogger(__name__)

PREFIX: Final = "jobd-doctor-"
_RECORD: Final = "trial.json"


@contextlib.contextmanager
def marked(directory: str, settings: Settings) -> Iterator[None]:
    """Hold the trial's directory, and say in it where the rest of the trial is."""
    fd = open_directory(directory)
    try:
        try_lock(fd)
        record = {
            "runtime_dir": settings.runtime_dir,
            "work_dir": settings.work_dir,
            "cgroup_root": settings.cgroup_root,
            "uid_first": settings.uid_first,
        }
        replace_json(_RECORD, record, fd, sync=False)
        yield
    finally:
        os.close(fd)


async def clear_leftovers(parent: str, by: str) -> None:
    """End and remove every trial of this user's in `parent` whose process is gone."""
    for name in sorted(os.listdir(parent)):
        path = f"{parent}/{name}"
        if not name.startswith(PREFIX):
            continue
        try:
            await _clear(path, by)
        except FileNotFoundError:
            continue  # another doctor was quicker
        except (JobError, OSError, ValueError, TypeError) as error:
            _logger.warning("cannot remove what a killed doctor has left in %s: %s", path, error)


async def _clear(path: str, by: str) -> None:
    about = os.lstat(path)
    # Anybody can make such a directory in /tmp, and what it says is believed.
    if about.st_uid != os.geteuid() or not stat.S_ISDIR(about.st_mode) or about.st_mode & 0o077:
        return
    fd = open_directory(path)
    try:
        if not os.path.samestat(os.fstat(fd), about) or not try_lock(fd):
            return
        record = read_json(_RECORD, fd)
        if record is None:
            return  # it is just being made, or is not a trial's first directory
        settings = _settings(path, record)
        async with LocalWorker(settings) as worker:
            await worker.stop_all(by=by)
            await worker.retire()
        for directory in (str(record["work_dir"]), path):
            remove_tree(directory)
    finally:
        os.close(fd)


def _settings(path: str, record: dict[str, object]) -> Settings:
    uid_first = record["uid_first"]
    return Settings(
        state_dir=f"{path}/state",
        runtime_dir=str(record["runtime_dir"]),
        work_dir=str(record["work_dir"]),
        cgroup_root=str(record["cgroup_root"]),
        uid_first=uid_first if isinstance(uid_first, int) else None,
        uid_count=1,
    )
