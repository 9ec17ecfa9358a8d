"""The small privileged parent of a server that has no privileges itself, as OpenSSH's monitor.

It makes and holds what only root can, starts the server as another user, hands signals on to it
and ends with it. Of the server it takes one kind of request: to start a process that it knows, with
arguments that nobody but the configuration decides. It is single-threaded, of the standard library
only, and never touches the network.

    server -> monitor   {"op": ..., "seq": number}, the former an entry of the table of handlers
    monitor -> server   {"started": pid, "seq": the same} with one descriptor, the process's stdout;
                        or {"failed": sentence, "seq": the same}
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from ..linux import sockets
from ..linux.confine import become, closed_ways, open_ways
from ..linux.files import write_all
from ..linux.processes import set_process_name
from ..model.errors import JobError, Reason
from .instance import Instance, remove_unused_places, share_lock
from .launch import start_spawner
from .prepared import hand_over
from .settings import Account

_logger = logging.getLogger("jobd")

Handler = Callable[[dict[str, object]], tuple[int, int]]
"""Starts a process for a request; returns its pid and the end of a pipe that is its stdout.

Nothing in the request may decide what is run, or as whom. Raises OSError, JobError or ValueError,
whose text is what the server is told."""

FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_MOST_HELPERS: Final = 8
_ENVIRONMENT: Final = ("PATH", "LANG", "TZ", "NOTIFY_SOCKET")
_PREFIXES: Final = ("LC_", "PYTHON", "GRPC_", "JOBRUNTIME_")


@dataclass(frozen=True, slots=True)
class Program:
    """The server: its command, to which the number of a descriptor is added, and its needs."""

    command: Sequence[str]
    files: Sequence[str]
    """Files that it reads."""
    places: Sequence[str]
    """Files and directories that it has to get to."""
    words: dict[str, str]
    """What it finds in `Handed.words`."""


class Monitor:
    """Runs one server of an instance that root has opened."""

    def __init__(
        self,
        instance: Instance,
        account: Account,
        handlers: Mapping[str, Handler] | None = None,
        on_hangup: Callable[[], None] = lambda: None,
    ) -> None:
        """Run it as `account`. `handlers` are further requests that it may make.

        `on_hangup` is done before a SIGHUP is handed on.
        """
        self._instance = instance
        self._account = account
        self._handlers = {"spawner": self._start_spawner, **(handlers or {})}
        self._on_hangup = on_hangup
        self._helpers: set[int] = set()
        self._pidfd = -1

    def run(self, program: Program) -> int:
        """Start the server and stay until it has ended; return its exit code, 128 + n for a signal.

        Raises JobError (CONFIG_INVALID) where it can't be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wakeups = _catch_signals()
        share_lock(self._instance.lock)
        with ours:
            with theirs:
                pid = self._start(program, theirs)
            set_process_name("jobd-monitor")
            code = self._stay(pid, ours, wakeups)
        if code < 128:  # it has let go of everything; else its jobs and its spawner go on
            remove_unused_places(self._instance)
        return code

    def _start(self, program: Program, theirs: socket.socket) -> int:
        handed = hand_over(self._instance, theirs, program.words)
        errors, errors_end = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        try:
            pid = os.fork()
            if not pid:
                for fd in (handed, theirs.fileno(), self._instance.lock):
                    os.set_inheritable(fd, True)
                _run_server(program, self._account, handed, errors_end, parent)
        finally:
            os.close(errors_end)
            os.close(handed)
        with open(errors, "rb") as pipe:
            told = pipe.read()
        if told:
            os.waitpid(pid, 0)
            raise JobError(Reason.CONFIG_INVALID, *json.loads(told))
        return pid

    def _stay(self, pid: int, channel: socket.socket, wakeups: int) -> int:
        channel.setblocking(False)
        self._pidfd = os.pidfd_open(pid)
        poll = select.poll()
        for fd in (wakeups, channel.fileno(), self._pidfd):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wakeups:
                    self._take_signals(os.read(wakeups, 256))
                elif fd == self._pidfd:
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    os.close(self._pidfd)
                    if code < 0:
                        _logger.error("the server was ended by signal %d; jobs go on", -code)
                    return code if code >= 0 else 128 - code
                elif not self._serve(channel):
                    poll.unregister(fd)

    def _take_signals(self, signals: bytes) -> None:
        for signo in signals:
            if signo == signal.SIGCHLD:
                for pid in list(self._helpers):
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        self._helpers.discard(pid)
            elif signo in FORWARDED:
                if signo == signal.SIGHUP:
                    self._on_hangup()
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signo)

    def _serve(self, channel: socket.socket) -> bool:
        """Take one request; return whether more may come."""
        try:
            received = sockets.receive_message(channel)
            if received is None:
                return False
            message, fds = received
            for fd in fds:  # no request has any
                os.close(fd)
            self._answer(channel, message)
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            return False
        return True

    def _answer(self, channel: socket.socket, message: dict[str, object]) -> None:
        seq = message.pop("seq", None)
        handler = self._handlers.get(str(message.get("op")))
        try:
            if handler is None:
                raise ValueError("the monitor knows no such request")
            if len(self._helpers) >= _MOST_HELPERS:
                raise ValueError("too many of the monitor's processes have not ended")
            pid, output = handler(message)
        except (OSError, JobError, ValueError) as error:
            sockets.send_message(channel, {"failed": str(error)[:1024], "seq": seq})
            return
        self._helpers.add(pid)
        try:
            sockets.send_message(channel, {"started": pid, "seq": seq}, (output,))
        finally:
            os.close(output)

    def _start_spawner(self, _message: dict[str, object]) -> tuple[int, int]:
        return start_spawner(self._instance)


