"""Writes to stdout and stderr as bytes, at once, and ends quietly where nobody reads."""

from __future__ import annotations

import errno
import os
import select
import stat
from typing import NoReturn

from .failure import Exit, Failure

STDOUT_FD = 1
STDERR_FD = 2


def keep_standard_fds() -> None:
    """Occupy a standard fd that the caller closed, so that no socket gets its number.

    The log would be written into the TLS connection otherwise. What takes the place of stdout and
    stderr cannot be written to, so that lost output is an error as it should be.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest free number, which is `fd`


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; ends the process where the reader is gone, raises Failure otherwise."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Somebody who shares the terminal or pipe made it non-blocking.
            select.select([], [fd], [])
        except OSError as error:
            if error.errno == errno.EPIPE:
                die_of_closed_pipe()
            raise Failure(
                Exit.OWN_FAILURE,
                f"cannot write the output: {(error.strerror or str(error)).lower()}",
                "make room or send it elsewhere" if error.errno == errno.ENOSPC else "",
            ) from error


def write_line(text: str) -> None:
    """Write one line to stdout; the same errors as `write_all`."""
    write_all(STDOUT_FD, f"{text}\n".encode("utf-8", "surrogateescape"))


def die_of_closed_pipe() -> NoReturn:
    """End the process quietly with the code that a shell shows for `cat` then: 128 + SIGPIPE."""
    os._exit(Exit.CLOSED_PIPE)


def end_with_stdout() -> None:
    """End the process as soon as nobody reads its stdout, also while there is nothing to write.

    Or `jobc logs ID | grep -m1 ready` would last until the job writes again. Only pipes and sockets
    tell; a thread waits for that alone.
    """
    import threading  # loaded by grpc anyway, and by nothing else of jobc's

    mode = os.fstat(STDOUT_FD).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_wait_for_hangup, args=(STDOUT_FD,), daemon=True).start()


def _wait_for_hangup(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP are always told (poll(2))
    poll.poll()
    die_of_closed_pipe()
