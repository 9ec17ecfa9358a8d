"""A way to the server that breaks again and again: no reader loses a byte or gets one twice."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import BIN, LOGS_S, MIB, Client, scaled

CUTS = scaled(12, 100)
SIZE = scaled(24 * MIB, 200 * MIB)
LINES = scaled(4_000_000, 20_000_000)


class Proxy:
    """Passes connections on to a server, and cuts each after some bytes until it has cut enough."""

    def __init__(self, port: int, cuts: int, mean_bytes: int) -> None:
        self._port = port
        self._mean_bytes = mean_bytes
        self._random = random.Random(7)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.left = cuts
        """How often it will still cut."""
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Take connections until it is closed."""
        # The first connection must be made, or jobc ends at once; later ones may break in it.
        least = 64 * 1024
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                room = None
                if self.left:
                    self.left -= 1
                    room, least = least + self._random.randrange(2 * self._mean_bytes), 0
                threading.Thread(target=self._pass_on, args=(client, room), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pass_on(self, client: socket.socket, room: int | None) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            up = threading.Thread(target=copy, args=(client, server, None), daemon=True)
            up.start()
            copy(server, client, room)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            up.join()


def copy(source: socket.socket, target: socket.socket, room: int | None) -> None:
    """Copy to the end, or so many bytes."""
    with suppress(OSError):
        while room is None or room > 0:
            data = source.recv(64 * 1024 if room is None else min(room, 64 * 1024))
            if not data:
                return
            target.sendall(data)
            room = None if room is None else room - len(data)


@contextmanager
def cutting(client: Client, mean_bytes: int) -> Iterator[Proxy]:
    """Give a proxy before the client's server."""
    proxy = Proxy(client.instance.port, CUTS, mean_bytes)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()


def read(client: Client, proxy: Proxy, path: Path, *words: str) -> bytes:
    """Have jobc write a log into a file, by way of the proxy; return its stderr."""
    with path.open("wb") as out:
        done = subprocess.run(
            [BIN / "jobc", "--addr", f"127.0.0.1:{proxy.port}", "logs", *words],
            env=client.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=10 * LOGS_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert b"lost the connection" in done.stderr
    assert proxy.left == 0
    return done.stderr


@pytest.mark.timeout(1200)
def test_a_log_is_whole_though_the_connection_is_cut_many_times(
    alice: Client, tmp_path: Path
) -> None:
    # The first half is there when the reader comes, the other one is followed.
    script = f"""
        head -c {SIZE // 2} /dev/urandom >a; head -c {SIZE // 2} /dev/urandom >b
        cat a b | sha256sum >&2; cat a; sleep 3; cat b; rm a b
    """
    job = alice.start("sh", "-c", script)
    with cutting(alice, SIZE // CUTS // 2) as proxy:
        errors = read(alice, proxy, tmp_path / "out", "--raw", job)
    told = re.search(rb"^[0-9a-f]{64}", errors, re.MULTILINE)
    assert told is not None, errors
    digest = hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()
    assert digest.encode() == told[0]


@pytest.mark.timeout(1200)
def test_a_part_of_a_log_is_whole_though_the_connection_is_cut_many_times(
    alice: Client, tmp_path: Path
) -> None:
    job = alice.start("seq", str(LINES))
    alice.run("logs", "--raw", "-n0", job)
    words = ("-o", "text", "-n", str(LINES // 2), "--stream", "stdout", job)
    with cutting(alice, 4 * LINES // CUTS) as proxy:
        read(alice, proxy, tmp_path / "out", *words)
    expected = "".join(f"{n}\n" for n in range(LINES // 2 + 1, LINES + 1))
    assert (tmp_path / "out").read_text() == expected
