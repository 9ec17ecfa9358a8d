from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jobruntime.model.access import Principal, Role
from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.tls import (
    CHANNEL_OPTIONS,
    SERVER_OPTIONS,
    channel_credentials,
    grpc,
    read_certificates,
    read_private_key,
    server_credentials,
)
from jobruntime.server import pki
from jobruntime.server.identity import principal_of

METHOD = "/test/WhoAmI"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("pki")
    authority = pki.make_authority(pki.pair_at(base, "ca"))
    pki.make_authority(pki.pair_at(base, "other-ca"))
    pki.issue_server(authority, pki.pair_at(base, "server"), ["localhost", "127.0.0.1"])
    pki.issue_client(authority, pki.pair_at(base, "alice"), "alice", [Role.USER])
    pki.issue_client(authority, pki.pair_at(base, "bob"), "bob", [Role.USER])
    return base


class WhoAmI(grpc.GenericRpcHandler):
    """Answers each call with the caller's name."""

    def __init__(self) -> None:
        self.principals: list[Principal] = []

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            principal = principal_of(context.auth_context())  # type: ignore[arg-type]
            self.principals.append(principal)
            return principal.name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def call(port: int, credentials: grpc.ChannelCredentials) -> bytes:
    target = f"localhost:{port}"
    async with grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        return await method(b"", timeout=10)


def with_server(made: Path, use: Callable[[int, WhoAmI], Awaitable[None]]) -> None:
    async def serve() -> None:
        handler = WhoAmI()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((handler,))
        credentials = server_credentials(made / "server.crt", made / "server.key", made / "ca.crt")
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            await use(port, handler)
        finally:
            await server.stop(None)

    asyncio.run(serve())


