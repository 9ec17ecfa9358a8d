"""The keeper of one job: starts it, captures it, stops it, tells its end, and ends with it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from dataclasses import replace
from typing import Final

from ..linux.files import encode_json
from ..linux.libc import become_subreaper
from ..linux.signals import SIGCHLD, set_signal
from ..model.frames import Stream
from ..model.isolation import Isolation
from ..model.limits import Limits
from ..model.log_policy import parse_log_policy
from ..model.protocol import Failure, Step, StepError, encode_failure
from ..model.state import Event, Exited, Outcome, Signaled, State, next_state
from ..model.status import StopRequested
from ..model.usage import Oom, Usage, encode_usage
from .assignment import Assignment
from .capture import Capture
from .course import Course
from .deadlines import NS_PER_MS, Deadlines
from .isolation import View, ViewTracker
from .launch import launch
from .limits import start_io, update_limits
from .oom import AGAIN_NS, OomBlame
from .outcome import OutcomeFile
from .output import Output
from .peers import Peers
from .prepare import discard, release
from .receipt import receipt_of, usage_now
from .segments import Segments
from .tracking import CgroupTracker, SubreaperTracker, Tracker

_AGAIN_NS: Final = 1_000_000_000
_SIGKILLED: Final = Signaled(int(signal.SIGKILL))


def _on_sigchld(_signo: int, _frame: object) -> None:
    """Nothing is done in the handler itself."""


class Keeper:
    """The keeper of one job: a loop over pipes, children, sockets and deadlines.

    What it does before the job runs is as little as can be: see assignment.py for the reason.
    """

    def __init__(self, job: Assignment) -> None:
        """Take the job; the descriptors are this process's own."""
        files = job.files
        self._job = job
        self._leader = 0
        policy = parse_log_policy(list(job.log))
        server_uid = job.peer_uids[0]
        segments = Segments(files.log, files.directory, policy, job.log_reserve_bytes, server_uid)
        self._tracker: Tracker = (
            SubreaperTracker()
            if job.paths.cgroup is None
            else CgroupTracker(job.paths.cgroup, files.events)
        )
        self._wakeups, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._peers = Peers(files.control, files.reply, job.peer_uids, self._poll)
        for fd in (self._wakeups, files.stdout, files.stderr, files.control, files.reply):
            self._poll.register(fd, select.POLLIN)
        self._oom = None
        if files.memory_events >= 0:
            self._oom = OomBlame(files.memory_events)
            self._poll.register(files.memory_events, select.POLLPRI)
        self._course = Course(files.directory, server_uid, self._peers, self._complain)
        self._deadlines = Deadlines()
        pipes = {files.stdout: Stream.STDOUT, files.stderr: Stream.STDERR}
        self._output = Output(pipes, Capture(segments, policy), self._poll, self._deadlines)
        self._killing = False
        self._childless = False
        self._outcome: Outcome | None = None
        self._started_ns = 0
        self._limits: Limits | None = None
        self._view: View | None = None

    def keep(self) -> None:
        """Start the job and stay with it until nothing of it is left.

        Tells jobd whether it started, and then its course. Returns when the outcome is on disk.
        """
        os.setsid()
        if self._job.paths.cgroup is None:
            become_subreaper()
        # A handler that does nothing: the wakeup descriptor makes poll return.
        set_signal(SIGCHLD, _on_sigchld)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        os.set_blocking(self._job.files.reply, False)
        try:
            self._limit_io()
            self._await_view()
            self._leader = launch(self._job, self._tracker, self._view)
        except StepError as error:
            self._end_view()
            discard(self._job)
            self._peers.send(self._job.files.reply, {"failed": encode_failure(error.failure)})
            return
        self._tell_started()
        self._reap()  # the leader may have ended before the loop could be woken
        while not self._is_over():
            for fd, _ in self._poll.poll(self._deadlines.wait_ms()):
                self._serve(fd)
            self._check_deadlines()
        self._record_end()

    def _limit_io(self) -> None:
        # Here and not in the spawner: a path on a dead network file system may hang whoever looks.
        job = self._job
        if job.io and job.paths.cgroup is not None:
            self._limits = start_io(job.paths.cgroup, job.io, job.program)

    def _await_view(self) -> None:
        if self._job.isolation == Isolation.NONE:
            return
        self._view = View(self._job.files.view, Isolation(self._job.isolation))
        if self._job.paths.cgroup is None:
            self._tracker = ViewTracker(self._view)
            self._poll.register(self._view.pidfd, select.POLLIN)

    def _end_view(self) -> None:
        if self._view is not None:
            self._view.close()

    def _serve(self, fd: int) -> None:
        if fd in self._output:
            self._output.take(fd)
        elif fd == self._wakeups:
            self._on_children()
        elif fd == self._job.files.control:
            self._peers.accept({"progress": self._course.record})
        elif fd in self._peers:
            self._on_message(fd)
        elif fd == self._job.files.memory_events:
            self._look_for_oom()
        # else it is cgroup.events or the view's end: the loop sees for itself if the job is over

    def _tell_started(self) -> None:
        # From a record made in the spawner: encoding one here would copy many pages.
        files = self._job.files
        started_at_ns, self._started_ns = time.time_ns(), time.monotonic_ns()
        self._course.begin(started_at_ns, self._limits)
        before, after = self._job.started_record
        record = before + str(started_at_ns).encode() + after
        if self._limits is not None:
            record = encode_json(self._course.record)
        with contextlib.suppress(OSError):
            os.write(files.reply, b'{"started":' + record + b"}")
        with contextlib.suppress(OSError):  # a full disk: it is only needed if this keeper dies
            os.write(files.status, record)
        os.close(files.status)
        timeout_ms = self._job.stopping.timeout_ms
        if timeout_ms is not None:
            self._deadlines.timeout = time.monotonic_ns() + timeout_ms * NS_PER_MS

    # -- the job's processes

    def _on_children(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeups, 4096)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                break
            if not pid:
                break
            if pid == self._leader:
                self._on_leader_end(status)
        if self._killing and not self._childless:
            self._kill_all()

    def _on_leader_end(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self._outcome = Exited(code) if code >= 0 else Signaled(-code)
        if self._outcome != _SIGKILLED:  # whatever was sent: it had ended by itself
            self._course.progress = replace(self._course.progress, killed=False)
        self._look_for_oom()
        if self._oom:
            progress = self._course.progress
            was_killed = self._outcome == _SIGKILLED
            oom = self._oom.judge(progress.oom, was_killed=was_killed, by_keeper=progress.killed)
            self._course.progress = replace(progress, oom=oom)
        if self._job.files.events >= 0:
            self._poll.register(self._job.files.events, select.POLLPRI)
        if not self._is_over():  # it left others behind, and the job ends with its first process
            self._kill()

    def _is_over(self) -> bool:
        return self._outcome is not None and self._tracker.is_empty(childless=self._childless)

    def _look_for_oom(self) -> None:
        if self._oom and (found := self._oom.look(self._course.progress.oom, self._unharmed)):
            self._tell_oom(found)
            if not found.leader and self._unharmed:
                self._deadlines.oom = time.monotonic_ns() + AGAIN_NS

    def _look_for_oom_again(self) -> None:
        if self._oom and (found := self._oom.look_again(self._course.progress.oom, self._unharmed)):
            self._tell_oom(found)

    def _tell_oom(self, found: Oom) -> None:
        self._course.progress = replace(self._course.progress, oom=found)
        self._course.keep()
        self._course.tell("progress")

    @property
    def _unharmed(self) -> int | None:
        # Once the keeper has killed it, its dying tells nothing.
        return self._leader if self._outcome is None and not self._course.progress.killed else None

    def _kill(self) -> None:
        if self._outcome is None:
            self._course.progress = replace(self._course.progress, killed=True)
        self._killing = True
        self._deadlines.timeout = self._deadlines.kill = None
        self._kill_all()

    def _kill_all(self) -> None:
        try:
            self._tracker.kill_all(self._unreaped)
        except OSError as error:  # without root, a job can get at its own group's files
            self._complain(f"it cannot be killed yet: {error}")
            self._deadlines.kill = time.monotonic_ns() + _AGAIN_NS

    @property
    def _unreaped(self) -> int:
        return self._leader if self._outcome is None else 0

    def _check_deadlines(self) -> None:
        now = time.monotonic_ns()
        deadlines = self._deadlines
        if deadlines.timeout is not None and now >= deadlines.timeout:
            deadlines.timeout = None
            self._reap()  # of a job that has ended by itself, a timeout is no cause any more
            if self._outcome is None:
                self._course.progress = replace(self._course.progress, timed_out=True)
                self._begin_stop(self._job.stopping.signo, self._job.stopping.grace_ms)
        if deadlines.kill is not None and now >= deadlines.kill:
            self._reap()
            self._kill()
        if deadlines.room is not None and now >= deadlines.room:
            deadlines.room = None
            self._output.look_for_room()
        if deadlines.oom is not None and now >= deadlines.oom:
            deadlines.oom = None
            self._look_for_oom_again()

    # -- stopping

    def _pause(self) -> None:
        if self._course.progress.state is State.PAUSED:
            return
        self._check_state(State.RUNNING)
        self._tracker.freeze()
        self._course.move(Event.PAUSED)

    def _resume(self) -> None:
        if self._course.progress.state is State.RUNNING and self._outcome is None:
            return
        self._check_state(State.PAUSED)
        self._tracker.thaw()
        self._course.move(Event.RESUMED)

    def _check_state(self, wanted: State) -> None:
        state = State.TERMINATED if self._outcome is not None else self._course.progress.state
        if state is not wanted:
            raise StepError(Failure(Step.STATE, 0, state))

    def _update(self, message: dict[str, object]) -> None:
        group = self._job.paths.cgroup
        if self._outcome is not None:
            raise StepError(Failure(Step.STATE, 0, State.TERMINATED))
        if group is None:
            raise StepError(Failure(Step.CGROUP, errno.EOPNOTSUPP))
        present = self._course.progress.limits
        rates = () if present is None else present.io
        limits = update_limits(group, message, rates, self._job.program)
        self._course.progress = replace(self._course.progress, limits=limits)
        self._course.keep()

    def _stop(self, by: str, signo: int | None, grace_ms: int | None) -> None:
        self._reap()
        if self._outcome is not None or self._killing:
            return  # too late to have any part in the end
        again = self._course.progress.state is State.STOPPING
        chosen = self._job.stopping.signo if signo is None else signo
        grace = self._job.stopping.grace_ms if grace_ms is None else grace_ms
        if self._course.progress.stop_requested is None:
            request = StopRequested(by, time.time_ns(), chosen, grace)
            self._course.progress = replace(self._course.progress, stop_requested=request)
        # A repeated stop is most often a retry: it sends a signal again only where it names one.
        self._begin_stop(None if again and signo is None else chosen, grace)

    def _begin_stop(self, signo: int | None, grace_ms: int) -> None:
        self._course.move(Event.STOP_REQUESTED)
        self._course.tell("progress")
        if grace_ms == 0 or signo == signal.SIGKILL:
            self._kill()
            return
        if signo is not None:
            self._signal(signo)
        moment = time.monotonic_ns() + grace_ms * NS_PER_MS
        kill = self._deadlines.kill
        self._deadlines.kill = moment if kill is None else min(kill, moment)

    def _signal(self, signo: int) -> None:
        try:
            self._tracker.signal_all(signo, self._unreaped)
        except OSError as error:  # it will be killed when its grace is over
            self._complain(f"not all of it has got signal {signo}: {error}")

    # -- the server

    def _on_message(self, peer: int) -> None:
        try:
            message = self._peers.receive(peer)
        except ValueError as error:
            self._complain(f"a message: {error}")
            return
        if message is None:
            return
        if message.get("op") != "stop":
            self._answer(peer, message)
            return
        signo, grace_ms = message.get("signo"), message.get("grace_ms")
        self._stop(
            str(message.get("by", "")),
            signo if isinstance(signo, int) else None,
            grace_ms if isinstance(grace_ms, int) else None,
        )

    def _answer(self, peer: int, message: dict[str, object]) -> None:
        answer: dict[str, object] = {"answer": message.get("seq")}
        try:
            match message.get("op"):
                case "pause":
                    self._pause()
                case "resume":
                    self._resume()
                case "update":
                    self._update(message)
                case "usage":
                    answer["usage"] = encode_usage(self._usage())
                case _:
                    raise StepError(Failure(Step.ORDER, errno.EINVAL))
        except StepError as error:
            self._peers.send(peer, answer | {"failed": encode_failure(error.failure)})
            return
        self._peers.send(peer, answer | {"progress": self._course.record})

    # -- the end

    def _record_end(self) -> None:
        capture = self._output.finish()
        self._look_for_oom()  # it may have hit what the leader left behind
        self._course.progress = replace(
            self._course.progress,
            state=next_state(self._course.progress.state, Event.ENDED),
            outcome=self._outcome,
            ended_at_ns=time.time_ns(),
            log_size=capture.end,
            totals=capture.totals,
            gaps=tuple(capture.gaps.values()),
            usage=self._receipt(),
        )
        outcome = OutcomeFile(self._job.files.directory, self._job.files.outcome)
        outcome.write(encode_json(self._course.record))
        self._end_view()
        try:
            release(self._job)
        except OSError as error:  # the end is told whatever the job has done to its group
            self._complain(f"what it leaves behind: {error}")
        self._course.tell("ended")

    def _usage(self) -> Usage:
        group = self._job.paths.cgroup
        if self._outcome is not None or group is None:
            raise StepError(Failure(Step.STATE, 0, State.TERMINATED))
        return usage_now(group, self._started_ns)

    def _receipt(self) -> Usage | None:
        try:
            return receipt_of(self._job.paths.cgroup, self._started_ns)
        except (OSError, ValueError) as error:
            self._complain(f"its usage: {error}")
            return None

    def _complain(self, what: str) -> None:
        with contextlib.suppress(OSError):  # the spawner's log may lie on the same full disk
            print(f"keeper {self._job.job_id}: {what}", file=sys.stderr, flush=True)
