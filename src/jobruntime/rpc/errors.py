"""Errors on the wire: the one map from reasons to gRPC codes, and both ways through it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, assert_never, cast

from jobruntime.model.errors import JobError, Reason

from .tls import grpc

DOMAIN: Final = "jobruntime"
DETAILS_KEY: Final = "grpc-status-details-bin"
MAX_MESSAGE_BYTES: Final = 2048
MAX_REMEDY_BYTES: Final = 1024
"""Both as grpc percent-encodes them. With the details' copy in base64 this stays below the 8 KiB of
trailing metadata that gRPC clients accept by default (grpc.max_metadata_size)."""

Trailer = tuple[tuple[str, str | bytes], ...]


def _code(reason: Reason) -> grpc.StatusCode:
    """Return the code of `reason`; mypy refuses a reason that is missing here."""
    code = grpc.StatusCode
    match reason:
        case Reason.INVALID_ARGUMENT | Reason.SPEC_TOO_LARGE | Reason.CURSOR_INVALID:
            return code.INVALID_ARGUMENT
        case Reason.JOB_NOT_FOUND | Reason.PROGRAM_NOT_FOUND:
            return code.NOT_FOUND
        case (
            Reason.PROGRAM_IS_DIRECTORY
            | Reason.PROGRAM_NOT_EXECUTABLE
            | Reason.PROGRAM_BAD_FORMAT
            | Reason.WORKING_DIRECTORY
            | Reason.KILLED_BEFORE_EXEC
            | Reason.START_STEP_FAILED
            | Reason.JOB_AMBIGUOUS
            | Reason.INSTANCE_IN_USE
            | Reason.CONFIG_INVALID
            | Reason.LIMIT_NOT_ENFORCEABLE
            | Reason.LIMIT_ABOVE_CEILING
            | Reason.LIMIT_REFUSED
            | Reason.USER_UNAVAILABLE
            | Reason.ISOLATION_UNAVAILABLE
            | Reason.WRONG_STATE
        ):
            return code.FAILED_PRECONDITION
        case Reason.REQUEST_ID_REUSED | Reason.NAME_IN_USE:
            return code.ALREADY_EXISTS
        case Reason.LOG_UNREADABLE:
            return code.DATA_LOSS
        case Reason.UNAUTHENTICATED:
            return code.UNAUTHENTICATED
        case Reason.PERMISSION_DENIED:
            return code.PERMISSION_DENIED
        case Reason.RESOURCE_EXHAUSTED:
            return code.RESOURCE_EXHAUSTED
        case Reason.SPAWNER_UNAVAILABLE | Reason.KEEPER_UNREACHABLE | Reason.AUDIT_UNAVAILABLE:
            return code.UNAVAILABLE
        case Reason.INTERNAL:
            return code.INTERNAL
        case _:
            assert_never(reason)


CODES: Final = MappingProxyType({reason: _code(reason) for reason in Reason})
"""Every reason with its gRPC code; none is UNKNOWN."""


class RemoteError(Exception):
    """A call that did not succeed, as its caller saw it.

    `reason` is the server's word, also one that this version does not know; it is empty when the
    error is not the server's own but the transport's.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def to_status(error: JobError) -> tuple[grpc.StatusCode, str, Trailer]:
    """Return the code, message and trailing metadata that tell `error` to any gRPC client."""
    from google.protobuf.any_pb2 import Any
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    code = CODES[error.reason]
    message = _cut(error.message, MAX_MESSAGE_BYTES)
    metadata = {"remedy": _cut(error.remedy, MAX_REMEDY_BYTES)} if error.remedy else {}
    detail = Any()
    detail.Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    status = Status(code=code.value[0], message=message, details=[detail])
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> RemoteError:
    """Return what `error` says; the inverse of `to_status` for an error of the server's."""
    # Imported here: a call that succeeds has no use for it, and jobc's start-up time counts.
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    # Whatever gRPC raises for a call is the call itself, too.
    call = cast(grpc.Call, error)
    code, message = call.code(), call.details() or ""
    for key, value in call.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    return RemoteError(code, info.reason, message, info.metadata.get("remedy", ""))
        except DecodeError:
            break  # not ours; the code and the message are all there is to tell
    return RemoteError(code, "", message)


def _cut(text: str, limit_bytes: int) -> str:
    """Return `text` as UTF-8 can carry it, at most `limit_bytes` of it when percent-encoded."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    room = limit_bytes - 9  # for the ellipsis
    used = 0
    for index, char in enumerate(text):
        used += 1 if " " <= char <= "~" and char != "%" else 3 * len(char.encode())
        if used > room:
            return text[:index] + "…"
    return text
