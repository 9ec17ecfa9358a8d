"""How the program that signs certificates is started, by whoever may read the CA's key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

MOST_REQUEST_BYTES: Final = 48 * 1024
"""The largest request: it travels in one message to the monitor."""


def signer_command(config: Path) -> list[str]:
    """Return the command of the signer of the instance whose jobd.toml is `config`."""
    # -I: neither the environment nor the working directory can change what is run.
    return [sys.executable, "-I", "-m", "jobruntime.server.signer", str(config)]


def start_signer(config: Path, message: dict[str, object]) -> tuple[int, int]:
    """Start the signer for the request of a server; return its pid and a pipe with its answer.

    What is run is decided here; the request is data to the signer, which trusts none of it. Raises
    OSError, ValueError.
    """
    request = message.get("request")
    if not isinstance(request, str) or len(request) > MOST_REQUEST_BYTES:
        raise ValueError("not a request for the signer")
    return spawn_signer(signer_command(config), request.encode())


def spawn_signer(command: list[str], request: bytes) -> tuple[int, int]:
    """Start `command` with `request` on its stdin; return its pid and the pipe of its stdout.

    Raises OSError.
    """
    # posix_spawn and not fork: a server has gRPC's threads (grpc issue 22624).
    stdin = os.memfd_create("jobruntime-renewal", os.MFD_CLOEXEC)
    answer, answer_end = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(stdin, request)
        os.lseek(stdin, 0, os.SEEK_SET)
        pid = os.posix_spawn(
            command[0],
            command,
            {"PATH": os.defpath, "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, answer_end, 1),
            ],
            setsigmask=(),
        )
    except BaseException:
        os.close(answer)
        raise
    finally:
        os.close(answer_end)
        os.close(stdin)
    return pid, answer
