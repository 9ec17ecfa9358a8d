"""An order of jobd's as the spawner reads it: nothing in it is taken unchecked."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace

import pytest

from jobruntime.keeper.order import Order, Site, read_order
from jobruntime.model.protocol import StepError
from jobruntime.model.spec import JobSpec
from jobruntime.worker.store import JobRecord, encode_order

JOB = "01234567-89ab-4def-8123-456789abcdef"
RECORD = JobRecord(JOB, "alice", JobSpec(argv=("tool", "x")), 1, "boot")
SITE = Site("/run/x", "/work", None, os.geteuid(), frozenset(), 0, range(0))
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def read(record: JobRecord) -> Order:
    fd = os.memfd_create("spec", os.MFD_ALLOW_SEALING)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    message: dict[str, object] = {"id": JOB, "uid": None, "gid": None, "user": "x", "rlimits": []}
    try:
        os.write(fd, encode_order(record))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        return read_order(SITE, message, directory, fd)
    finally:
        os.close(directory)
        os.close(fd)


@pytest.mark.parametrize("executable", [None, "/bin/tool", "/bin/t\udcff"])
def test_what_is_to_be_executed_comes_with_the_order_and_leaves_argv_alone(
    executable: str | None,
) -> None:
    order = read(replace(RECORD, executable=executable))
    assert (order.executable, order.spec.argv) == (executable, ("tool", "x"))


@pytest.mark.parametrize("executable", ["tool", "", "./tool", "/bin/a\0b"])
def test_what_is_no_absolute_path_is_not_executed(executable: str) -> None:
    with pytest.raises(StepError):
        read(replace(RECORD, executable=executable))
