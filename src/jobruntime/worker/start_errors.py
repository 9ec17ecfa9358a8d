"""What a keeper's failed step means to the caller: a reason, a sentence and a remedy."""

from __future__ import annotations

import errno
import os

from ..model.errors import JobError, Reason
from ..model.protocol import Detail, Failure, Step
from ..model.spec import JobSpec
from ..model.state import signal_name


def start_error(failure: Failure, spec: JobSpec) -> JobError:
    """Return the error that tells `failure` to whoever asked for `spec`."""
    cause = os.strerror(failure.errno)
    match failure.step:
        case Step.EXEC:
            return _exec_error(failure, spec, cause)
        case Step.WORKING_DIRECTORY:
            return JobError(
                Reason.WORKING_DIRECTORY,
                f"cannot start the job in {failure.path}: {cause}",
                "give a directory on the server's host that the job's user may enter",
            )
        case Step.KILLED:
            return JobError(
                Reason.KILLED_BEFORE_EXEC,
                "cannot start the job: it was killed before its program began "
                f"({signal_name(failure.errno)})",
                "if it has a memory limit, raise it",
            )
        case step:
            where = f" ({failure.path})" if failure.path else ""
            return JobError(
                Reason.START_STEP_FAILED,
                f"cannot start the job: the step {step.value!r} failed: {cause}{where}",
                _step_remedy(failure),
            )


def _exec_error(failure: Failure, spec: JobSpec, cause: str) -> JobError:
    program, path = spec.argv[0], failure.path
    if failure.detail is Detail.IS_DIRECTORY:
        return JobError(
            Reason.PROGRAM_IS_DIRECTORY,
            f"cannot execute {path!r}: it is a directory",
            "name a program in it",
        )
    if failure.detail is Detail.NO_INTERPRETER:
        return JobError(
            Reason.PROGRAM_NOT_FOUND,
            f"cannot execute {path!r}: the interpreter or loader that it names does not exist",
            "correct its first line (#!), or install that interpreter",
        )
    match failure.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return _not_found(program)
        case errno.EACCES | errno.EPERM:
            return JobError(
                Reason.PROGRAM_NOT_EXECUTABLE,
                f"cannot execute {path!r}: {cause}",
                "the job's user must be able to reach it and have execute permission (chmod +x)",
            )
        case errno.ENOEXEC:
            return JobError(
                Reason.PROGRAM_BAD_FORMAT,
                f"cannot execute {path!r}: it is no program of this machine and has no #! line",
                "run it through its interpreter, for example: sh FILE",
            )
        case errno.E2BIG:
            return JobError(
                Reason.SPEC_TOO_LARGE,
                "cannot start the job: its arguments and environment are larger than Linux takes",
                "pass large data in a file",
            )
        case _:
            return JobError(Reason.START_STEP_FAILED, f"cannot execute {path!r}: {cause}")


def _not_found(program: str) -> JobError:
    if "/" in program:
        return JobError(
            Reason.PROGRAM_NOT_FOUND,
            f"cannot execute {program!r}: no such file on the server's host",
            "give the path of a program that exists there",
        )
    return JobError(
        Reason.PROGRAM_NOT_FOUND,
        f"cannot execute {program!r}: not found in the job's PATH",
        "give its absolute path, or set PATH in the job's environment",
    )


def _step_remedy(failure: Failure) -> str:
    match failure.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "free disk space on the server's host"
        case errno.EAGAIN | errno.ENOMEM | errno.EMFILE | errno.ENFILE:
            return "the server's host is short of processes, memory or descriptors; try again later"
        case _:
            return (
                "the operator finds more in the spawner's log (spawner.log in the state directory)"
            )
