"""The last steps of a job's first process: from the fork to its exec."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
from dataclasses import dataclass
from typing import Final, NoReturn

from ..linux.files import encode_json, write_all
from ..linux.libc import set_no_new_privileges, set_parent_death_signal
from ..model.protocol import Detail, Failure, Step, encode_failure

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SOFT_NOFILE: Final = 1024  # what select(2) can bear; a job that wants more raises it (systemd)


@dataclass(frozen=True, slots=True)
class Payload:
    """All that the first process needs, made ready before the fork."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    working_directory: str
    uid: int | None
    gid: int | None
    stdout: int
    stderr: int
    errors: int
    """Write end of the close-on-exec pipe that carries a failure."""
    procs: int | None
    """The group's cgroup.procs, open for writing."""


class _Progress:
    """Remembers the step under way and where to tell of it, for the message if it fails."""

    def __init__(self, errors: int) -> None:
        self.step = Step.SIGNALS
        self.path = ""
        self.errors = errors

    def begin(self, step: Step, path: str = "") -> None:
        self.step = step
        self.path = path


def run_payload(payload: Payload, keeper_pid: int) -> NoReturn:
    """Become the job's first process, or tell the failed step on `payload.errors` and end."""
    progress = _Progress(payload.errors)
    try:
        _prepare(payload, keeper_pid, progress)
        _exec(payload, progress)
    except OSError as error:
        failure = _failure(progress, error)
    except Exception as error:  # noqa: BLE001 - the process ends here, and must tell why
        os.write(2, f"payload: {progress.step}: {error!r}\n".encode(errors="replace"))
        failure = Failure(progress.step, errno.EINVAL, progress.path)
    try:
        write_all(progress.errors, encode_json(encode_failure(failure)))
    finally:
        os._exit(127)


def _prepare(payload: Payload, keeper_pid: int, progress: _Progress) -> None:
    _reset_signals()
    progress.begin(Step.SESSION)
    os.setsid()
    progress.begin(Step.STDIO)
    progress.errors, procs = _arrange_descriptors(payload)
    progress.begin(Step.RLIMITS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _SOFT_NOFILE if hard == resource.RLIM_INFINITY else min(_SOFT_NOFILE, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    progress.begin(Step.USER, "" if payload.uid is None else str(payload.uid))
    if payload.uid is not None and payload.gid is not None:
        os.setgroups([])
        os.setresgid(payload.gid, payload.gid, payload.gid)
        os.setresuid(payload.uid, payload.uid, payload.uid)
    progress.begin(Step.PRIVILEGES)
    set_no_new_privileges()
    # Without its keeper nobody reads a job's output or tells its end. After the change of user,
    # which clears this setting; the check closes the race with a keeper that is gone already.
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != keeper_pid:
        os._exit(127)
    os.umask(0o077)
    progress.begin(Step.WORKING_DIRECTORY, payload.working_directory)
    os.chdir(payload.working_directory)
    progress.begin(Step.JOIN)
    if procs is not None:
        # Last before exec: pages dirtied after this are charged to the job's memory.max.
        os.write(procs, b"0")


def _reset_signals() -> None:
    # Python ignores SIGPIPE and SIGXFSZ, the keeper catches SIGCHLD, and whoever started the
    # server may have ignored more (nohup); exec keeps what is ignored (signal(7)). 32 and 33, which
    # glibc lets nobody set, the spawner has seen to.
    for signo in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signo, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _arrange_descriptors(payload: Payload) -> tuple[int, int | None]:
    # First out of the way of 0 to 2, then into place; what remains above is closed.
    keep = [payload.errors] if payload.procs is None else [payload.errors, payload.procs]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (payload.stdout, payload.stderr)]
    high += [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in keep]
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(high[0], 1)
    os.dup2(high[1], 2)
    kept = [os.dup2(fd, 3 + place, inheritable=False) for place, fd in enumerate(high[2:])]
    os.closerange(3 + len(kept), 1 << 20)
    return kept[0], kept[1] if len(kept) > 1 else None


def _exec(payload: Payload, progress: _Progress) -> NoReturn:
    program = payload.argv[0]
    progress.begin(Step.EXEC, program)
    denied: OSError | None = None
    for candidate in _candidates(program, payload.environment.get("PATH", DEFAULT_PATH)):
        try:
            os.execve(candidate, payload.argv, payload.environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.lexists(candidate) and os.path.isfile(candidate):
                progress.begin(Step.EXEC, candidate)
                raise  # it is there: what is missing is the interpreter that it names
            last = error
        except PermissionError as error:
            progress.begin(Step.EXEC, candidate)
            denied = error
    raise denied or last


def _candidates(program: str, path: str) -> list[str]:
    if "/" in program:
        return [program]
    # An empty entry means the working directory (environ(7)).
    return [os.path.join(entry or ".", program) for entry in path.split(":")]


def _failure(progress: _Progress, error: OSError) -> Failure:
    code = error.errno or errno.EIO
    detail = Detail.NONE
    if progress.step is Step.EXEC:
        if code == errno.EACCES and _is_directory(progress.path):
            detail = Detail.IS_DIRECTORY
        elif code == errno.ENOENT and os.path.isfile(progress.path):
            detail = Detail.NO_INTERPRETER
    return Failure(progress.step, code, progress.path[:1024], detail)


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
