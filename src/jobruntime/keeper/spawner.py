"""The spawner: a small single-threaded server that makes one keeper for each job.

Two processes of one program: this one takes requests, checks them and makes ready what a job
needs; the zygote beside it is what keepers are forked from.

It exists because gRPC's threads and fork() do not mix (grpc issues 13998, 22624), and because a
keeper forked from a warm process costs a millisecond and a megabyte instead of a new interpreter.
It holds no state of any job: when it dies the keepers live on, and the next one serves as well.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from .. import __version__
from ..linux import cgroup, sockets
from ..linux.libc import reset_internal_signals, set_no_new_privileges
from ..linux.privileges import clear_ambient_capabilities, forbid_inspection
from ..linux.processes import set_process_name
from ..model.protocol import SPAWNER_SOCKET, Failure, Step, StepError, greeting
from .order import Site, check_reply, checked_job_id, read_order
from .prepare import close_copies, discard, prepare
from .zygote import Zygote, tell, tell_failure

_SOFT_NOFILE: Final = 1024  # what select(2) can bear; a job that wants more raises it (systemd)
_IDLE_MS: Final = 30_000
"""How long a spawner stays when no jobd is connected."""


def main(argv: list[str]) -> int:
    """Serve until told to retire, or until no jobd has been connected for a while."""
    arguments = _parse(argv)
    _settle_in()
    site = Site(
        runtime_dir=arguments.runtime_dir,
        work_dir=arguments.work_dir,
        cgroup_root=arguments.cgroup_root,
        cgroup_files=frozenset(arguments.cgroup_files.split(",")),
        peer_uid=arguments.peer_uid,
        log_reserve_bytes=arguments.log_reserve_bytes,
        uids=range(arguments.uid_first, arguments.uid_first + arguments.uid_count),
        accounts=frozenset(map(_pair, filter(None, arguments.accounts.split(",")))),
        hidden=(*arguments.hide, arguments.runtime_dir, arguments.work_dir),
    )
    lock = os.open(
        f"{site.runtime_dir}/spawner.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
    )
    try:
        # A POSIX lock, which keepers do not inherit: it must end with this process alone.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another one of this instance serves already
    if site.cgroup_root is not None:
        cgroup.join(f"{site.cgroup_root}/supervisor")
    zygote = Zygote(site)
    with sockets.listen(site.runtime_dir, SPAWNER_SOCKET, site.peer_uid) as listener:
        _tell_ready()
        _Spawner(site, listener, zygote, greeting(__version__, argv)).serve()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{site.runtime_dir}/{SPAWNER_SOCKET}")
    return 0


def _settle_in() -> None:
    """Set once what keepers and payloads inherit, so that none of them spends time on it."""
    os.closerange(3, 1 << 20)
    os.chdir("/")
    os.umask(0o077)
    set_process_name("jobd-spawner")
    set_no_new_privileges()
    clear_ambient_capabilities()
    if os.geteuid() == 0:
        os.setgroups([])
        forbid_inspection()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _SOFT_NOFILE if hard == resource.RLIM_INFINITY else min(_SOFT_NOFILE, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # Whoever started the server may have ignored signals (nohup), and exec keeps that.
    for signo in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signo, signal.SIG_DFL)
    reset_internal_signals()
    for signo in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signo, signal.SIG_IGN)
    # Keepers end without anybody waiting for them: the kernel reaps what nobody waits for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _tell_ready() -> None:
    # jobd waits on this pipe; afterwards it must not be held by every keeper.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"ready")
    os.dup2(0, 1)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jobd-spawner", description="started by jobd")
    parser.add_argument("--runtime-dir", required=True)
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--cgroup-root")
    parser.add_argument("--cgroup-files", default="")
    parser.add_argument("--peer-uid", type=int, required=True)
    parser.add_argument("--log-reserve-bytes", type=int, default=0)
    parser.add_argument("--uid-first", type=int, default=0)
    parser.add_argument("--uid-count", type=int, default=0)
    parser.add_argument("--accounts", default="")
    parser.add_argument("--hide", action="append", default=[])
    return parser.parse_args(argv)


def _pair(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    return int(uid), int(gid)


class _Spawner:
    """The loop over the listening socket and the connections of jobd."""

    def __init__(self, site: Site, listener: socket.socket, zygote: Zygote, greeting: str) -> None:
        self._greeting = greeting
        self._site = site
        self._zygote = zygote
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._poll.register(listener.fileno(), select.POLLIN)
        self._retired = False

    def serve(self) -> None:
        """Serve connections; return when retired or idle."""
        while not self._retired:
            ready = self._poll.poll(None if self._clients else _IDLE_MS)
            if not ready and not self._clients:
                return
            for fd, _ in ready:
                if fd == self._listener.fileno():
                    self._accept()
                elif client := self._clients.get(fd):
                    self._serve_one(client)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        # Its own user, too: `jobd stop` as root retires it.
        if sockets.peer_uid(client) not in (self._site.peer_uid, os.geteuid()):
            client.close()
            return
        client.setblocking(False)
        self._clients[client.fileno()] = client
        self._poll.register(client.fileno(), select.POLLIN)
        self._send(client, {"hello": self._greeting, "pid": os.getpid()})

    def _serve_one(self, client: socket.socket) -> None:
        try:
            received = sockets.receive_message(client)
        except BlockingIOError:
            return
        except (ValueError, OSError) as error:
            _complain(f"dropped a connection: {error}")
            received = None
        if received is None:
            self._drop(client)
            return
        message, fds = received
        try:
            self._obey(message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _obey(self, message: dict[str, object], fds: list[int]) -> None:
        match message.get("op"):
            case "retire":
                self._retired = True
            case "start" if len(fds) == 3:
                self._start(message, fds)
            case "sweep" if len(fds) == 1:
                self._fork(self._zygote.sweep, message, fds[0])
            case "remove" if len(fds) == 1:
                self._fork(self._zygote.remove, message, fds[0])
            case "kill" if len(fds) == 1:
                self._kill(message, fds[0])
            case op:
                _complain(f"unknown request {op!r}")

    def _start(self, message: dict[str, object], fds: list[int]) -> None:
        reply, directory, spec = fds
        try:
            check_reply(reply)
            job = prepare(read_order(self._site, message, directory, spec), reply)
        except StepError as error:
            tell_failure(reply, error.failure)
            return
        try:
            self._zygote.start(job)
        except OSError as error:
            discard(job)
            tell_failure(reply, Failure(Step.FORK, error.errno or 0))
        close_copies(job)

    def _kill(self, message: dict[str, object], reply: int) -> None:
        try:
            check_reply(reply)
            path = f"{self._site.cgroup_root}/jobs/{checked_job_id(message.get('id'))}"
            cgroup.kill(path)
            tell(reply, {"killed": True})
        except StepError as error:
            tell_failure(reply, error.failure)
        except OSError as error:
            tell_failure(reply, Failure(Step.CGROUP, error.errno or 0))

    def _fork(
        self, begin: Callable[[str, int], None], message: dict[str, object], reply: int
    ) -> None:
        """Have a process of its own do what may take long for a job."""
        try:
            check_reply(reply)
            begin(checked_job_id(message.get("id")), reply)
        except StepError as error:
            tell_failure(reply, error.failure)
        except OSError as error:
            tell_failure(reply, Failure(Step.FORK, error.errno or 0))

    def _send(self, client: socket.socket, message: dict[str, object]) -> None:
        try:
            sockets.send_message(client, message)
        except OSError:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if self._clients.pop(client.fileno(), None) is not None:
            self._poll.unregister(client.fileno())
            client.close()


def _complain(what: str) -> None:
    with contextlib.suppress(OSError):  # its log may lie on a full disk
        print(f"spawner: {what}", file=sys.stderr, flush=True)
