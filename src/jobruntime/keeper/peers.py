"""Who listens to a keeper: the servers that are connected to it.

Plain reads and writes keep the message boundaries of SOCK_SEQPACKET.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

from ..linux.files import encode_json, parse_json
from ..linux.sockets import peer_uid

_MAX_MESSAGE_BYTES: Final = 64 * 1024


class Peers:
    """The keeper's listening socket and its connections; one that fails is dropped."""

    def __init__(self, control: int, first: int, uids: tuple[int, ...], poll: select.poll) -> None:
        """Listen at `control`, with `first` connected already; only `uids` may connect."""
        self._control = control
        self._uids = uids
        self._poll = poll
        self._connected = {first}

    def __contains__(self, fd: int) -> bool:
        return fd in self._connected

    def accept(self, welcome: dict[str, object]) -> None:
        """Take a connection, if it is there and allowed, and say `welcome`."""
        with socket.socket(fileno=os.dup(self._control)) as control:
            try:
                peer, _ = control.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
        if peer_uid(peer) not in self._uids:
            peer.close()
            return
        peer.setblocking(False)
        fd = peer.detach()
        self._connected.add(fd)
        self._poll.register(fd, select.POLLIN)
        self.send(fd, welcome)

    def receive(self, peer: int) -> dict[str, object] | None:
        """Return the peer's next message; None where there is none, or no peer any more.

        Raises ValueError for what is no message, with the peer dropped.
        """
        try:
            data = os.read(peer, _MAX_MESSAGE_BYTES)
            if data:
                return parse_json(data)
        except BlockingIOError:
            return None
        except OSError:
            pass  # gone
        except ValueError:
            self._drop(peer)
            raise
        self._drop(peer)
        return None

    def publish(self, message: dict[str, object]) -> None:
        """Say `message` to all."""
        for peer in list(self._connected):
            self.send(peer, message)

    def send(self, peer: int, message: dict[str, object]) -> None:
        """Say `message` to one."""
        try:
            os.write(peer, encode_json(message))
        except OSError:  # gone, or it does not read: it will connect again and be told the present
            self._drop(peer)

    def _drop(self, peer: int) -> None:
        if peer in self._connected:
            self._connected.remove(peer)
            self._poll.unregister(peer)
            os.close(peer)
