"""A job that has not ended, as the server sees it: its keeper's messages, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from ..linux import sockets
from ..model.errors import JobError, Reason
from ..model.protocol import Failure, Step, parse_failure
from ..model.record import Progress, parse_progress
from ..model.state import State
from ..model.status import JobStatus
from .store import JobRecord, status_of


class ChangeFailedError(Exception):
    """The keeper could not make a change to its job; carries the failed step."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class LiveJob:
    """Follows one keeper over its socket. The files decide; this only tells sooner."""

    def __init__(
        self, record: JobRecord, progress: Progress | None, on_silence: Callable[[LiveJob], None]
    ) -> None:
        """`on_silence` is called once when the keeper's connection ends without the job's end."""
        self.record = record
        self.progress = progress
        self.ended: asyncio.Future[Progress] = asyncio.get_running_loop().create_future()
        self.retired = asyncio.Event()
        """Set once the catalogue knows of its end, and the files alone tell of it."""
        self._on_silence = on_silence
        self._socket: socket.socket | None = None
        self._attached = asyncio.Event()
        self._asked = 0
        self.changing = asyncio.Lock()
        """Held by whoever changes its limits."""
        self._answers: dict[int, asyncio.Future[dict[str, object]]] = {}

    @property
    def status(self) -> JobStatus:
        """What is known of the job now."""
        return status_of(self.record, self.progress)

    def attach(self, sock: socket.socket) -> None:
        """Follow the keeper at the other end of `sock`."""
        self.detach()
        sock.setblocking(False)
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._on_message)
        self._attached.set()

    def detach(self) -> None:
        """Stop following; the job goes on."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._attached.clear()

    async def is_reachable(self, timeout_s: float) -> bool:
        """Return whether the keeper can be spoken to, waiting while that is being found out.

        False where the job has ended, or nothing was found out in time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._attached.wait()
        return not self.ended.done()

    async def ends_within(self, timeout_s: float) -> bool:
        """Return whether the job has ended, waiting so long for it."""
        await asyncio.wait({self.ended}, timeout=timeout_s)
        return self.ended.done()

    async def check_ended(self, what: str) -> None:
        """Return once nothing is left to be done for the job, which has ended.

        Raises JobError (WRONG_STATE) where it has not.
        """
        if not self.ended.done():
            raise JobError(
                Reason.WRONG_STATE,
                f"cannot {what}: it has not ended",
                "stop it first, or have `jobc rm --force` do both",
            )
        await self.retired.wait()

    def finish(self, progress: Progress) -> None:
        """Take the job's end, from its keeper or from the files."""
        self.detach()
        self.progress = progress
        self._attached.set()  # nobody needs to wait for its keeper any more
        if not self.ended.done():
            self.ended.set_result(progress)

    async def request_stop(
        self, by: str, signo: int | None, grace_ms: int | None, timeout_s: float
    ) -> None:
        """Ask the keeper to stop the job, or find that it has ended.

        Raises JobError (KEEPER_UNREACHABLE) where neither is so in time.
        """
        message: dict[str, object] = {"op": "stop", "by": by, "signo": signo, "grace_ms": grace_ms}
        await self._sent(message, timeout_s)

    async def _sent(self, message: dict[str, object], timeout_s: float) -> bool:
        """Send `message`; return whether it was, or the job has ended instead."""
        try:
            self._send(message, str(message["op"]))
        except JobError:
            # Its keeper may just have told the end, and be gone.
            if not await self.ends_within(timeout_s):
                raise
            return False
        return True

    def _send(self, message: dict[str, object], op: str) -> None:
        try:
            if self._socket is None:
                raise ConnectionError("not connected")
            sockets.send_message(self._socket, message)
        except OSError as error:
            raise self._silent(op, str(error)) from error

    def _silent(self, op: str, cause: str) -> JobError:
        return JobError(
            Reason.KEEPER_UNREACHABLE,
            f"cannot {op} job {self.record.job_id}: its keeper does not answer: {cause}",
            "try again in a moment",
        )

    def _unknown(self, op: str, timeout_s: float) -> JobError:
        return JobError(
            Reason.KEEPER_UNREACHABLE,
            f"cannot tell whether the {op} of job {self.record.job_id} takes effect: its keeper "
            f"says nothing for {timeout_s:g} s, and may still do it",
            "look at the job's status in a moment; to repeat the call does no harm",
        )

    async def ask(self, message: dict[str, object], timeout_s: float) -> dict[str, object]:
        """Have the keeper do `message`; when this returns, it has, and `status` tells it.

        Returns the keeper's answer.

        Raises JobError (KEEPER_UNREACHABLE), or ChangeFailedError where the keeper could not.
        """
        self._asked = seq = self._asked + 1
        answer: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._answers[seq] = answer
        try:
            if not await self._sent(message | {"seq": seq}, timeout_s):
                raise _it_has_ended()
            both: set[asyncio.Future[Any]] = {answer, self.ended}
            await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._answers[seq]
        if answer.done():
            if isinstance(failed := answer.result().get("failed"), dict):
                raise ChangeFailedError(parse_failure(failed))
            return answer.result()
        if not self.ended.done():
            if message["op"] == "usage":
                raise self._silent("usage", f"it says nothing for {timeout_s:g} s")
            raise self._unknown(str(message["op"]), timeout_s)
        raise _it_has_ended()

    def _on_message(self) -> None:
        if self._socket is None:
            return
        try:
            received = sockets.receive_message(self._socket)
            if received is not None:
                self._take(received[0])
                return
        except BlockingIOError:
            return
        except (OSError, ValueError):
            pass  # a message that is none of ours is as good as silence: the files decide
        self.detach()
        self._on_silence(self)

    def _take(self, message: dict[str, object]) -> None:
        seq = message.get("answer")
        for word, value in message.items():
            if not isinstance(value, dict):
                continue
            if word == "ended":
                self.finish(parse_progress(value))
            elif word in ("started", "progress"):
                self.progress = parse_progress(value)
        answer = self._answers.get(seq) if isinstance(seq, int) else None
        if answer is not None and not answer.done():
            answer.set_result(message)


def _it_has_ended() -> ChangeFailedError:
    return ChangeFailedError(Failure(Step.STATE, 0, State.TERMINATED))
