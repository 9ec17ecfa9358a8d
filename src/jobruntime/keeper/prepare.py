"""Everything that a start makes on the host, made in the spawner before any process is forked.

The spawner forks nothing while it serves, so its pages stay its own and warm: what is made ready
here costs a job microseconds; in a fresh keeper it would cost hundreds, and memory all its life.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from ..linux import sockets
from ..linux.files import acting_as, create_exclusive, encode_json, write_all
from ..linux.limits import limit_writes
from ..model.frames import BlockHeader, block_bytes_for, encode_block_header, segment_name
from ..model.isolation import Isolation
from ..model.log_policy import LogPolicy, encode_log_policy
from ..model.programs import DEFAULT_PATH, program_candidates
from ..model.protocol import KEEPER_SOCKETS, STATUS_FILE, Failure, Step, StepError
from ..model.record import Progress, encode_progress
from ..model.state import State
from .assignment import Assignment, Files, Paths, Program, Stopping
from .isolation import start_view
from .limits import apply_limits, encode_io
from .order import Order
from .outcome import OutcomeFile
from .tracking import CgroupTracker

_TIME_MARK = 1234567890123456789
_FIRST_SEGMENT = segment_name(0)


def prepare(order: Order, reply: int) -> Assignment:
    """Make all that the job needs; raises StepError with nothing left behind."""
    site = order.site
    paths = Paths(
        home=f"{site.work_dir}/{order.job_id}",
        control=f"{site.runtime_dir}/{KEEPER_SOCKETS}/{order.job_id}",
        cgroup=None if site.cgroup_root is None else f"{site.cgroup_root}/jobs/{order.job_id}",
    )
    with contextlib.ExitStack() as undo:
        files = _make_files(order, paths, reply, undo)
        isolation = order.spec.isolation or Isolation.NONE
        undo.callback(os.close, files.control)  # detached from the socket that was to close it
        if isolation is not Isolation.NONE:
            view = _start_view(order, isolation, paths.home)
            undo.callback(os.close, view)
            files = files._replace(view=view)
        undo.pop_all()
    spec = order.spec
    return Assignment(
        job_id=order.job_id,
        paths=paths,
        stopping=Stopping(spec.stop_signal, spec.grace_ms, spec.timeout_ms),
        program=_program(order, paths.home),
        io=encode_io(spec.limits, order.io),
        peer_uids=order.peer_uids,
        log=tuple(encode_log_policy(spec.log)),
        log_reserve_bytes=site.log_reserve_bytes,
        isolation=isolation.value,
        started_record=_started_record(),
        files=files,
    )


def discard(job: Assignment) -> None:
    """Undo `prepare`: the job never ran and none of its processes is left."""
    release(job)
    _remove_home(job.paths.home)
    OutcomeFile(job.files.directory, job.files.outcome).discard()
    for name in (_FIRST_SEGMENT, STATUS_FILE):
        os.unlink(name, dir_fd=job.files.directory)


def release(job: Assignment) -> None:
    """Give back what the job held outside its record, once nothing of it lives.

    Its own directory stays with the record, and is removed with it.
    """
    if job.paths.cgroup is not None:
        CgroupTracker(job.paths.cgroup).remove()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(job.paths.control)


def close_copies(job: Assignment) -> None:
    """Close the spawner's copies of the descriptors that it made; the others are its caller's."""
    for fd in job.files[2:]:
        if fd >= 0:
            os.close(fd)


def _make_files(order: Order, paths: Paths, reply: int, undo: contextlib.ExitStack) -> Files:
    # The directory is the server's: as it, so that it can read them, and no link leads further.
    server = order.site.peer_uid
    with _step(Step.RECORD), acting_as(server):
        outcome = OutcomeFile.reserve(order.directory)
        undo.callback(outcome.discard)
        status = _create(order, STATUS_FILE, undo)
    with _step(Step.LOG), acting_as(server):
        log = _create(order, _FIRST_SEGMENT, undo)
        write_all(log, _first_header(order.spec.log))
    with _step(Step.HOME, order.site.work_dir):
        _make_home(paths.home, order)
        undo.callback(_remove_home, paths.home)
    group = (-1, -1, -1)
    if paths.cgroup is not None:
        with _step(Step.CGROUP, paths.cgroup):
            group = _make_group(paths.cgroup, order.gid, undo)
        writes = limit_writes(order.spec.limits, order.site.cgroup_files)
        apply_limits(paths.cgroup, lambda: writes)
    with _step(Step.CONTROL, order.site.runtime_dir):
        directory, name = os.path.split(paths.control)
        control = sockets.listen(directory, name, server)
        undo.callback(os.unlink, paths.control)
        undo.callback(control.close)
    with _step(Step.STDIO):
        ends = [*_make_output(order, undo), *_make_output(order, undo)]
        ends += _make_pipe(undo)
    return Files(
        reply=reply,
        directory=order.directory,
        log=log,
        outcome=outcome.fd,
        status=status,
        control=control.detach(),
        stdout=ends[0],
        stderr=ends[2],
        errors=ends[4],
        stdout_end=ends[1],
        stderr_end=ends[3],
        errors_end=ends[5],
        procs=group[0],
        events=group[1],
        memory_events=group[2],
    )


def _start_view(order: Order, isolation: Isolation, home: str) -> int:
    with _step(Step.ISOLATION):
        return start_view(order.job_id, isolation, home, order.site.hidden)


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


def _first_header(policy: LogPolicy) -> bytes:
    return encode_block_header(BlockHeader(block_bytes_for(policy.max_bytes), 0))


def _make_home(home: str, order: Order) -> None:
    os.mkdir(home, 0o700)
    if order.uid is not None and order.gid is not None:
        try:
            os.chown(home, order.uid, order.gid)
        except OSError:
            os.rmdir(home)
            raise


def _remove_home(home: str) -> None:
    with contextlib.suppress(OSError):  # the job never ran: it is empty
        os.rmdir(home)


def _make_group(path: str, gid: int | None, undo: contextlib.ExitStack) -> tuple[int, int, int]:
    os.mkdir(path, 0o755)
    undo.callback(CgroupTracker(path).remove)
    if gid is not None:
        # What the job looks up of its own limits there (a JVM does) is nobody else's business.
        os.chown(path, -1, gid)
        os.chmod(path, 0o750)  # noqa: S103 - for the job itself
    procs = os.open(f"{path}/cgroup.procs", os.O_WRONLY)
    undo.callback(os.close, procs)
    events = os.open(f"{path}/cgroup.events", os.O_RDONLY)
    undo.callback(os.close, events)
    try:
        memory_events = os.open(f"{path}/memory.events", os.O_RDONLY)
    except FileNotFoundError:
        return procs, events, -1
    undo.callback(os.close, memory_events)
    os.pread(memory_events, 4096, 0)  # else the first poll takes it for changed
    return procs, events, memory_events


def _make_output(order: Order, undo: contextlib.ExitStack) -> tuple[int, int]:
    reader, writer = _make_pipe(undo)
    # So that the job may open /dev/stdout. Then it may also read what it wrote, before the keeper
    # does, which must not block the keeper.
    if order.uid is not None and order.gid is not None:
        os.fchown(writer, order.uid, order.gid)
    os.set_blocking(reader, False)
    return reader, writer


def _make_pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, reader)
    undo.callback(os.close, writer)
    return reader, writer


def _program(order: Order, home: str) -> Program:
    spec = order.spec
    default = {"PATH": DEFAULT_PATH, "HOME": home, "TMPDIR": home, "JOB_ID": order.job_id}
    default |= {"USER": order.user, "LOGNAME": order.user}
    environment = default | dict(spec.env)
    return Program(
        # What the policy has checked is what is run, whatever argv[0] and PATH say.
        candidates=program_candidates(order.executable or spec.argv[0], environment["PATH"]),
        argv=tuple(os.fsencode(arg) for arg in spec.argv),
        environment={os.fsencode(k): os.fsencode(v) for k, v in environment.items()},
        working_directory=os.fsencode(spec.working_directory or home),
        uid=order.uid,
        gid=order.gid,
        rlimits=order.rlimits,
    )


def _started_record() -> tuple[bytes, bytes]:
    record = encode_json(encode_progress(Progress(State.RUNNING, started_at_ns=_TIME_MARK)))
    before, _, after = record.partition(b"%d" % _TIME_MARK)
    return before, after
