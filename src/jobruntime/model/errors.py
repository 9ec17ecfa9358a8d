"""The one error that the project raises for a caller, and the closed set of its reasons."""

from __future__ import annotations

from enum import StrEnum, unique


@unique
class Reason(StrEnum):
    """Why something was refused or failed, as a word that programs can act on.

    The words are part of the API (`google.rpc.ErrorInfo.reason`): never renamed, only added.
    """

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    SPEC_TOO_LARGE = "SPEC_TOO_LARGE"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    JOB_AMBIGUOUS = "JOB_AMBIGUOUS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    NAME_IN_USE = "NAME_IN_USE"
    PROGRAM_NOT_FOUND = "PROGRAM_NOT_FOUND"
    PROGRAM_IS_DIRECTORY = "PROGRAM_IS_DIRECTORY"
    PROGRAM_NOT_EXECUTABLE = "PROGRAM_NOT_EXECUTABLE"
    PROGRAM_BAD_FORMAT = "PROGRAM_BAD_FORMAT"
    WORKING_DIRECTORY = "WORKING_DIRECTORY"
    KILLED_BEFORE_EXEC = "KILLED_BEFORE_EXEC"
    START_STEP_FAILED = "START_STEP_FAILED"
    LIMIT_NOT_ENFORCEABLE = "LIMIT_NOT_ENFORCEABLE"
    LIMIT_ABOVE_CEILING = "LIMIT_ABOVE_CEILING"
    LIMIT_REFUSED = "LIMIT_REFUSED"
    USER_UNAVAILABLE = "USER_UNAVAILABLE"
    ISOLATION_UNAVAILABLE = "ISOLATION_UNAVAILABLE"
    WRONG_STATE = "WRONG_STATE"
    CURSOR_INVALID = "CURSOR_INVALID"
    LOG_UNREADABLE = "LOG_UNREADABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    SPAWNER_UNAVAILABLE = "SPAWNER_UNAVAILABLE"
    KEEPER_UNREACHABLE = "KEEPER_UNREACHABLE"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    INSTANCE_IN_USE = "INSTANCE_IN_USE"
    CONFIG_INVALID = "CONFIG_INVALID"
    INTERNAL = "INTERNAL"


class JobError(Exception):
    """A refusal or failure told to a caller: a reason, a sentence and mostly a remedy.

    The text is "cannot <verb> <object>: <cause>"; `str()` gives it with the remedy behind it.
    """

    def __init__(self, reason: Reason, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def invalid(message: str, remedy: str = "") -> JobError:
    """Return the error for an argument that breaks a rule of the API."""
    return JobError(Reason.INVALID_ARGUMENT, message, remedy)
