"""The keeper of one job: starts it, captures it, stops it, tells its end, and ends with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time

# The plain function of the C module: signal.signal makes enums, whose pages would be copied.
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ..linux.files import encode_json, parse_json, replace_json, write_all
from ..linux.libc import become_subreaper
from ..linux.processes import has_execed
from ..linux.signals import SIGCHLD, set_signal
from ..linux.sockets import peer_uid, receive_message, send_message
from ..model.protocol import (
    STATUS_FILE,
    Failure,
    Step,
    StepError,
    encode_failure,
    parse_failure,
)
from ..model.record import Progress, encode_progress
from ..model.state import Event, Exited, Outcome, Signaled, State, next_state
from ..model.status import StopRequested
from .payload import run_payload
from .prepare import Prepared

_NS_PER_MS: Final = 1_000_000


def keep(prepared: Prepared, jobd: socket.socket) -> None:
    """Start the prepared job and stay with it until nothing of it is left.

    Tells `jobd` whether it started, and then its course. Returns when the outcome is on disk.
    """
    os.setsid()
    if prepared.tracker.procs is None:
        become_subreaper()
    wakeups = _watch_children()
    try:
        leader = _launch(prepared)
    except StepError as error:
        prepared.discard()
        with contextlib.suppress(OSError):  # nobody listens any more, and nothing is left
            send_message(jobd, {"failed": encode_failure(error.failure)})
        return
    _Keeper(prepared, leader, jobd, wakeups).run()


def _watch_children() -> int:
    # A handler that does nothing: the wakeup descriptor makes poll return (signal.set_wakeup_fd).
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    set_signal(SIGCHLD, lambda _signo, _frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _launch(prepared: Prepared) -> int:
    """Fork the payload and return its pid once it has exec'd; raises StepError if it has not."""
    payload = prepared.payload
    keeper_pid = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        raise StepError(Failure(Step.FORK, error.errno or 0)) from error
    if not pid:
        run_payload(payload, keeper_pid)
    os.close(payload.stdout)
    os.close(payload.stderr)
    os.close(payload.errors)
    report = os.read(prepared.errors, 4096)
    os.close(prepared.errors)
    # End of file alone is no proof: the child may have been killed between joining its group and
    # exec, by a tiny memory.max for one. The kernel's own mark tells; the pid is not reaped yet.
    if not report and has_execed(pid):
        return pid
    prepared.tracker.kill_all()
    _, status = os.waitpid(pid, 0)
    if report:
        raise StepError(parse_failure(parse_json(report)))
    signo = os.WTERMSIG(status) if os.WIFSIGNALED(status) else int(signal.SIGKILL)
    raise StepError(Failure(Step.KILLED, signo))


