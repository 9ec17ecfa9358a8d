"""The unprivileged server's end of the socket to its monitor."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final

from ..linux import sockets
from .spawner import wait_readable

_ANSWER_S: Final = 20.0


class Privileged:
    """Asks the monitor to start one of the processes that it knows; see worker/monitor.py."""

    def __init__(self, monitor: socket.socket) -> None:
        """Take the socket."""
        self._socket = monitor
        self._socket.setblocking(False)
        self._lock = asyncio.Lock()
        self._seq = 0

    async def start_spawner(self) -> int:
        """Have a spawner started; return a pipe that tells when it serves. Raises OSError."""
        return await self.ask({"op": "spawner"})

    async def ask(self, message: dict[str, object]) -> int:
        """Have what `message` names started; return the pipe that is its stdout.

        Raises OSError, with the monitor's sentence, where it will not; TimeoutError.
        """
        async with self._lock, asyncio.timeout(_ANSWER_S):
            self._seq += 1
            sockets.send_message(self._socket, {**message, "seq": self._seq})
            answer, fds = await self._receive(self._seq)
        if "started" not in answer or len(fds) != 1:
            raise PermissionError(errno.EPERM, str(answer.get("failed")))
        return fds[0]

    async def _receive(self, seq: int) -> tuple[dict[str, object], list[int]]:
        while True:
            await wait_readable(self._socket.fileno())
            received = sockets.receive_message(self._socket)
            if received is None:
                raise ConnectionError(errno.ECONNRESET, "the monitor is gone")
            answer, fds = received
            if answer.get("seq") == seq:
                return answer, fds
            # Of a question whose asker has gone away: it is nobody else's answer.
            for fd in fds:
                os.close(fd)
