"""What is written of each call: by whom, for what, how it was decided, and how it ended.

A handler has nothing to do for it; what it alone knows it can `note`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from types import TracebackType
from typing import Final, Self, cast
from urllib.parse import unquote

from cryptography import x509
from google.protobuf.message import Message

from jobruntime.model.access import ABOUT_ONESELF, Principal, Verb
from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.errors import CODES
from jobruntime.worker.lookup import found_job

from .audit import AuditLog
from .audit_requests import MAX_TEXT_CHARS, details_of, is_long

_logger = logging.getLogger(__name__)

_READING: Final = frozenset({Verb.STATUS, Verb.LOGS, Verb.STATS}) | ABOUT_ONESELF
"""These change nothing, and are answered also where no line can be written."""
_ROOM_BYTES: Final = 8 * 1024
_ROOM_OF_PRUNE_BYTES: Final = 64 * 1024
_REFUSALS: Final = (Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED)

_call: ContextVar[AuditedCall | None] = ContextVar("audited_call", default=None)


def note_caller(principal: Principal) -> None:
    """Tell who makes the call that is being handled."""
    if call := _call.get():
        call.principal = principal


def note_rule(rule: str) -> None:
    """Tell that the call that is being handled is allowed, and by which rule."""
    if call := _call.get():
        call.rule, call.is_allowed = rule, True


def note_request(request: object) -> None:
    """Tell what the call that is being handled asks for.

    Raises JobError (AUDIT_UNAVAILABLE) where it would change something and cannot be written.
    """
    call = _call.get()
    if call and isinstance(request, Message):
        call.take_request(request)


def note(**fields: object) -> None:
    """Add what only the handler knows to the line of the call that is being handled."""
    if call := _call.get():
        call.details.update(fields)


class UnknownMethodError(Exception):
    """The call is of a method that there is not."""


class AuditedCall:
    """One call, from its first byte to its answer; used as a context around its handling."""

    def __init__(
        self, log: AuditLog, method: str, verb: Verb | None, peer: str, auth: Mapping[str, object]
    ) -> None:
        """`peer` and `auth` are as gRPC tells them."""
        self._log = log
        self._about: dict[str, object] = {
            "method": method.rpartition("/")[2][:MAX_TEXT_CHARS],
            "verb": verb,
        }
        self._verb = verb
        self._peer = unquote(peer)
        self._auth = auth
        self._begun_ns = time.monotonic_ns()
        self._room_bytes = 0
        self._is_long = self._has_ended = False
        self._begin: int | None = None
        self.principal: Principal | None = None
        self.rule = ""
        self.is_allowed = False
        self.details: dict[str, object] = {}

    async def __aenter__(self) -> Self:
        """Begin; what is noted from now on is of this call."""
        _call.set(self)
        found_job.set(self.take_job)
        self._log.at_close.add(self._end_by_stop)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write the line, before the answer leaves."""
        self.end(error)
        await self._log.settle()

    def take_request(self, request: Message) -> None:
        """Take what was asked for; the errors of `note_request`."""
        self.details = details_of(request, self._log.argv)
        self._is_long = is_long(request)
        if self._verb not in _READING:
            room = _ROOM_OF_PRUNE_BYTES if self._verb is Verb.PRUNE else _ROOM_BYTES
            room += len(json.dumps(self.details))
            self._log.reserve(room)
            self._room_bytes = room

    def take_job(self, job_id: str) -> None:
        """Take the id of the job that the call turned out to be about."""
        if self._has_ended:
            if self.details.get("job_id") != job_id:  # its caller has not waited for it
                self._log.write({"event": "late", "call": self._begin, "job_id": job_id})
            return
        self.details["job_id"] = job_id
        if self._is_long and self._begin is None:
            self._begin = self._log.write(self._line("begin"))

    def end(self, error: BaseException | None) -> None:
        """Write how it ended; once."""
        if self._has_ended:
            return
        self._has_ended = True
        self._log.at_close.discard(self._end_by_stop)
        code, reason = _outcome(error)
        if reason in _REFUSALS:
            self.is_allowed = False
        fields = self._line("call" if self._begin is None else "end")
        fields |= {"code": code, "reason": reason}
        if reason in _REFUSALS:
            fields["cause"] = str(error)[:MAX_TEXT_CHARS]
        fields["duration_us"] = (time.monotonic_ns() - self._begun_ns) // 1000
        if self._begin is not None:
            fields["call"] = self._begin
        is_reserved = self._room_bytes > 0
        self._log.release(self._room_bytes)
        seq = self._log.write(fields, is_reserved=is_reserved)
        self._begin = seq if self._begin is None else self._begin

    def _end_by_stop(self) -> None:
        self.end(asyncio.CancelledError())

    def _line(self, event: str) -> dict[str, object]:
        return {
            "event": event,
            **self._caller(),
            "from": self._peer[:MAX_TEXT_CHARS],
            **self._about,
            "decision": "allowed" if self.is_allowed else "denied",
            "rule": self.rule or None,
            **self.details,
        }

    def _caller(self) -> dict[str, object]:
        if self.principal is not None:
            who = self.principal
            return {"who": who.name, "roles": sorted(who.roles), "serial": who.serial}
        pems = cast("Sequence[bytes]", self._auth.get("x509_pem_cert", ()))
        serial, subject = _claim(pems[0]) if len(pems) == 1 else (None, None)
        return {"who": None, "roles": [], "serial": serial, "subject": subject}


def _outcome(error: BaseException | None) -> tuple[str, str | None]:
    match error:
        case None:
            return "OK", None
        case JobError():
            return CODES[error.reason].name, error.reason
        case asyncio.CancelledError() | GeneratorExit():
            return "CANCELLED", None
        case UnknownMethodError():
            return "UNIMPLEMENTED", None
        case _:
            return "INTERNAL", Reason.INTERNAL


@lru_cache(maxsize=256)
def _claim(pem: bytes) -> tuple[str | None, str | None]:
    """Return the serial and the names in a certificate that was not accepted, as far as it goes."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        serial = f"{certificate.serial_number:X}"
        subject = certificate.subject.rfc4514_string()
    except ValueError:
        return None, None
    return serial.zfill(len(serial) + len(serial) % 2), subject[:MAX_TEXT_CHARS]
