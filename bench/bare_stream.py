"""The baseline of the replay: a grpc.aio stream of bytes with nothing behind it, and its reader.

python -m bench.bare_stream serve DIR MESSAGE_BYTES COUNT    prints its port
python -m bench.bare_stream read DIR ADDRESS                 writes what it gets to stdout
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from jobruntime.rpc.tls import (
    CHANNEL_OPTIONS,
    SERVER_OPTIONS,
    channel_credentials,
    grpc,
    server_credentials,
)

_SERVICE = "bench.Bare"


async def serve(pki: Path, message_bytes: int, count: int) -> None:
    """Serve `count` messages to each call, over the same TLS as jobd's, until killed."""
    message = os.urandom(message_bytes)

    async def stream(request: bytes, context: object) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield message

    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(stream)
    generic = grpc.method_handlers_generic_handler(_SERVICE, {"Stream": handler})
    server.add_generic_rpc_handlers((generic,))
    credentials = server_credentials(pki / "server.crt", pki / "server.key", pki / "ca.crt")
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def read(pki: Path, address: str) -> None:
    """Read one whole stream with the client that jobc uses, too, and write it to stdout."""
    client = pki / "clients/bench"
    credentials = channel_credentials(
        pki / "ca.crt", client.with_suffix(".crt"), client.with_suffix(".key")
    )
    with grpc.secure_channel(address, credentials, CHANNEL_OPTIONS) as channel:
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            f"/{_SERVICE}/Stream"
        )
        for message in call(b""):
            view = memoryview(message)
            while view:
                view = view[os.write(1, view) :]
        sys.stdout.flush()
        os._exit(0)  # as jobc does: taking grpc down costs time and changes nothing


def main(words: list[str]) -> None:
    """Be the server or the reader."""
    pki = Path(words[1]) / "jobs/pki"
    match words:
        case ["serve", _, message_bytes, count]:
            asyncio.run(serve(pki, int(message_bytes), int(count)))
        case ["read", _, address]:
            read(pki, address)


if __name__ == "__main__":
    main(sys.argv[1:])
