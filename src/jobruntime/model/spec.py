"""What a caller asks for: the spec of a job, its rules, and its form on disk."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass, field
from typing import Final

from .durations import MAX_MS
from .errors import JobError, Reason, invalid
from .isolation import Isolation
from .limits import NO_LIMITS, Limits, check_limits, encode_limits, parse_limits
from .log_policy import (
    NO_POLICY,
    LogPolicy,
    check_log_policy,
    encode_log_policy,
    parse_log_policy,
)
from .shares import Share, check_shares, encode_shares, parse_shares

DEFAULT_GRACE_MS: Final = 10_000
MAX_ARGUMENTS_BYTES: Final = 6 * 1024 * 1024
"""Linux never takes more argv and environment than this (execve(2): 3/4 of an 8 MiB stack)."""
MAX_STRING_BYTES: Final = 128 * 1024 - 1
"""MAX_ARG_STRLEN without the NUL: the longest single argument or `NAME=value` (execve(2))."""
MAX_LABELS: Final = 64
MAX_LABEL_CHARS: Final = 256
MAX_REQUEST_ID_CHARS: Final = 128

_USER = re.compile(r"[^\s:/\x00-\x20\x7f]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as its caller described it; free of anything that belongs to one host.

    Strings may hold bytes that are not UTF-8 in the `surrogateescape` form (as `os.fsdecode`).
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    working_directory: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    stop_signal: int = int(signal.SIGTERM)
    grace_ms: int = DEFAULT_GRACE_MS
    timeout_ms: int | None = None
    request_id: str | None = field(default=None)
    limits: Limits = NO_LIMITS
    log: LogPolicy = NO_POLICY
    shares: tuple[Share, ...] = ()
    """With whom it is shared from its start on."""
    user: str | None = None
    """The account of the host to run as, where that is granted; None: as the server decides."""
    isolation: Isolation | None = None
    """None: nothing was said, which is none."""

    def __post_init__(self) -> None:
        """Refuse a spec that breaks a rule; raises JobError (INVALID_ARGUMENT, SPEC_TOO_LARGE)."""
        _check_argv(self.argv)
        _check_env(self.env)
        _check_size(self.argv, self.env)
        _check_working_directory(self.working_directory)
        _check_labels(self.labels)
        _check_times(self)
        check_limits(self.limits)
        check_log_policy(self.log)
        check_shares(self.shares)
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise invalid(
                f"cannot name a job {self.name!r}",
                "use 1 to 63 letters, digits, '.', '_' or '-', a letter or digit first",
            )
        if self.user is not None and not _USER.fullmatch(self.user):
            raise invalid(
                f"cannot start a job as user {self.user[:64]!r}",
                "name an account of the server's host: 1 to 64 characters, no blank, ':' or '/'",
            )
        if self.request_id is not None and not _is_request_id(self.request_id):
            raise invalid(
                "cannot use this request id",
                f"use 1 to {MAX_REQUEST_ID_CHARS} printable ASCII characters without spaces",
            )


def encode_spec(spec: JobSpec) -> dict[str, object]:
    """Return `spec` as JSON-ready values; `parse_spec` is the inverse."""
    return {
        "argv": list(spec.argv),
        "env": [list(pair) for pair in spec.env],
        "working_directory": spec.working_directory,
        "labels": [list(pair) for pair in spec.labels],
        "name": spec.name,
        "stop_signal": spec.stop_signal,
        "grace_ms": spec.grace_ms,
        "timeout_ms": spec.timeout_ms,
        "request_id": spec.request_id,
        "limits": encode_limits(spec.limits),
        "log": encode_log_policy(spec.log),
        "shares": encode_shares(spec.shares),
        "user": spec.user,
        "isolation": spec.isolation,
    }


def parse_spec(raw: dict[str, object]) -> JobSpec:
    """Return what `encode_spec` wrote; raises JobError or LookupError, TypeError, ValueError."""
    values = dict(raw)
    values["limits"] = parse_limits(values.get("limits", {}))  # absent in what older versions wrote
    values["log"] = parse_log_policy(values.get("log"))
    values["shares"] = parse_shares(values.get("shares"))
    isolation = values.get("isolation")
    values["isolation"] = None if isolation is None else Isolation(str(isolation))
    values["argv"] = tuple(values["argv"])  # type: ignore[arg-type]
    for key in ("env", "labels"):
        values[key] = tuple((name, value) for name, value in values[key])  # type: ignore[attr-defined]
    return JobSpec(**values)  # type: ignore[arg-type]


def same_request(one: JobSpec, other: JobSpec) -> bool:
    """Return whether two specs ask for the same job: one may be a retry of the other."""
    return _canonical(one) == _canonical(other)


def _canonical(spec: JobSpec) -> str:
    values = encode_spec(spec)
    values["env"] = sorted(spec.env)
    values["labels"] = sorted(spec.labels)
    return json.dumps(values, sort_keys=True)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _check_argv(argv: tuple[str, ...]) -> None:
    if not argv or not argv[0]:
        raise invalid("cannot start a job: no program was named", "give a command after the flags")
    for arg in argv:
        if "\0" in arg:
            raise invalid("cannot start a job: an argument contains a NUL byte", "remove it")


def _check_env(env: tuple[tuple[str, str], ...]) -> None:
    seen = set()
    for name, value in env:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise invalid(
                f"cannot set the environment variable {name[:64]!r}",
                "a name is not empty and has no '='; neither name nor value has a NUL byte",
            )
        if name in seen:
            raise invalid(
                f"cannot set the environment variable {name[:64]!r} twice", "give it once"
            )
        seen.add(name)


def _check_size(argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> None:
    sizes = [_size(arg) for arg in argv]
    sizes += [_size(name) + 1 + _size(value) for name, value in env]
    if max(sizes) > MAX_STRING_BYTES:
        raise JobError(
            Reason.SPEC_TOO_LARGE,
            f"cannot start a job: one argument or variable has {max(sizes)} bytes, "
            f"and Linux takes {MAX_STRING_BYTES}",
            "pass large data in a file",
        )
    if sum(sizes) + 9 * len(sizes) > MAX_ARGUMENTS_BYTES:  # a NUL and a pointer for each
        raise JobError(
            Reason.SPEC_TOO_LARGE,
            "cannot start a job: its arguments and environment are larger than Linux takes",
            "pass large data in a file",
        )


def _check_working_directory(path: str | None) -> None:
    if path is not None and (not path.startswith("/") or "\0" in path):
        raise invalid(
            f"cannot use the working directory {path[:256]!r}", "give an absolute path without NUL"
        )


def _check_labels(labels: tuple[tuple[str, str], ...]) -> None:
    if len(labels) > MAX_LABELS:
        raise invalid(f"cannot keep {len(labels)} labels", f"give at most {MAX_LABELS}")
    for key, value in labels:
        if not key or max(len(key), len(value)) > MAX_LABEL_CHARS or "\0" in key + value:
            raise invalid(
                f"cannot keep the label {key[:64]!r}",
                f"a key is not empty, key and value have at most {MAX_LABEL_CHARS} characters",
            )
    if len({key for key, _ in labels}) != len(labels):
        raise invalid("cannot keep two labels with one key", "give each key once")


def _check_times(spec: JobSpec) -> None:
    if not 1 <= spec.stop_signal <= int(signal.SIGRTMAX):
        raise invalid(f"cannot stop a job with signal {spec.stop_signal}", "give 1 to 64")
    check_grace_ms(spec.grace_ms)
    if spec.timeout_ms is not None and not 1 <= spec.timeout_ms <= MAX_MS:
        raise invalid(
            f"cannot use a timeout of {spec.timeout_ms} ms", f"give 1 to {MAX_MS} ms, or none"
        )


def check_grace_ms(grace_ms: int) -> None:
    """Refuse a grace outside 0 to `MAX_MS`; raises JobError (INVALID_ARGUMENT)."""
    if not 0 <= grace_ms <= MAX_MS:
        raise invalid(f"cannot use a grace of {grace_ms} ms", f"give 0 to {MAX_MS} ms")


def _is_request_id(text: str) -> bool:
    return 1 <= len(text) <= MAX_REQUEST_ID_CHARS and all("!" <= c <= "~" for c in text)
