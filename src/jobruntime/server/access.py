"""The gate before every handler: who calls, whether he may, and how a refusal is told.

No handler runs before it, no method is without a verb, and whatever the policy lacks is denied.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from google.protobuf.message import DecodeError

from jobruntime.model.access import Principal, Scope, Verb
from jobruntime.model.admission import denied
from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.model.policy import Policy, decide
from jobruntime.rpc.errors import to_status
from jobruntime.rpc.tls import grpc
from jobruntime.worker.lookup import preferred_owner

from .audit import AuditLog
from .audit_calls import AuditedCall, UnknownMethodError, note_caller, note_request, note_rule
from .identity import Identity, identity_of
from .trust import Trust

_logger = logging.getLogger(__name__)

_PREFIX: Final = "/jobruntime.v1.JobService/"
VERBS: Final[Mapping[str, Verb]] = {
    f"{_PREFIX}Start": Verb.START,
    f"{_PREFIX}Stop": Verb.STOP,
    f"{_PREFIX}Status": Verb.STATUS,
    f"{_PREFIX}Logs": Verb.LOGS,
    f"{_PREFIX}Stats": Verb.STATS,
    f"{_PREFIX}Update": Verb.UPDATE,
    f"{_PREFIX}Pause": Verb.PAUSE,
    f"{_PREFIX}Resume": Verb.RESUME,
    f"{_PREFIX}Remove": Verb.REMOVE,
    f"{_PREFIX}Prune": Verb.PRUNE,
    f"{_PREFIX}WhoAmI": Verb.WHOAMI,
    f"{_PREFIX}CanI": Verb.CAN_I,
    f"{_PREFIX}Explain": Verb.EXPLAIN,
    f"{_PREFIX}Renew": Verb.RENEW,
}
"""What each method asks for. A method that is missing here is refused."""
_METHODS: Final[Mapping[Verb | None, str]] = {verb: method for method, verb in VERBS.items()}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made the call that is being handled, and whose jobs it may reach."""

    principal: Principal
    owner: str | None
    """Only this owner's jobs; None: everybody's."""
    scope: Scope
    rule: str
    """The rule of the policy that let the call in, as it is logged."""
    policy: Policy
    """The policy that the call is judged by to its end."""
    certificate: bytes = b""
    """What he showed, in PEM."""

    @property
    def verbs(self) -> frozenset[Verb]:
        """All that he may do, at least with his own jobs."""
        decisions = ((verb, decide(self.policy, self.principal, verb)) for verb in Verb)
        return frozenset(verb for verb, decision in decisions if decision.allowed)


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return the caller of the call that is being handled; only for use in handlers."""
    return _caller.get()


if TYPE_CHECKING:  # only the stubs know these as generic
    _Context = grpc.aio.ServicerContext[object, object]
    _Handler = grpc.RpcMethodHandler[object, object]
    _Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler in authentication, policy, audit and the telling of errors."""

    def __init__(self, policy: Callable[[], Policy], trust: Trust, audit: AuditLog) -> None:
        """`policy` gives the one in force, for each call anew."""
        self._policy = policy
        self._trust = trust
        self._audit = audit

    async def intercept_service(  # type: ignore[override] # the stubs leave its types open
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Return the method's handler behind the gate (grpc.aio.ServerInterceptor)."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(self._unknown(handler_call_details.method))
        verb = VERBS.get(handler_call_details.method)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guard_stream(verb, handler),
                None,
                _serializer(handler),
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guard(verb, handler),
            None,
            handler.response_serializer,
        )

    # Both get the request as bytes: it is not even parsed before the caller is known.

    def _guard(
        self, verb: Verb | None, handler: _Handler
    ) -> Callable[[bytes, _Context], Awaitable[object]]:
        behaviour = cast("Callable[[object, object], Awaitable[object]]", handler.unary_unary)

        async def guarded(data: bytes, context: _Context) -> object:
            try:
                async with self._audited(verb, context):
                    self._admit(verb, context)
                    request = _parse(handler, data)
                    note_request(request)
                    return await behaviour(request, context)
            except Exception as error:
                await _abort(context, verb, error)
                raise  # not reached: abort raises

        return guarded

    def _guard_stream(
        self, verb: Verb | None, handler: _Handler
    ) -> Callable[[bytes, _Context], AsyncIterator[object]]:
        behaviour = cast("Callable[[object, object], AsyncIterator[object]]", handler.unary_stream)

        async def guarded(data: bytes, context: _Context) -> AsyncIterator[object]:
            try:
                async with self._audited(verb, context):
                    identity = self._admit(verb, context)
                    request = _parse(handler, data)
                    note_request(request)
                    with self._trust.streams.entered(identity) as stream:
                        async with aclosing(behaviour(request, context)) as responses:  # type: ignore[type-var]
                            async for response in stream.watched(responses):
                                yield response
            except Exception as error:  # noqa: BLE001 - the RPC's boundary
                await _abort(context, verb, error)

        return guarded

    def _unknown(self, method: str) -> Callable[[object, _Context], Awaitable[None]]:
        async def refused(_: object, context: _Context) -> None:
            self._audited(None, context, method).end(UnknownMethodError())
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

        return refused

    def _audited(self, verb: Verb | None, context: _Context, method: str = "") -> AuditedCall:
        peer, auth = context.peer(), cast("Mapping[str, object]", context.auth_context())
        return AuditedCall(self._audit, method or _METHODS.get(verb, ""), verb, peer, auth)

    def _admit(
        self, verb: Verb | None, context: grpc.aio.ServicerContext[object, object]
    ) -> Identity:
        policy = self._policy()
        identity = identity_of(peer_of(context), known_roles=policy.known)
        principal = identity.principal
        note_caller(principal)
        self._trust.check(identity)
        decision = decide(policy, principal, verb)
        note_rule(decision.rule)
        if decision.scope is None:
            raise denied(principal, verb)
        preferred_owner.set(principal.name)
        owner = None if decision.scope is Scope.ANY else principal.name
        caller = Caller(
            principal, owner, decision.scope, decision.rule, policy, certificate=identity.pem
        )
        _caller.set(caller)
        return identity


def peer_of(context: grpc.aio.ServicerContext[object, object]) -> Mapping[str, list[bytes]]:
    """Return what TLS says of the caller."""
    # The stubs say str -> bytes; at run time the values are sequences of bytes.
    return cast("Mapping[str, list[bytes]]", context.auth_context())


def _serializer(handler: _Handler) -> Callable[[object], bytes]:
    """Return the handler's serializer, which leaves alone what has been encoded already."""
    serialize = cast("Callable[[object], bytes]", handler.response_serializer)
    return lambda response: response if isinstance(response, bytes) else serialize(response)


def _parse(handler: _Handler, data: bytes) -> object:
    parse = cast("Callable[[bytes], object]", handler.request_deserializer)
    try:
        return parse(data)
    except DecodeError as error:
        raise invalid(
            "cannot read the request: it is no message of this method",
            "send what proto/service.proto describes",
        ) from error


async def _abort(context: _Context, verb: Verb | None, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, JobError):
        _logger.error("%s failed", verb, exc_info=error)
        error = JobError(
            Reason.INTERNAL,
            "cannot answer: the server met a defect of its own",
            "the operator finds it in the server's log",
        )
    elif error.reason in (Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED):
        _logger.warning("refused %s from %s: %s", verb, context.peer(), error.message)
    code, message, trailer = to_status(error)
    await context.abort(code, message, trailer)