@dataclass(slots=True)
class _Deadlines:
    """Moments on the monotonic clock, in ns, at which the keeper acts; None: not set."""

    timeout: int | None = None
    kill: int | None = None

    def wait_ms(self) -> int | None:
        moments = [moment for moment in (self.timeout, self.kill) if moment is not None]
        if not moments:
            return None
        left = min(moments) - time.monotonic_ns()
        return max(0, -(-left // _NS_PER_MS))  # rounded up: never early, never a busy loop


class _Keeper:
    """The keeper once its job runs: a loop over pipes, children, sockets and deadlines."""

    def __init__(self, prepared: Prepared, leader: int, jobd: socket.socket, wakeups: int) -> None:
        self._prepared = prepared
        self._order = prepared.order
        self._spec = prepared.order.spec
        self._leader = leader
        self._tracker = prepared.tracker
        self._capture = prepared.capture
        self._pipes = dict(prepared.pipes)
        self._wakeups = wakeups
        self._peers: dict[int, socket.socket] = {}
        self._handlers: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()
        self._deadlines = _Deadlines()
        self._killing = False
        self._childless = False
        self._outcome: Outcome | None = None
        self._progress = Progress(State.RUNNING, started_at_ns=time.time_ns())
        if self._spec.timeout_ms is not None:
            self._deadlines.timeout = time.monotonic_ns() + self._spec.timeout_ms * _NS_PER_MS
        self._jobd = jobd

    def run(self) -> None:
        """Tell that the job runs, serve it to its end, and record the end."""
        self._tell_started()
        self._register(self._wakeups, self._on_children)
        for pipe in self._pipes:
            self._register(pipe, lambda pipe=pipe: self._on_output(pipe))  # type: ignore[misc]
        self._register(self._prepared.control.fileno(), self._on_connection)
        self._add_peer(self._jobd)
        self._reap()  # a child may have ended before its signal could be seen
        while not self._is_over():
            for fd, _ in self._poll.poll(self._deadlines.wait_ms()):
                if handler := self._handlers.get(fd):
                    handler()
            self._check_deadlines()
        self._record_end()

    def _tell_started(self) -> None:
        # From a record made before the fork: encoding one here would copy many pages.
        before, after = self._prepared.started_record
        record = before + str(self._progress.started_at_ns).encode() + after
        with contextlib.suppress(OSError):
            self._jobd.send(b'{"started":' + record + b"}", socket.MSG_NOSIGNAL)
        with contextlib.suppress(OSError):  # a full disk: it is only needed if this keeper dies
            write_all(self._prepared.status, record)
        os.close(self._prepared.status)

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
            self._tracker.kill_all()

    def _on_leader_end(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self._outcome = Exited(code) if code >= 0 else Signaled(-code)
        if self._tracker.events is not None:
            self._register(self._tracker.events, lambda: None, select.POLLPRI)
        self._kill()

    def _is_over(self) -> bool:
        return self._outcome is not None and self._tracker.is_empty(childless=self._childless)

    def _kill(self) -> None:
        self._killing = True
        self._deadlines = _Deadlines()
        self._tracker.kill_all()

    def _check_deadlines(self) -> None:
        now = time.monotonic_ns()
        deadlines = self._deadlines
        if deadlines.timeout is not None and now >= deadlines.timeout:
            deadlines.timeout = None
            self._progress = replace(self._progress, timed_out=True)
            self._begin_stop(self._spec.stop_signal, self._spec.grace_ms)
        if deadlines.kill is not None and now >= deadlines.kill:
            self._kill()

    # -- stopping

    def _stop(self, by: str, signo: int | None, grace_ms: int | None) -> None:
        if self._outcome is not None or self._killing:
            return  # too late to have any part in the end
        if self._progress.stop_requested is None:
            request = StopRequested(
                by,
                time.time_ns(),
                self._spec.stop_signal if signo is None else signo,
                self._spec.grace_ms if grace_ms is None else grace_ms,
            )
            self._progress = replace(self._progress, stop_requested=request)
        again = self._progress.state is State.STOPPING
        chosen = self._spec.stop_signal if signo is None else signo
        # A repeated stop is most often a retry: it sends a signal again only where it names one.
        self._begin_stop(
            None if again and signo is None else chosen,
            self._spec.grace_ms if grace_ms is None else grace_ms,
        )

    def _begin_stop(self, signo: int | None, grace_ms: int) -> None:
        state = next_state(self._progress.state, Event.STOP_REQUESTED)
        self._progress = replace(self._progress, state=state)
        self._write_status()
        self._publish("progress")
        if grace_ms == 0 or signo == signal.SIGKILL:
            self._kill()
            return
        if signo is not None:
            self._tracker.signal_all(signo)
        moment = time.monotonic_ns() + grace_ms * _NS_PER_MS
        kill = self._deadlines.kill
        self._deadlines.kill = moment if kill is None else min(kill, moment)

    # -- output

    def _on_output(self, pipe: int) -> None:
        if not self._capture.read_once(self._pipes[pipe], pipe):
            self._forget(pipe)
            del self._pipes[pipe]
            os.close(pipe)

    # -- the server

    def _on_connection(self) -> None:
        try:
            peer, _ = self._prepared.control.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if peer_uid(peer) in self._order.peer_uids:
            self._add_peer(peer)
            self._send(peer, "progress")
        else:
            peer.close()

    def _add_peer(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peers[peer.fileno()] = peer
        self._register(peer.fileno(), lambda: self._on_message(peer))

    def _on_message(self, peer: socket.socket) -> None:
        try:
            received = receive_message(peer)
        except BlockingIOError:
            return
        except ValueError as error:
            print(f"keeper {self._order.job_id}: {error}", file=sys.stderr, flush=True)
            received = None
        if received is None:
            self._drop(peer)
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        if message.get("op") == "stop":
            signo, grace_ms = message.get("signo"), message.get("grace_ms")
            self._stop(
                str(message.get("by", "")),
                signo if isinstance(signo, int) else None,
                grace_ms if isinstance(grace_ms, int) else None,
            )

    def _publish(self, word: str) -> None:
        for peer in list(self._peers.values()):
            self._send(peer, word)

    def _send(self, peer: socket.socket, word: str) -> None:
        try:
            send_message(peer, {word: encode_progress(self._progress)})
        except OSError:  # gone, or it does not read: it will connect again and be told the present
            self._drop(peer)

    def _drop(self, peer: socket.socket) -> None:
        if self._peers.pop(peer.fileno(), None) is not None:
            self._forget(peer.fileno())
            peer.close()

    # -- the loop's bookkeeping

    def _register(self, fd: int, handler: Callable[[], None], events: int = select.POLLIN) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def _forget(self, fd: int) -> None:
        del self._handlers[fd]
        self._poll.unregister(fd)

    # -- records

    def _write_status(self) -> None:
        try:
            self._replace_status()
        except OSError as error:  # a full disk must not end the job; jobd is told over the socket
            print(f"keeper {self._order.job_id}: status: {error}", file=sys.stderr, flush=True)

    def _replace_status(self) -> None:
        record = encode_progress(self._progress)
        replace_json(STATUS_FILE, record, self._order.directory, sync=False)

    def _record_end(self) -> None:
        self._capture.drain(self._pipes)
        self._capture.finish()
        self._progress = replace(
            self._progress,
            state=next_state(self._progress.state, Event.ENDED),
            outcome=self._outcome,
            ended_at_ns=time.time_ns(),
            log_size=self._capture.size,
            totals=self._capture.totals,
            gaps=tuple(self._capture.gaps.values()),
        )
        self._prepared.outcome.write(encode_json(encode_progress(self._progress)))
        self._prepared.release()
        self._publish("ended")
