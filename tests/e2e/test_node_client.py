"""A client written in another language, from the proto file alone."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

from tests.support import Client

Message = dict[str, object]

DIRECTORY = Path(__file__).parent / "node"


class NodeClient:
    """client.js as the holder of a certificate."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def call(self, method: str, **request: object) -> list[Message]:
        """Make one call; return the messages of its answer."""
        # Not skipped where it is missing: then nothing would show that others can call us.
        node = shutil.which("node")
        assert node, "there is no node; scripts/ensure-packages.sh installs it"
        packages = DIRECTORY / "node_modules"
        assert packages.is_dir(), f"there is no {packages}; scripts/node.sh installs it"
        instance = self._client.instance
        address = f"localhost:{instance.port}"
        words: list[str | Path] = [
            address,
            instance.ca,
            self._client.cert,
            self._client.key,
            method,
        ]
        done = subprocess.run(
            [node, DIRECTORY / "client.js", *words, json.dumps(request)],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert not done.stderr, done.stderr.decode()
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def node(alice: Client) -> NodeClient:
    return NodeClient(alice)


def status_of(messages: list[Message]) -> Message:
    [message] = messages
    return cast("Message", message["status"])


def test_a_client_in_another_language_does_all_four_calls(node: NodeClient) -> None:
    script = "echo to stdout; echo to stderr >&2; printf '\\377'; sleep 600"
    [started] = node.call("Start", argv=["sh", "-c", script], labels={"made": "by node"})
    job = started["job_id"]

    status = status_of(node.call("Status", job=job))
    assert (status["owner"], status["state"]) == ("alice", "JOB_STATE_RUNNING")
    assert status["labels"] == {"made": "by node"}

    stopped = status_of(node.call("Stop", job=job, grace_ms=5000))
    assert (stopped["state"], stopped["outcome"]) == (
        "JOB_STATE_TERMINATED",
        {"kind": "signal", "signal": 15},
    )

    *batches, last = node.call("Logs", job=job, follow=True)
    assert _bytes_of(batches) == {
        "LOG_STREAM_STDOUT": b"to stdout\n\xff",
        "LOG_STREAM_STDERR": b"to stderr\n",
    }
    end = cast("Message", last["end"])
    assert (end["complete"], end["stdout_bytes"], end["stderr_bytes"]) == (True, "11", "10")
    assert end["status"] == stopped


def test_a_client_in_another_language_can_read_a_refusal(node: NodeClient, bob: Client) -> None:
    job = bob.start("sleep", "600")

    [refused] = node.call("Logs", job=job, follow=True)

    assert refused == {"error": {"code": "NOT_FOUND", "message": f"cannot find job '{job}'"}}
    bob.stop(job, "--grace", "0s")


def _bytes_of(messages: list[Message]) -> dict[str, bytes]:
    streams: dict[str, bytes] = {}
    for message in messages:
        batch = cast("dict[str, list[dict[str, dict[str, str]]]]", message["batch"])
        for entry in batch["entries"]:
            name, data = entry["chunk"]["stream"], base64.b64decode(entry["chunk"]["data"])
            streams[name] = streams.get(name, b"") + data
    return streams
