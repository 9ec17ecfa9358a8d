"""A server that does as told, for the tests of jobc."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobruntime.model.access import Role
from jobruntime.rpc.gen.service_pb2_grpc import add_JobServiceServicer_to_server
from jobruntime.rpc.tls import grpc, server_credentials
from jobruntime.server import pki
from tests.scripted import PYTHONPATH, Script


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a CA with a server's and a user's certificate."""
    base = tmp_path_factory.mktemp("pki")
    authority = pki.make_authority(pki.pair_at(base, "ca"))
    pki.issue_server(authority, pki.pair_at(base, "server"), ["127.0.0.1"])
    pki.issue_client(authority, pki.pair_at(base, "alice"), "alice", [Role.USER])
    return base


@pytest.fixture
def script() -> Script:
    """What the server shall do."""
    return Script()


@pytest.fixture
def environment(certificates: Path, script: Script) -> Iterator[dict[str, str]]:
    """Serve, and give the environment in which jobc finds the server."""
    server = grpc.server(ThreadPoolExecutor(8))
    add_JobServiceServicer_to_server(script, server)
    files = (certificates / name for name in ("server.crt", "server.key", "ca.crt"))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(*files))
    server.start()
    try:
        yield {
            "PYTHONPATH": PYTHONPATH,
            "HOME": "/nonexistent",
            "JOBC_ADDR": f"127.0.0.1:{port}",
            "JOBC_CA": str(certificates / "ca.crt"),
            "JOBC_CERT": str(certificates / "alice.crt"),
            "JOBC_KEY": str(certificates / "alice.key"),
        }
    finally:
        script.is_over.set()
        server.stop(0).wait()
