"""The last steps of a job's first process: from the fork to its exec.

Every page that is touched here is copied first, so this does as little as it can: whatever could
be made ready or set before the fork was (see prepare.py, and `_settle_in` of the spawner).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import stat
from typing import Final, NoReturn

from ..linux.files import encode_json, write_all
from ..linux.libc import set_parent_death_signal
from ..linux.privileges import (
    drop_bounding_set,
    drop_capabilities,
    join_new_session_keyring,
)
from ..linux.signals import SIG_DFL, SIGCHLD, SIGINT, SIGPIPE, SIGXFSZ, set_signal
from ..model.protocol import Detail, Failure, Step, encode_failure
from .assignment import Files, Program
from .isolation import View

_HIGH: Final = 32


class _Course:
    """The step under way and where to tell of it, for the message if it fails."""

    __slots__ = ("errors", "path", "step")

    def __init__(self, errors: int) -> None:
        self.step = "signals"
        self.path = b""
        self.errors = errors


def run_payload(
    program: Program, files: Files, keeper_pid: int, view: View | None = None
) -> NoReturn:
    """Become the job's first process, or tell the failed step on `files.errors_end` and end."""
    course = _Course(files.errors_end)
    try:
        _prepare(program, files, keeper_pid, view, course)
        _exec(program, course)
    except OSError as error:
        failure = _failure(course, error)
    except Exception as error:  # noqa: BLE001 - the process ends here, and must tell why
        with contextlib.suppress(OSError):
            os.write(2, f"payload: {course.step}: {error!r}\n".encode(errors="replace"))
        failure = Failure(Step(course.step), errno.EINVAL, os.fsdecode(course.path))
    try:
        write_all(course.errors, encode_json(encode_failure(failure)))
    finally:
        os._exit(127)


def _prepare(
    program: Program, files: Files, keeper_pid: int, view: View | None, course: _Course
) -> None:
    # Python ignores PIPE and XFSZ, the spawner INT, the keeper catches CHLD, and exec keeps what
    # is ignored (signal(7)); all others the spawner has set to their default.
    for signo in (SIGPIPE, SIGXFSZ, SIGINT, SIGCHLD):
        set_signal(signo, SIG_DFL)
    course.step = "session"
    os.setsid()
    course.step = "isolation"
    if view is not None:
        view.enter()
    course.step = "stdio"
    procs = _arrange_descriptors(files, course)
    course.step = "rlimits"
    for name, which, soft, hard in program.rlimits:
        course.path = name.encode()
        resource.setrlimit(which, (soft, hard))
    course.path = b""
    if program.uid is not None and program.gid is not None:
        _become(program.uid, program.gid, course)
    course.step = "privileges"
    if procs is None and view is None:
        # Without a group nobody could find this process again once its keeper is gone. After the
        # change of user, which clears the setting; the check closes the race with its death.
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != keeper_pid:
            os._exit(127)
    course.step = "isolation"
    if view is not None:
        view.confine()
    course.step = "working_directory"
    course.path = program.working_directory
    os.chdir(program.working_directory)
    course.step = "join"
    if procs is not None:
        # Last before exec: pages dirtied after this are charged to the job's memory.max.
        os.write(procs, b"0")


def _become(uid: int, gid: int, course: _Course) -> None:
    # Whatever is the user: also root, where the operator allows it, has no capability. The spawner
    # has emptied the ambient set and the list of groups, and forbidden new privileges.
    course.step = "privileges"
    join_new_session_keyring()  # counted for root: an owner's jobs may be more than his 200 keys
    drop_bounding_set()
    course.step = "user"
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    course.step = "privileges"
    drop_capabilities()


def _arrange_descriptors(files: Files, course: _Course) -> int | None:
    # First out of the way of 0 to 4, then into place; the rest is closed. dup2 with
    # inheritable=False sets close-on-exec, so that success closes the error pipe.
    kept = [files.stdout_end, files.stderr_end, files.errors_end]
    if files.procs >= 0:
        kept.append(files.procs)
    high = [os.dup2(fd, _HIGH + place, False) for place, fd in enumerate(kept)]
    course.errors = high[2]
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(high[0], 1)
    os.dup2(high[1], 2)
    os.dup2(high[2], 3, False)
    course.errors = 3
    procs = None
    if files.procs >= 0:
        procs = os.dup2(high[3], 4, False)
    os.closerange(4 if procs is None else 5, 1 << 20)
    return procs


def _exec(program: Program, course: _Course) -> NoReturn:
    course.step = "exec"
    course.path = program.argv[0]
    denied: OSError | None = None
    for candidate in program.candidates:
        try:
            os.execve(candidate, program.argv, program.environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.isfile(candidate):
                course.path = candidate
                raise  # it is there: what is missing is the interpreter that it names
            last = error
        except PermissionError as error:
            course.path = candidate
            denied = error
    raise denied or last


def _failure(course: _Course, error: OSError) -> Failure:
    code = error.errno or errno.EIO
    detail = Detail.NONE
    step = Step(course.step)
    if step is Step.EXEC:
        if code == errno.EACCES and _is_directory(course.path):
            detail = Detail.IS_DIRECTORY
        elif code == errno.ENOENT and os.path.isfile(course.path):
            detail = Detail.NO_INTERPRETER
    return Failure(step, code, os.fsdecode(course.path[:1024]), detail)


def _is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