def _catch_signals() -> int:
    """Have signals written to a pipe; return its readable end."""
    wakeups, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for signo in (*FORWARDED, signal.SIGCHLD):
        signal.signal(signo, _noted)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return wakeups


def _noted(_signo: int, _frame: object) -> None:
    """Nothing is done in the handler itself."""


def _run_server(
    program: Program, account: Account, handed: int, errors: int, parent: int
) -> NoReturn:
    """Become the server, or tell on `errors` why not, and end."""
    try:
        signal.set_wakeup_fd(-1)
        # Until the server has its own handler: nothing is loaded yet that could be read anew.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.setsid()  # a terminal's signals come to the monitor, which hands them on
        _find_ways(program, account)
        become(account.uid, account.gid, parent)
        _check_files(program.files, account)
        os.chdir("/")
        command = [*program.command, str(handed)]
        os.execve(command[0], command, _environment())
    except JobError as error:
        told = [error.message, error.remedy]
    except OSError as error:
        told = [
            f"cannot start the server as uid {account.uid}: {error}",
            "see that this user exists in jobd's user namespace and can run this program",
        ]
    except BaseException as error:  # noqa: BLE001 - the process ends here, and must tell why
        told = [f"cannot start the server: {error!r}", "report this"]
    write_all(errors, json.dumps(told).encode())
    os._exit(127)


def _environment() -> dict[str, str]:
    # Root's own environment is none of the server's business.
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_PREFIXES)
    } | {"HOME": "/"}


def _find_ways(program: Program, account: Account) -> None:
    closed = closed_ways((*program.places, *program.files), account.uid, account.gid)
    try:
        open_ways(closed)
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot let the server, which runs as uid {account.uid}, pass "
            f"{', '.join(sorted(closed))}: {error.strerror}",
            f"run: chmod o+x {' '.join(sorted(closed))}",
        ) from error


def _check_files(files: Sequence[str], account: Account) -> None:
    for path in files:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except FileNotFoundError:
            continue  # the server says which of its files is missing
        except OSError as error:
            raise JobError(
                Reason.CONFIG_INVALID,
                f"cannot let the server, which runs as uid {account.uid}, read {path}: "
                f"{error.strerror}",
                "give the file to that user, or make certificates readable by all (chmod 644)",
            ) from error