async def s_client(port: int, made: Path, *flags: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "h2", *flags),
        *("-CAfile", str(made / "ca.crt")),
        *("-cert", str(made / "alice.crt"), "-key", str(made / "alice.key")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    return output.decode(errors="replace")


def test_a_caller_is_known_by_its_certificate_over_tls_1_3(made: Path) -> None:
    seen: list[Principal] = []

    async def use(port: int, handler: WhoAmI) -> None:
        own = channel_credentials(made / "ca.crt", made / "alice.crt", made / "alice.key")
        assert await call(port, own) == b"alice"
        seen.extend(handler.principals)

    with_server(made, use)
    [principal] = seen
    serial = subprocess.check_output(
        ["openssl", "x509", "-in", made / "alice.crt", "-noout", "-serial"], text=True
    )
    assert serial.strip() == f"serial={principal.serial}"
    assert principal.roles == {Role.USER}


def test_tls_1_2_is_refused_and_1_3_is_not(made: Path) -> None:
    async def use(port: int, handler: WhoAmI) -> None:
        assert "New, TLSv1.3" in await s_client(port, made, "-tls1_3")
        older = await s_client(port, made, "-tls1_2")
        assert "Cipher is (NONE)" in older

    with_server(made, use)


def test_a_client_does_not_talk_to_a_tls_1_2_server(made: Path) -> None:
    async def connect() -> None:
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_2", "-alpn", "h2"),
            *("-cert", str(made / "server.crt"), "-key", str(made / "server.key")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                while not (line := await process.stdout.readline()).startswith(b"ACCEPT"):
                    assert line
            port = int(line.rsplit(b":", 1)[1])
            own = channel_credentials(made / "ca.crt", made / "alice.crt", made / "alice.key")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(port, own)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            async with asyncio.timeout(20):
                while b"no shared cipher" not in line:
                    line = await process.stdout.readline()
                    assert line
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    asyncio.run(connect())


def test_certificates_of_another_ca_or_for_servers_are_refused(made: Path) -> None:
    async def use(port: int, handler: WhoAmI) -> None:
        as_server = channel_credentials(made / "ca.crt", made / "server.crt", made / "server.key")
        as_other = channel_credentials(
            made / "ca.crt", made / "other-ca.crt", made / "other-ca.key"
        )
        trusting_other = channel_credentials(
            made / "other-ca.crt", made / "alice.crt", made / "alice.key"
        )
        for credentials in (as_server, as_other, trusting_other):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(port, credentials)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert handler.principals == []

    with_server(made, use)


def test_a_second_server_on_the_port_is_refused(made: Path) -> None:
    async def use(port: int, handler: WhoAmI) -> None:
        credentials = server_credentials(made / "server.crt", made / "server.key", made / "ca.crt")
        second = grpc.aio.server(options=SERVER_OPTIONS)
        with pytest.raises(RuntimeError):
            second.add_secure_port(f"127.0.0.1:{port}", credentials)
        await second.stop(None)

    with_server(made, use)


def refusal(made: Path, **changed: Path) -> JobError:
    """Return why both ends refuse the files; they have to agree."""
    files = {
        "ca": made / "ca.crt",
        "cert": made / "alice.crt",
        "key": made / "alice.key",
        **changed,
    }
    with pytest.raises(JobError) as server:
        server_credentials(files["cert"], files["key"], files["ca"])
    with pytest.raises(JobError) as client:
        channel_credentials(files["ca"], files["cert"], files["key"])
    assert server.value.message == client.value.message
    assert server.value.reason is client.value.reason is Reason.CONFIG_INVALID
    assert server.value.remedy
    assert client.value.remedy
    return server.value


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_a_file_that_is_missing_or_no_file_or_no_pem_is_named(
    made: Path, tmp_path: Path, which: str
) -> None:
    path = tmp_path / "x"
    assert f"{path}: no such file" in refusal(made, **{which: path}).message
    for text in ("", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path.write_text(text)
        path.chmod(0o600)
        assert f"{path}: it is not a PEM" in refusal(made, **{which: path}).message
    assert "is a directory" in refusal(made, **{which: tmp_path}).message
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refusal(made, **{which: tmp_path / "fifo"}).message


def test_a_key_in_the_place_of_a_certificate_is_refused_and_the_other_way_round(
    made: Path, tmp_path: Path
) -> None:
    assert "not a PEM certificate" in refusal(made, cert=made / "alice.key").message
    (tmp_path / "x").write_bytes((made / "alice.crt").read_bytes())
    (tmp_path / "x").chmod(0o600)
    assert "not a PEM private key" in refusal(made, key=tmp_path / "x").message


def test_a_key_of_another_certificate_is_refused(made: Path) -> None:
    assert (
        f"not the key of the certificate {made}/alice.crt"
        in refusal(made, key=made / "bob.key").message
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_refused_with_the_command_that_mends_it(
    made: Path, tmp_path: Path, mode: int
) -> None:
    key = tmp_path / "alice.key"
    key.write_bytes((made / "alice.key").read_bytes())
    key.chmod(mode)
    error = refusal(made, key=key)
    assert f"mode {mode:04o}" in error.message
    assert error.remedy == f"run: chmod 600 {key}"


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(
    made: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", made / "alice.key"]
    subprocess.run([*map(str, command), "-out", str(key)], check=True, capture_output=True)
    key.chmod(0o600)
    assert "passphrase" in refusal(made, key=key).message


def test_several_certificates_with_text_between_them_are_read(made: Path, tmp_path: Path) -> None:
    both = b"# d\xc3\xa9j\xc3\xa0\n" + (made / "ca.crt").read_bytes() + b"text\n"
    (tmp_path / "both").write_bytes(both + (made / "other-ca.crt").read_bytes())
    pem = read_certificates(tmp_path / "both")
    assert pem.count(b"BEGIN CERTIFICATE") == 2
    assert read_private_key(made / "ca.key").startswith(b"-----BEGIN PRIVATE KEY-----")


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )


def test_grpc_loaded_too_early_is_refused() -> None:
    done = run_python("import grpc; import jobruntime.rpc.tls")
    assert "RuntimeError: cannot forbid TLS 1.2: grpc was imported before" in done.stderr


def test_a_callers_own_choice_of_suites_does_not_bring_tls_1_2_back() -> None:
    code = "import jobruntime.rpc.tls, os; print(os.environ['GRPC_SSL_CIPHER_SUITES'])"
    done = run_python(code, GRPC_SSL_CIPHER_SUITES="ECDHE-ECDSA-AES128-GCM-SHA256")
    assert done.stdout == "ECDHE-PSK-CHACHA20-POLY1305\n"


def test_the_client_side_does_without_cryptography() -> None:
    code = "import jobruntime.rpc.tls, sys; print('cryptography' in sys.modules)"
    assert run_python(code).stdout == "False\n"
