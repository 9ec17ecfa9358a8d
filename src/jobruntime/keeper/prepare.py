"""Everything that a start makes on the host, made in the spawner before the keeper is forked.

The spawner's pages are warm, while each page that a fresh keeper touches is copied first: what is
made ready here costs a job microseconds instead of hundreds of them, and its keeper less memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from ..linux import sockets
from ..linux.files import create_exclusive, encode_json
from ..model.frames import Stream
from ..model.protocol import KEEPER_SOCKETS, LOG_FILE, STATUS_FILE, Failure, Step, StepError
from ..model.record import Progress, encode_progress
from ..model.spec import JobSpec
from ..model.state import State
from .capture import Capture
from .order import Order, Site
from .outcome import OutcomeFile
from .payload import DEFAULT_PATH, Payload, program_candidates
from .tracking import CgroupTracker, SubreaperTracker, Tracker

_TIME_MARK = 1234567890123456789


@dataclass(slots=True)
class Prepared:
    """A job that lacks nothing but its processes. All descriptors are close-on-exec."""

    order: Order
    outcome: OutcomeFile
    capture: Capture
    tracker: Tracker
    control: socket.socket
    payload: Payload
    pipes: dict[int, Stream]
    """Read ends of the output."""
    errors: int
    """Read end of the pipe that carries a failure."""
    status: int
    """The empty status file."""
    started_record: tuple[bytes, bytes]
    """The first status record, before and after the moment of the start."""
    home: str

    def close_copies(self) -> None:
        """Close the spawner's copies of what the keeper now has."""
        self.outcome.close()
        self.capture.close()
        self.tracker.close()
        self.control.close()
        ours = [self.errors, self.status, *self.pipes]
        for fd in [*ours, self.payload.stdout, self.payload.stderr, self.payload.errors]:
            os.close(fd)

    def release(self) -> None:
        """Give back what the job held on the host; to be called once nothing of it lives."""
        self.tracker.remove()
        _remove_home(self.home)
        _remove_control(self.order.site, self.order.job_id)

    def discard(self) -> None:
        """Undo everything: the job never ran."""
        self.release()
        self.outcome.discard()
        for name in (LOG_FILE, STATUS_FILE):
            os.unlink(name, dir_fd=self.order.directory)


def prepare(order: Order) -> Prepared:
    """Make all that the job needs; raises StepError with nothing left behind."""
    with contextlib.ExitStack() as undo:
        with _step(Step.RECORD):
            outcome = OutcomeFile(order.directory)
            undo.callback(outcome.discard)
            status = _create(order, STATUS_FILE, undo)
        with _step(Step.LOG):
            capture = Capture(_create(order, LOG_FILE, undo))
        with _step(Step.HOME, order.site.work_dir):
            home = _make_home(order)
            undo.callback(_remove_home, home)
        with _step(Step.CGROUP, order.site.cgroup_root or ""):
            tracker = _make_tracker(order)
            undo.callback(tracker.remove)
        with _step(Step.CONTROL, order.site.runtime_dir):
            control = sockets.listen(f"{order.site.runtime_dir}/{KEEPER_SOCKETS}", order.job_id)
            undo.callback(_remove_control, order.site, order.job_id)
            undo.callback(control.close)
        with _step(Step.STDIO):
            (stdout, stdout_end), (stderr, stderr_end), (errors, errors_end) = _make_pipes(3, undo)
        payload = _payload(order, tracker, home, (stdout_end, stderr_end, errors_end))
        undo.pop_all()
    return Prepared(
        order=order,
        outcome=outcome,
        capture=capture,
        tracker=tracker,
        control=control,
        payload=payload,
        pipes={stdout: Stream.STDOUT, stderr: Stream.STDERR},
        errors=errors,
        status=status,
        started_record=_started_record(),
        home=home,
    )


@contextlib.contextmanager
def _step(step: Step, path: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepError(Failure(step, error.errno or errno.EIO, path)) from error


def _create(order: Order, name: str, undo: contextlib.ExitStack) -> int:
    fd = create_exclusive(name, order.directory)
    undo.callback(os.unlink, name, dir_fd=order.directory)
    undo.callback(os.close, fd)
    return fd


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


def _remove_home(home: str) -> None:
    with contextlib.suppress(OSError):  # not empty: it stays with the job's record
        os.rmdir(home)


def _remove_control(site: Site, job_id: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{site.runtime_dir}/{KEEPER_SOCKETS}/{job_id}")


def _make_tracker(order: Order) -> Tracker:
    if order.site.cgroup_root is None:
        return SubreaperTracker()
    return CgroupTracker(f"{order.site.cgroup_root}/jobs/{order.job_id}")


def _make_pipes(count: int, undo: contextlib.ExitStack) -> list[tuple[int, int]]:
    pairs = []
    for _ in range(count):
        pairs.append(os.pipe2(os.O_CLOEXEC))
        for fd in pairs[-1]:
            undo.callback(os.close, fd)
    return pairs


def _payload(order: Order, tracker: Tracker, home: str, ends: tuple[int, int, int]) -> Payload:
    spec: JobSpec = order.spec
    default = {"PATH": DEFAULT_PATH, "HOME": home, "JOB_ID": order.job_id}
    environment = default | dict(spec.env)
    return Payload(
        candidates=program_candidates(spec.argv[0], environment["PATH"]),
        argv=tuple(os.fsencode(arg) for arg in spec.argv),
        environment={os.fsencode(k): os.fsencode(v) for k, v in environment.items()},
        working_directory=os.fsencode(spec.working_directory or home),
        uid=order.uid,
        stdout=ends[0],
        stderr=ends[1],
        errors=ends[2],
        procs=tracker.procs,
    )


def _started_record() -> tuple[bytes, bytes]:
    record = encode_json(encode_progress(Progress(State.RUNNING, started_at_ns=_TIME_MARK)))
    before, _, after = record.partition(b"%d" % _TIME_MARK)
    return before, after
