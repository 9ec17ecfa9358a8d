"""Unix SOCK_SEQPACKET sockets that carry one JSON message each, descriptors beside it."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Final

from .files import encode_json, open_directory, parse_json

MAX_MESSAGE_BYTES: Final = 64 * 1024
_MAX_FDS: Final = 8


def listen(directory: str, name: str, owner: int | None = None) -> socket.socket:
    """Return a non-blocking listening socket at `directory`/`name`, replacing a stale one.

    It becomes user `owner`'s, who alone can connect then (unix(7): that takes the right to write).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dir_fd = open_directory(directory)
    try:
        try:
            os.unlink(name, dir_fd=dir_fd)
        except FileNotFoundError:
            pass
        sock.bind(_short(dir_fd, name))
        if owner is not None and owner != os.geteuid():
            os.chown(name, owner, -1, dir_fd=dir_fd, follow_symlinks=False)
        sock.listen(128)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(dir_fd)
    return sock


def connect(directory: str, name: str) -> socket.socket:
    """Return a socket connected to `directory`/`name`; raises OSError if nobody answers."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Only to name it: not everybody who may connect may also list what is there.
        dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            sock.connect(_short(dir_fd, name))
        finally:
            os.close(dir_fd)
    except BaseException:
        sock.close()
        raise
    return sock


def _short(dir_fd: int, name: str) -> str:
    # sun_path holds 108 bytes (unix(7)); through the descriptor any directory is short enough.
    return f"/proc/self/fd/{dir_fd}/{name}"


def peer_uid(sock: socket.socket) -> int:
    """Return the uid of the process at the other end, as the kernel saw it at connect(2)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", raw)
    return int(uid)


def send_message(
    sock: socket.socket, message: dict[str, object], fds: tuple[int, ...] = ()
) -> None:
    """Send one message whole; raises BlockingIOError on a non-blocking socket that is full."""
    control = []
    if fds:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
    sock.sendmsg([encode_json(message)], control, socket.MSG_NOSIGNAL)


def receive_message(sock: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """Return the next message and its descriptors (close-on-exec); None when the peer is gone.

    Raises ValueError for a message that is cut or no JSON; its descriptors are closed.
    """
    space = socket.CMSG_SPACE(_MAX_FDS * 4)
    try:
        data, control, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    fds = _descriptors(control)
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a message was cut")
        if not data and not fds:
            return None
        return parse_json(data), fds
    except ValueError:
        for fd in fds:
            os.close(fd)
        raise


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
