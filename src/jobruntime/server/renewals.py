"""The RPC Renew, without the CA's key: a program that is started for each call signs."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.rpc.renewal import MAX_CSR_BYTES
from jobruntime.worker.prepared import Prepared

from .signing import MOST_REQUEST_BYTES, signer_command, spawn_signer

_logger = logging.getLogger(__name__)
_DEADLINE_S: Final = 30.0
_MOST_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MOST_PROOF_BYTES: Final = 4096
_MOST_WAITING: Final = 16
MOST_PER_HOUR: Final = 12
"""How often one user may renew in an hour: each costs a process and a line in the record."""

Launch = Callable[[bytes], Awaitable[bytes]]
"""Runs the signer with these bytes on its stdin and returns its stdout; raises OSError."""


class Renewals:
    """Passes requests to the signer, one at a time."""

    def __init__(self, config: Path, launch: Launch | None = None) -> None:
        """Serve the instance of the jobd.toml `config`; without `launch`, spawn the signer here."""
        self._launch = launch or spawning(config)
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0
        self._done: dict[str, deque[float]] = {}

    async def renew(
        self, user: str, certificate: bytes, csr: bytes, proof: bytes
    ) -> tuple[bytes, bytes]:
        """Return a new certificate for the holder of `certificate`, and the CAs to trust, in PEM.

        Raises JobError.
        """
        if not csr or len(csr) > MAX_CSR_BYTES or not proof or len(proof) > _MOST_PROOF_BYTES:
            raise invalid(
                "cannot renew the certificate: the request lacks CSR or proof, or is too large",
                "use jobc renew",
            )
        self._count(user)
        request = {
            "certificate": certificate.decode("ascii", "replace"),
            "csr": csr.decode("ascii", "replace"),
            "proof": base64.b64encode(proof).decode(),
        }
        self._waiting += 1
        try:
            async with self._turn:
                answer = _parse(await self._launch(json.dumps(request).encode()))
        except (OSError, ValueError) as error:
            _logger.error("the signer did not answer: %s", error)
            raise JobError(
                Reason.INTERNAL,
                "cannot renew the certificate: the program that signs did not answer",
                "the operator finds it in the server's log",
            ) from error
        finally:
            self._waiting -= 1
        return answer

    def _count(self, user: str) -> None:
        now = time.monotonic()
        done = self._done.setdefault(user, deque())
        while done and done[0] < now - 3600:
            done.popleft()
        if len(done) >= MOST_PER_HOUR or self._waiting >= _MOST_WAITING:
            raise JobError(
                Reason.RESOURCE_EXHAUSTED,
                f"cannot renew the certificate: {len(done)} were asked for within the hour, and "
                f"{self._waiting} wait",
                "use the newest one, or try again later",
            )
        done.append(now)


def spawning(config: Path) -> Launch:
    """Return what starts the signer as this server's own user."""
    return lambda request: asyncio.to_thread(_spawn, signer_command(config), request)


def asking(prepared: Prepared) -> Launch:
    """Return what has the monitor start the signer, which alone may read the CA's key."""

    async def launch(request: bytes) -> bytes:
        if len(request) > MOST_REQUEST_BYTES:
            raise ValueError("the request is too large")
        answer = await prepared.ask({"op": "renew", "request": request.decode()})
        # Though the caller may be gone: the thread reads to the end, and closes what it reads.
        give_up_at = time.monotonic() + _DEADLINE_S
        return await asyncio.shield(asyncio.to_thread(_read_and_close, answer, give_up_at))

    return launch


def _read_and_close(fd: int, give_up_at: float) -> bytes:
    try:
        return _read_all(fd, give_up_at)
    finally:
        os.close(fd)


def _spawn(command: list[str], request: bytes) -> bytes:
    pid, answer = spawn_signer(command, request)
    try:
        return _read_all(answer, time.monotonic() + _DEADLINE_S)
    finally:
        os.kill(pid, signal.SIGKILL)  # it has answered, or its time is over; not reaped yet
        os.waitpid(pid, 0)
        os.close(answer)


def _read_all(fd: int, give_up_at: float) -> bytes:
    data = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(data) <= _MOST_ANSWER_BYTES:
        if not poll.poll(max(0.0, give_up_at - time.monotonic()) * 1000):
            raise TimeoutError(f"no answer within {_DEADLINE_S:g} s")
        if not (part := os.read(fd, 65536)):
            return bytes(data)
        data += part
    raise ValueError("its answer has no end")


def _parse(data: bytes) -> tuple[bytes, bytes]:
    answer = json.loads(data)
    error = answer.get("error")
    if error is not None:
        raise JobError(Reason(error["reason"]), error["message"], error["remedy"])
    return answer["certificate"].encode(), answer["ca"].encode()
