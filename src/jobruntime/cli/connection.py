"""Calls the server, and turns what can go wrong on the way into one sentence and an exit code.

Imported only when a call is about to be made: grpc is most of jobc's start-up time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, TypeVar

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.errors import RemoteError, from_rpc_error
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import CHANNEL_OPTIONS, channel_credentials, grpc

from .diagnosis import diagnose
from .failure import Exit, Failure, tell
from .settings import Settings

Response = TypeVar("Response")

PROBE_MS: Final = 1_000
"""How long a diagnosis may take, after gRPC has given up and its time is over."""
BACKOFF_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0)

_EXIT_OF_REASON: Final = MappingProxyType(
    {
        str(Reason.PROGRAM_NOT_FOUND): Exit.NOT_FOUND,
        str(Reason.PROGRAM_IS_DIRECTORY): Exit.NOT_EXECUTABLE,
        str(Reason.PROGRAM_NOT_EXECUTABLE): Exit.NOT_EXECUTABLE,
        str(Reason.PROGRAM_BAD_FORMAT): Exit.NOT_EXECUTABLE,
    }
)


@contextmanager
def connect(settings: Settings) -> Iterator[JobServiceStub]:
    """Give a stub of the server's; nothing is sent before the first call. Raises Failure."""
    timeout_ms = settings.connect_timeout_ms
    options = dict(CHANNEL_OPTIONS) | {
        # The time that one attempt to connect may take. (grpc.channel_ready_future would do, but
        # its polling thread keeps the process for 200 ms, and a refusal would wait for the end.)
        "grpc.min_reconnect_backoff_ms": timeout_ms,
        "grpc.dns_ares_query_timeout": timeout_ms,
        # A new channel tries at once, whatever an earlier one of this process has just seen.
        "grpc.use_local_subchannel_pool": 1,
    }
    try:
        credentials = channel_credentials(settings.ca, settings.cert, settings.key)
    except JobError as error:
        raise Failure(Exit.OWN_FAILURE, error.message, error.remedy) from error
    with grpc.secure_channel(settings.addr, credentials, tuple(options.items())) as channel:
        yield JobServiceStub(channel)


def call(
    settings: Settings, invoke: Callable[[JobServiceStub], Response], *, if_lost: str
) -> Response:
    """Return what `invoke` gets from the server; once more if the connection breaks meanwhile.

    So the call must be safe to repeat. `if_lost` is the remedy to tell when it stays unanswered.
    Raises Failure.
    """
    try:
        with connect(settings) as stub:
            return invoke(stub)
    except grpc.RpcError as error:
        first = from_rpc_error(error)
    if not is_lost(first) or never_sent(first):
        raise failure_of(settings, first)
    tell(f"lost the connection to {settings.addr} before the answer; trying once more")
    again = _repeat(settings, invoke)
    if isinstance(again, RemoteError):
        failure = failure_of(settings, again)
        if is_lost(again):
            failure.remedy = if_lost
        raise failure
    return again


def is_lost(error: RemoteError) -> bool:
    """Return whether the connection failed, rather than the server answered with an error."""
    if error.reason:
        return False
    code = grpc.StatusCode
    # A stream that the server's end reset comes as one of the latter two, depending on the moment.
    return error.code in (code.UNAVAILABLE, code.CANCELLED) or (
        error.code in (code.INTERNAL, code.UNKNOWN)
        and ("RST_STREAM" in error.message or "Stream removed" in error.message)
    )


def never_sent(error: RemoteError) -> bool:
    """Return whether it is certain that the server has not seen the call: no connection was made.

    gRPC tells it by its words only; should they change, a call counts as one that may be done.
    """
    words = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
    return error.code is grpc.StatusCode.UNAVAILABLE and error.message.startswith(words)


def failure_of(settings: Settings, error: RemoteError) -> Failure:
    """Return how jobc ends because of `error`; looks for the cause where gRPC does not tell it."""
    if error.reason:
        exit_code = _EXIT_OF_REASON.get(error.reason, Exit.REFUSED)
        return Failure(exit_code, error.message, error.remedy)
    if is_lost(error):
        return diagnose(settings, PROBE_MS) or Failure(
            Exit.OWN_FAILURE,
            f"cannot reach the server {settings.addr}: the connection broke ({error.message})",
            "try again",
        )
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(
            Exit.OWN_FAILURE,
            f"cannot wait any longer for the server {settings.addr}: it took the call and does "
            "not answer",
            "try again, or look at the server",
        )
    return Failure(
        Exit.REFUSED,
        f"cannot use the answer of the server {settings.addr}: {error.code.name}, {error.message}",
        "check that jobd runs there, in a version that fits this jobc",
    )


def _repeat(
    settings: Settings, invoke: Callable[[JobServiceStub], Response]
) -> Response | RemoteError:
    """Make a call once, waiting for the server to come back as long as for any connection."""
    give_up_at = time.monotonic() + settings.connect_timeout_ms / 1000
    for attempt in range(1_000_000):
        time.sleep(backoff_seconds(attempt))
        try:
            with connect(settings) as stub:
                return invoke(stub)
        except grpc.RpcError as error:
            remote = from_rpc_error(error)
            if not never_sent(remote) or time.monotonic() > give_up_at:
                return remote
    raise AssertionError("the deadline comes first")


def backoff_seconds(attempt: int) -> float:
    """Return how long to wait before the attempt of this number, counted from 0."""
    return BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
