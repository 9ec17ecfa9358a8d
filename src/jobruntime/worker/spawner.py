"""jobd's side of the spawner: found, started, replaced, asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from .. import __version__
from ..linux import sockets
from ..model.errors import JobError, Reason
from ..model.protocol import SPAWNER_SOCKET, greeting
from .instance import Instance
from .launch import spawner_arguments, start_spawner

_READY_S: Final = 20.0
_ATTEMPTS: Final = 3


class Spawner:
    """The connection to this instance's spawner; makes one whenever there is none."""

    def __init__(
        self, instance: Instance, start: Callable[[], Awaitable[int]] | None = None
    ) -> None:
        """`start` starts one as `start_spawner` does, where this process must not do it itself."""
        self._instance = instance
        self._start = start or self._start_own
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._pid = 0
        self._greeting = greeting(__version__, spawner_arguments(instance))

    async def ensure(self) -> None:
        """Connect to the spawner, starting or replacing it where needed.

        Raises JobError (SPAWNER_UNAVAILABLE) where it can't be had.
        """
        async with self._lock:
            if self._socket is not None and _is_alive(self._socket):
                return
            self._disconnect()
            cause = "it does not answer"
            for _ in range(_ATTEMPTS):
                try:
                    self._socket = await self._connect()
                    return
                except (OSError, ValueError) as error:
                    cause = str(error) or cause
                try:
                    await self._launch()
                except (OSError, TimeoutError) as error:
                    cause = str(error) or cause
            raise JobError(
                Reason.SPAWNER_UNAVAILABLE,
                f"cannot start jobs: the spawner can't be had: {cause}",
                f"try again; the operator finds more in {self._instance.state_dir}/spawner.log",
            )

    async def send(self, message: dict[str, object], fds: tuple[int, ...]) -> None:
        """Send a request with its descriptors.

        Raises JobError (SPAWNER_UNAVAILABLE); a request that was not sent has had no effect.
        """
        for _ in range(_ATTEMPTS):
            await self.ensure()
            async with self._sending:
                if self._socket is None:
                    continue
                try:
                    await _send_when_ready(self._socket, message, fds)
                    return
                except OSError:
                    self._disconnect()  # it died between the two; a new one takes the request
        raise JobError(
            Reason.SPAWNER_UNAVAILABLE, "cannot start jobs: the spawner keeps dying", "try again"
        )

    async def retire(self) -> None:
        """Have the spawner end, if there is one; keepers go on."""
        async with self._lock:
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                if self._socket is None:
                    self._socket = await self._connect()
                await _retire(self._socket, self._pid)
            self._disconnect()

    def close(self) -> None:
        """Drop the connection; the spawner stays for the next server, or ends by itself."""
        self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _connect(self) -> socket.socket:
        sock = sockets.connect(self._instance.runtime_dir, SPAWNER_SOCKET)
        try:
            sock.setblocking(False)
            await asyncio.wait_for(wait_readable(sock.fileno()), _READY_S)
            received = sockets.receive_message(sock)
            if received is None:
                raise ConnectionError("the spawner closed the connection")
            self._pid = int(str(received[0].get("pid", 0)))
            if received[0].get("hello") != self._greeting:
                await _retire(sock, self._pid)
                raise ConnectionError("the spawner was of another version")
        except BaseException:
            sock.close()
            raise
        return sock

    async def _launch(self) -> None:
        ready = await self._start()
        try:
            await asyncio.wait_for(wait_readable(ready), _READY_S)
            if not os.read(ready, 16):
                raise ConnectionError("it ended at its start")
        finally:
            os.close(ready)

    async def _start_own(self) -> int:
        pid, ready = start_spawner(self._instance)  # returns once the child runs, in 1 ms
        _reap_when_done(pid)
        return ready


def _reap_when_done(pid: int) -> None:
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    loop.add_reader(pidfd, reap)


def _is_alive(sock: socket.socket) -> bool:
    # The spawner says nothing after its greeting, so anything readable is its end.
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def _send_when_ready(
    sock: socket.socket, message: dict[str, object], fds: tuple[int, ...]
) -> None:
    while True:
        try:
            sockets.send_message(sock, message, fds)
            return
        except BlockingIOError:
            await _wait_writable(sock.fileno())


async def _retire(sock: socket.socket, pid: int) -> None:
    """Tell the spawner to end and wait until its process has."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Sent after the descriptor was taken: while it answers, the pid is its own.
        sockets.send_message(sock, {"op": "retire"})
        await asyncio.wait_for(wait_readable(pidfd), _READY_S)
    finally:
        os.close(pidfd)


async def wait_readable(fd: int) -> None:
    """Return once `fd` has something to read, or its end; nobody else may wait for it meanwhile."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, done)
    try:
        await done
    finally:
        loop.remove_reader(fd)


async def _wait_writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _resolve, done)
    try:
        await done
    finally:
        loop.remove_writer(fd)


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
