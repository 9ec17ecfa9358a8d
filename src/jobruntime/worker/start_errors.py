"""What a keeper's failed step means to the caller: a reason, a sentence and a remedy."""

from __future__ import annotations

import errno
import os
import signal

from ..model.errors import JobError, Reason
from ..model.limits import UNLIMITED, Limits
from ..model.protocol import Detail, Failure, Step
from ..model.quantities import format_size
from ..model.spec import JobSpec
from ..model.state import State, signal_name


def start_error(failure: Failure, spec: JobSpec, limits: Limits) -> JobError:
    """Return the error that tells `failure` to whoever asked for `spec`."""
    cause = os.strerror(failure.errno)
    memory = limits.memory_bytes
    if memory not in (None, UNLIMITED) and _lacked_memory(failure):
        return JobError(
            Reason.KILLED_BEFORE_EXEC,
            "cannot start the job: its limit of memory, "
            f"{format_size(memory or 0)}, is too small to execute {spec.argv[0]!r}",
            "give a larger --memory",
        )
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
                "if the memory of all jobs together is limited, it may be used up: try again later",
            )
        case Step.LIMIT | Step.DEVICE:
            return limit_error(failure, "start the job")
        case Step.CEILING:
            return _ceiling_error(failure, "run a job with")
        case Step.RLIMITS:
            return JobError(
                Reason.START_STEP_FAILED,
                f"cannot start the job: its resource limit {failure.path} cannot be set: {cause}",
                "the operator must lower it ([jobs.rlimits] of jobd.toml, or the policy), or raise "
                "that of jobd itself",
            )
        case Step.ISOLATION:
            return _isolation_error(failure, cause)
        case step:
            where = f" ({failure.path})" if failure.path else ""
            return JobError(
                Reason.START_STEP_FAILED,
                f"cannot start the job: the step {step.value!r} failed: {cause}{where}",
                _step_remedy(failure),
            )


def _lacked_memory(failure: Failure) -> bool:
    killed = failure.step is Step.KILLED and failure.errno == signal.SIGKILL
    return killed or (failure.step in (Step.EXEC, Step.JOIN) and failure.errno == errno.ENOMEM)


def limit_error(failure: Failure, what: str) -> JobError:
    """Return the error for a limit that could not be set; `what` was to be done."""
    if failure.step is Step.DEVICE:
        return JobError(
            Reason.LIMIT_REFUSED,
            f"cannot {what}: no disk can be named for {failure.path}",
            "name a block device, or a file on one, that the job's user can reach",
        )
    if failure.detail is Detail.NOT_HELD:
        return JobError(
            Reason.LIMIT_REFUSED,
            f"cannot {what}: {failure.path} does not hold on this host",
            "give another value; for --cpuset, CPUs that are online and not kept from jobs",
        )
    return JobError(
        Reason.LIMIT_REFUSED,
        f"cannot {what}: the kernel refuses {failure.path}: {os.strerror(failure.errno)}",
        "give another value, or have the operator run `jobd doctor`",
    )


def _ceiling_error(failure: Failure, what: str) -> JobError:
    remedy = "give that or less; another path on the same disk counts as that disk"
    return JobError(Reason.LIMIT_ABOVE_CEILING, f"cannot {what} {failure.path}", remedy)


def change_error(failure: Failure, what: str) -> JobError:
    """Return the error for a change to a running job that its keeper could not make."""
    match failure.step:
        case Step.STATE:
            state = "has ended" if failure.path == State.TERMINATED else f"is {failure.path}"
            return JobError(Reason.WRONG_STATE, f"cannot {what}: it {state}")
        case Step.FREEZE | Step.CGROUP if failure.errno == errno.EOPNOTSUPP:
            return JobError(
                Reason.LIMIT_NOT_ENFORCEABLE,
                f"cannot {what}: it was started without a cgroup v2 of its own",
                "have the operator run `jobd doctor`, and start the job anew where it finds one",
            )
        case Step.FREEZE:
            return JobError(
                Reason.WRONG_STATE,
                f"cannot {what}: its processes could not be frozen: {os.strerror(failure.errno)}",
                "a process of it may hang in the kernel: try again later",
            )
        case Step.CEILING:
            return _ceiling_error(failure, f"{what} to")
        case _:
            return limit_error(failure, what)


def sweep_error(failure: Failure | None, job_id: str) -> JobError:
    """Return the error for what is left of a job and cannot be ended."""
    what = f"cannot end what is left of job {job_id}"
    if failure is None or failure.errno == errno.ETIMEDOUT:
        return JobError(
            Reason.INTERNAL,
            f"{what}: its processes do not die",
            "the operator should look at the host: a process may hang in the kernel",
        )
    return JobError(
        Reason.INTERNAL,
        f"{what}: its cgroup {failure.path} cannot be removed: {os.strerror(failure.errno)}",
        "the operator should look at it: something else may use it, or have changed its modes",
    )


def _isolation_error(failure: Failure, cause: str) -> JobError:
    what, otherwise = "cannot start the job isolated", "or start it without --isolate"
    if failure.errno == errno.ENOENT and not failure.path:
        return JobError(
            Reason.ISOLATION_UNAVAILABLE,
            f"{what}: bubblewrap (bwrap) is not installed on the server's host",
            f"have the operator install the package bubblewrap, {otherwise}",
        )
    return JobError(
        Reason.ISOLATION_UNAVAILABLE,
        f"{what}: {failure.path or cause}",
        "have the operator run `jobd doctor`: without root it takes user namespaces, and in a "
        f"container the right to mount; {otherwise}",
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
        case errno.EAGAIN:  # execve(2): RLIMIT_NPROC
            return JobError(
                Reason.RESOURCE_EXHAUSTED,
                f"cannot execute {path!r}: the job's user has as many processes as he may have",
                "end other jobs of his, or have the operator raise nproc in [jobs.rlimits]",
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
