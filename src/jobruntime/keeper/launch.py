"""The start of a job's first process, as its keeper sees it."""

from __future__ import annotations

import os
import signal

from ..linux.files import parse_json
from ..linux.processes import has_execed
from ..model.protocol import Failure, Step, StepError, parse_failure
from .assignment import Assignment
from .isolation import View
from .payload import run_payload
from .tracking import Tracker


def launch(job: Assignment, tracker: Tracker, view: View | None) -> int:
    """Fork the payload and return its pid once it has exec'd; raises StepError if it has not."""
    files = job.files
    keeper_pid = os.getpid()
    try:
        pid = os.fork() if view is None else view.fork()
    except OSError as error:
        step = Step.FORK if view is None else Step.ISOLATION
        raise StepError(Failure(step, error.errno or 0)) from error
    if not pid:
        run_payload(job.program, files, keeper_pid, view)
    for fd in (files.stdout_end, files.stderr_end, files.errors_end):
        os.close(fd)
    report = os.read(files.errors, 4096)
    os.close(files.errors)
    # End of file alone is no proof: the child may have been killed between joining its group and
    # exec, by a tiny memory.max for one. The kernel's own mark tells; the pid is not reaped yet.
    if not report and has_execed(pid):
        return pid
    tracker.kill_all(pid)
    _, status = os.waitpid(pid, 0)
    if report:
        raise StepError(parse_failure(parse_json(report)))
    signo = os.WTERMSIG(status) if os.WIFSIGNALED(status) else int(signal.SIGKILL)
    raise StepError(Failure(Step.KILLED, signo))
