"""The zygote: the process from which every keeper is forked, and which does nothing else.

fork() shares all pages between parent and child until either writes to one; a parent that goes
on working leaves its child with the old copies of whatever it touches. So the parent of the
keepers is a process of its own that does next to nothing between two forks.
"""

from __future__ import annotations

import array
import contextlib
import gc
import os
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

from ..linux import sockets
from ..linux.processes import set_process_name
from ..model.protocol import Failure, Step, StepError, encode_failure
from .assignment import Assignment, decode_assignment, encode_assignment
from .job import Keeper
from .order import Site
from .prepare import discard
from .sweep import remove_home, sweep

_MAX_FDS: Final = 24
_MAX_BYTES: Final = 64 * 1024
_SWEEP: Final = b"sweep "
_REMOVE: Final = b"remove "


class Zygote:
    """The spawner's end: hands assignments to the zygote, and makes a new one if it has died."""

    def __init__(self, site: Site) -> None:
        """Fork the zygote; call it before this process holds anything that is not to be shared."""
        self._site = site
        self._socket = self._fork()

    def _fork(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # what is here now is never visited again, so its pages stay shared
        if not os.fork():
            _end_with(partial(_run, self._site, its.detach()))
        its.close()
        return ours

    def start(self, job: Assignment) -> None:
        """Have a keeper forked for `job`; it tells on the reply socket how that went."""
        data, fds, large = encode_assignment(job)
        try:
            self._send(data, fds)
        finally:
            if large is not None:
                os.close(large)

    def sweep(self, job_id: str, reply: int) -> None:
        """Have a process forked that ends what is left of a job and tells on `reply`."""
        self._send(_SWEEP + job_id.encode(), [reply])

    def remove(self, job_id: str, reply: int) -> None:
        """Have a process forked that deletes a job's own directory and tells on `reply`."""
        self._send(_REMOVE + job_id.encode(), [reply])

    def _send(self, data: bytes, fds: list[int]) -> None:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
        try:
            self._socket.sendmsg([data], control, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            self._socket.close()
            self._socket = self._fork()
            self._socket.sendmsg([data], control, socket.MSG_NOSIGNAL)


def _end_with(work: Callable[[], None]) -> NoReturn:
    """Do `work` as the last thing of this forked process, whatever comes of it."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the process ends here
        with contextlib.suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _run(site: Site, inbox: int) -> None:
    os.dup2(inbox, 3)
    os.closerange(4, 1 << 20)
    set_process_name("jobd-zygote")
    _serve(site, socket.socket(fileno=3))


def _serve(site: Site, inbox: socket.socket) -> None:
    space = socket.CMSG_SPACE(_MAX_FDS * 4)
    while True:
        data, control, _, _ = inbox.recvmsg(_MAX_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        if not control:
            return  # the spawner is gone
        fds = array.array("i", control[0][2])
        try:
            pid = os.fork()
        except OSError as error:
            _refuse(data, fds.tolist(), error)
            pid = -1
        if not pid:
            _end_with(partial(_become_keeper, site, data, fds.tolist()))
        # They came all at once, so they lie side by side.
        os.closerange(fds[0], fds[-1] + 1)


def _become_keeper(site: Site, data: bytes, fds: list[int]) -> None:
    os.close(3)
    set_process_name("jobd-keeper")
    if data.startswith(_SWEEP):
        _sweep(site, data.removeprefix(_SWEEP).decode(), fds[0])
    elif data.startswith(_REMOVE):
        _remove(site, data.removeprefix(_REMOVE).decode(), fds[0])
    else:
        Keeper(decode_assignment(data, fds)).keep()


def _sweep(site: Site, job_id: str, reply: int) -> None:
    try:
        sweep(site, job_id)
    except StepError as error:
        tell_failure(reply, error.failure)
        return
    tell(reply, {"swept": True})


def _remove(site: Site, job_id: str, reply: int) -> None:
    try:
        tell(reply, {"freed": remove_home(site, job_id, reply)})
    except StepError as error:
        tell_failure(reply, error.failure)


def _refuse(data: bytes, fds: list[int], error: OSError) -> None:
    if not data.startswith((_SWEEP, _REMOVE)):
        discard(decode_assignment(data, fds))
    tell_failure(fds[0], Failure(Step.FORK, error.errno or 0))


def tell_failure(reply: int, failure: Failure) -> None:
    """Tell jobd that the start or sweep failed."""
    tell(reply, {"failed": encode_failure(failure)})


def tell(reply: int, message: dict[str, object]) -> None:
    """Say `message` on the reply socket; nobody may be listening any more."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(reply)) as sock:
        sockets.send_message(sock, message)
