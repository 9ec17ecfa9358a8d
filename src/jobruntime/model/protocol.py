"""What jobd, spawner and keepers say to each other. Messages are JSON, one per datagram.

    jobd -> spawner    {"op": "start", "id", "uid", "gid", "user", "rlimits"}
                                                             fds: reply socket, job directory, spec
                       {"op": "sweep", "id"}                 fds: reply socket
                       {"op": "kill", "id"}                  fds: reply socket
                       {"op": "remove", "id"}                fds: reply socket; the job's home
                       {"op": "retire"}
    spawner -> jobd    {"hello": greeting, "pid"}            first, on every connection
    keeper -> jobd     {"started": progress} | {"failed": failure}, then {"progress": progress} ...,
                       {"ended": progress} last; on a later connection {"progress": ...} first
    jobd -> keeper     {"op": "stop", "by", "signo", "grace_ms"}   null: the spec's own
                       {"op": "pause" | "resume", "seq"}
                       {"op": "update", "limits", "io": order of I/O rates, "seq"}
                       {"op": "usage", "seq"}
    keeper -> jobd     {"answer": seq, "progress"} or {"answer": seq, "failed": failure}; to "usage"
                       also "usage", as model/usage.py encodes it
    jobd -> monitor    {"op": "spawner"}                     where root started jobd: monitor.py
    monitor -> jobd    {"started": pid}                      fd: its stdout; or {"failed": why}

A keeper outlives the jobd that started it and may meet a newer one, so its messages only ever
grow: nothing is renamed or given another meaning. The spawner is replaced instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final


def greeting(version: str, arguments: list[str]) -> str:
    """Return what a spawner of this version, started with these arguments, says first.

    A spawner that says anything else is retired and replaced: it is of another version of the
    program, or was started before the configuration changed.
    """
    return f"{version} {hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]}"


SPAWNER_SOCKET: Final = "spawner.sock"
KEEPER_SOCKETS: Final = "keepers"
"""Directory of the keepers' sockets, each named by its job's id, in the runtime directory."""

SPEC_FILE: Final = "spec.json"
STATUS_FILE: Final = "status.json"
OUTCOME_FILE: Final = "outcome.json"
PARTIAL_OUTCOME_FILE: Final = f"{OUTCOME_FILE}.new"


@unique
class Step(StrEnum):
    """A step of a start, or of a change to a running job, that can fail."""

    ORDER = "order"
    RECORD = "record"
    LOG = "log"
    CGROUP = "cgroup"
    LIMIT = "limit"
    DEVICE = "device"
    CEILING = "ceiling"
    CONTROL = "control"
    FORK = "fork"
    SIGNALS = "signals"
    SESSION = "session"
    STDIO = "stdio"
    RLIMITS = "rlimits"
    USER = "user"
    PRIVILEGES = "privileges"
    HOME = "home"
    WORKING_DIRECTORY = "working_directory"
    JOIN = "join"
    EXEC = "exec"
    ISOLATION = "isolation"
    KILLED = "killed"
    STATE = "state"
    FREEZE = "freeze"


@unique
class Detail(StrEnum):
    """What an errno alone does not tell."""

    NONE = ""
    IS_DIRECTORY = "is_directory"
    NO_INTERPRETER = "no_interpreter"
    NOT_HELD = "not_held"
    """The kernel took another limit than the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The step at which a start failed, its errno (for KILLED: the signal) and the path."""

    step: Step
    errno: int
    path: str = ""
    detail: Detail = Detail.NONE


class StepError(Exception):
    """A start cannot go on; carries the failure that is told to jobd."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def encode_failure(failure: Failure) -> dict[str, object]:
    """Return `failure` as JSON-ready values; `parse_failure` is the inverse."""
    return {
        "step": failure.step.value,
        "errno": failure.errno,
        "path": failure.path,
        "detail": failure.detail.value,
    }


def parse_failure(raw: dict[str, object]) -> Failure:
    """Return the failure that `encode_failure` wrote; raises ValueError for anything else."""
    errno = raw.get("errno")
    if not isinstance(errno, int):
        raise ValueError("not a failure")
    step, detail = Step(str(raw.get("step"))), Detail(str(raw.get("detail", "")))
    return Failure(step, errno, str(raw.get("path", "")), detail)
