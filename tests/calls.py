"""Single gRPC calls as some certificate's holder, and all that an answer tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from google.protobuf.message import Message

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc

DEADLINE_S = 20.0
SERVICE = "jobruntime.v1.JobService"


@dataclass(frozen=True)
class Answer:
    """What a caller gets to see of one call."""

    code: grpc.StatusCode
    message: str = ""
    trailers: tuple[tuple[str, bytes], ...] = ()
    initial: tuple[tuple[str, bytes], ...] = ()
    responses: tuple[object, ...] = ()

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK

    def without(self, word: str) -> Answer:
        """Return the answer with `word`, what was asked for, blotted out wherever it is."""
        mark = "?" * len(word)

        def blot(pairs: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
            return tuple((k, v.replace(word.encode(), mark.encode())) for k, v in pairs)

        return replace(
            self,
            message=self.message.replace(word, mark),
            trailers=blot(self.trailers),
            initial=blot(self.initial),
            responses=tuple(str(response).replace(word, mark) for response in self.responses),
        )


def ask(stub: JobServiceStub, request: Message, *, deadline_s: float = DEADLINE_S) -> Answer:
    """Make the call that takes this kind of request, and wait for its end."""
    match request:
        case pb.StartRequest():
            return _answer(lambda: stub.Start.with_call(request, timeout=deadline_s))
        case pb.StopRequest():
            return _answer(lambda: stub.Stop.with_call(request, timeout=deadline_s))
        case pb.StatusRequest():
            return _answer(lambda: stub.Status.with_call(request, timeout=deadline_s))
        case pb.RemoveRequest():
            return _answer(lambda: stub.Remove.with_call(request, timeout=deadline_s))
        case pb.UpdateRequest():
            return _answer(lambda: stub.Update.with_call(request, timeout=deadline_s))
        case pb.PauseRequest():
            return _answer(lambda: stub.Pause.with_call(request, timeout=deadline_s))
        case pb.ResumeRequest():
            return _answer(lambda: stub.Resume.with_call(request, timeout=deadline_s))
        case pb.CanIRequest():
            return _answer(lambda: stub.CanI.with_call(request, timeout=deadline_s))
        case pb.StatsRequest():
            return _answer_of_stream(lambda: stub.Stats(request, timeout=deadline_s))
        case pb.PruneRequest():
            return _answer(lambda: stub.Prune.with_call(request, timeout=deadline_s))
        case pb.LogsRequest():
            return _answer_of_stream(lambda: stub.Logs(request, timeout=deadline_s))
    raise TypeError(request)


def ask_raw(
    channel: grpc.Channel,
    method: str,
    data: bytes,
    *,
    service: str = SERVICE,
    deadline_s: float = DEADLINE_S,
) -> Answer:
    """Send `data` itself as the request of `method`."""
    if method == "Logs":
        stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            f"/{service}/{method}"
        )
        return _answer_of_stream(lambda: stream(data, timeout=deadline_s))
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{service}/{method}")
    return _answer(lambda: unary.with_call(data, timeout=deadline_s))


def _answer(invoke: Callable[[], tuple[object, grpc.Call]]) -> Answer:
    try:
        response, call = invoke()
    except grpc.RpcError as error:
        return _of_call(cast("grpc.Call", error), ())
    return _of_call(call, (response,))


def _answer_of_stream(invoke: Callable[[], Iterator[object]]) -> Answer:
    call = invoke()
    responses: list[object] = []
    try:
        responses.extend(call)
    except grpc.RpcError as error:
        return _of_call(cast("grpc.Call", error), responses)
    return _of_call(cast("grpc.Call", call), responses)


def _of_call(call: grpc.Call, responses: Sequence[object]) -> Answer:
    return Answer(
        call.code(),
        call.details() or "",
        _pairs(call.trailing_metadata()),
        _pairs(call.initial_metadata()),
        tuple(responses),
    )


def _pairs(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((k, v if isinstance(v, bytes) else v.encode()) for k, v in metadata or ()))
