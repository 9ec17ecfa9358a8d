"""From an order to a running payload: everything that a start makes, and unmakes if it fails."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..linux import sockets
from ..linux.files import create_exclusive, parse_json
from ..linux.processes import has_execed
from ..model.frames import Stream
from ..model.protocol import (
    KEEPER_SOCKETS,
    LOG_FILE,
    Failure,
    Step,
    StepError,
    parse_failure,
)
from .capture import Capture
from .order import Order
from .outcome import OutcomeFile
from .payload import DEFAULT_PATH, Payload, run_payload
from .tracking import CgroupTracker, SubreaperTracker, Tracker


@dataclass(frozen=True, slots=True)
class Launched:
    """A job whose exec has succeeded."""

    leader: int
    """Pid of its first process, a child of this one."""
    pipes: dict[int, Stream]
    """Read ends of its output."""
    tracker: Tracker
    capture: Capture
    outcome: OutcomeFile
    control: socket.socket
    started_at_ns: int
    release: Callable[[], None]
    """Gives back what the job held on the host; to be called once nothing of it lives."""


def launch(order: Order) -> Launched:
    """Start the job; raises StepError with nothing left: no process, group, file or socket."""
    with contextlib.ExitStack() as undo:
        with _step(Step.RECORD):
            outcome = OutcomeFile(order.directory)
            undo.callback(outcome.discard)
        with _step(Step.LOG):
            capture = _make_log(order, undo)
        with _step(Step.HOME, order.site.work_dir):
            home = _make_home(order)
            undo.callback(os.rmdir, home)
        with _step(Step.CGROUP, order.site.cgroup_root or ""):
            tracker = _make_tracker(order)
            undo.callback(tracker.remove)
        with _step(Step.CONTROL, order.site.runtime_dir):
            control = _make_control(order, undo)
        leader, pipes = _fork(order, tracker, home)
        undo.pop_all()
    release = _releaser(order, tracker, home)
    return Launched(leader, pipes, tracker, capture, outcome, control, time.time_ns(), release)


@contextlib.contextmanager
def _step(step: Step, path: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepError(Failure(step, error.errno or errno.EIO, path)) from error


def _make_log(order: Order, undo: contextlib.ExitStack) -> Capture:
    log = create_exclusive(LOG_FILE, order.directory)
    undo.callback(os.unlink, LOG_FILE, dir_fd=order.directory)
    return Capture(log)


def _make_home(order: Order) -> str:
    home = f"{order.site.work_dir}/{order.job_id}"
    os.mkdir(home, 0o700)
    if order.uid is not None:
        try:
            os.chown(home, order.uid, order.uid)
        except OSError:
            os.rmdir(home)
            raise
    return home


def _make_tracker(order: Order) -> Tracker:
    if order.site.cgroup_root is None:
        return SubreaperTracker()
    return CgroupTracker(f"{order.site.cgroup_root}/jobs/{order.job_id}")


def _make_control(order: Order, undo: contextlib.ExitStack) -> socket.socket:
    directory = f"{order.site.runtime_dir}/{KEEPER_SOCKETS}"
    control = sockets.listen(directory, order.job_id)
    undo.callback(os.unlink, f"{directory}/{order.job_id}")
    return control


def _releaser(order: Order, tracker: Tracker, home: str) -> Callable[[], None]:
    def release() -> None:
        tracker.remove()
        with contextlib.suppress(OSError):  # not empty: it stays with the job's record
            os.rmdir(home)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{order.site.runtime_dir}/{KEEPER_SOCKETS}/{order.job_id}")

    return release


def _fork(order: Order, tracker: Tracker, home: str) -> tuple[int, dict[int, Stream]]:
    with _step(Step.FORK):
        stdout, stdout_end = os.pipe2(os.O_CLOEXEC)
        stderr, stderr_end = os.pipe2(os.O_CLOEXEC)
        errors, errors_end = os.pipe2(os.O_CLOEXEC)
        keeper_pid = os.getpid()
        payload = Payload(
            argv=order.spec.argv,
            environment=_environment(order, home),
            working_directory=order.spec.working_directory or home,
            uid=order.uid,
            gid=order.uid,
            stdout=stdout_end,
            stderr=stderr_end,
            errors=errors_end,
            procs=tracker.procs,
        )
        pid = os.fork()
        if not pid:
            run_payload(payload, keeper_pid)
    for fd in (stdout_end, stderr_end, errors_end):
        os.close(fd)
    _confirm_exec(pid, errors, tracker)
    return pid, {stdout: Stream.STDOUT, stderr: Stream.STDERR}


def _environment(order: Order, home: str) -> dict[str, str]:
    return {"PATH": DEFAULT_PATH, "HOME": home, "JOB_ID": order.job_id} | dict(order.spec.env)


def _confirm_exec(pid: int, errors: int, tracker: Tracker) -> None:
    with open(errors, "rb") as pipe:
        report = pipe.read()
    # End of file alone is no proof: the child may have been killed between joining its group and
    # exec, by a tiny memory.max for one. The kernel's own mark tells; the pid is not reaped yet.
    if not report and has_execed(pid):
        return
    _, status = os.waitpid(pid, 0)
    tracker.kill_all()
    if report:
        raise StepError(parse_failure(parse_json(report)))
    signo = os.WTERMSIG(status) if os.WIFSIGNALED(status) else signal.SIGKILL
    raise StepError(Failure(Step.KILLED, signo))
