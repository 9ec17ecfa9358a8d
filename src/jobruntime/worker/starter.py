"""The start of a job, from the order to the keeper's word that its program runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import sqlite3
import time
import uuid
from dataclasses import dataclass
from typing import Final

from ..linux import sockets
from ..linux.files import boot_id, write_all
from ..model.admission import Terms
from ..model.errors import JobError, Reason
from ..model.io_rates import IoOrder
from ..model.limits import Limits
from ..model.log_policy import LogPolicy
from ..model.protocol import parse_failure
from ..model.record import Progress, parse_progress
from ..model.rlimits import Rlimits
from ..model.spec import JobSpec
from .catalogue import Catalogue
from .instance import Instance
from .spawner import Spawner, wait_readable
from .start_errors import start_error, sweep_error
from .store import JobDirectory, JobRecord, encode_order
from .threads import Threads
from .users import User, Users

_TRIES: Final = 3
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """A job that runs, and the connection to its keeper."""

    record: JobRecord
    progress: Progress
    keeper: socket.socket
    directory: JobDirectory


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the spawner is told of a job beside its spec."""

    user: User
    rlimits: Rlimits

    def message(self, job_id: str) -> dict[str, object]:
        return {
            "op": "start",
            "id": job_id,
            "uid": self.user.uid,
            "gid": self.user.gid,
            "user": self.user.name,
            "rlimits": [[name, *pair] for name, pair in self.rlimits.items()],
        }


class Starter:
    """Starts jobs through the spawner; whatever fails on the way leaves nothing behind."""

    def __init__(
        self,
        instance: Instance,
        threads: Threads,
        users: Users,
        catalogue: Catalogue,
        spawner: Spawner,
        rlimits: Rlimits,
    ) -> None:
        self._instance = instance
        self._threads = threads
        self._users = users
        self._rlimits = rlimits
        self._catalogue = catalogue
        self._spawner = spawner
        self._boot_id = boot_id()
        self.starting: set[str] = set()
        """Ids of the starts under way: in the catalogue perhaps, but not jobs yet. Whoever takes a
        started job over removes its id."""

    async def start(
        self,
        spec: JobSpec,
        limits: Limits,
        io: IoOrder,
        log: LogPolicy,
        owner: str,
        terms: Terms,
    ) -> Started:
        """Start a job for `owner` within these bounds; raises JobError as Worker.start does."""
        user = self._users.known(owner, terms)
        if user is None:
            user = await self._threads.in_index(lambda: self._users.user_of(owner))
        job_id, now_ns = str(uuid.uuid4()), time.time_ns()
        record = JobRecord(
            job_id,
            owner,
            spec,
            now_ns,
            self._boot_id,
            limits,
            log,
            io,
            executable=terms.executable,
            shares=spec.shares,
            user=user.name,
        )
        # Held there until the caller has taken it over: no look-up may meet it before.
        self.starting.add(record.job_id)
        try:
            return await self._start(record, _Standing(user, self.rlimits_of(terms)))
        except BaseException:
            self.starting.discard(record.job_id)
            raise

    def rlimits_of(self, terms: Terms) -> Rlimits:
        """Return the resource limits of a job: the role's, and the configuration's beside them."""
        return {**self._rlimits, **terms.rlimits}

    async def _start(self, record: JobRecord, terms: _Standing) -> Started:
        for last in (False, True):
            directory = await self._threads.in_files(lambda: self._create_directory(record))
            try:
                return await self._spawn(record, terms, directory)
            except ConnectionError:
                # The spawner or the new keeper died before it told anything. What it may have
                # begun is swept, and then a second try is safe.
                try:
                    await self.sweep(record.job_id)
                except BaseException:
                    directory.close()  # with its lock, or no recovery could ever take it up
                    raise
                await self._threads.in_files(directory.discard)
                if last:
                    break
            except JobError:
                await self._threads.in_files(directory.discard)
                raise
        raise JobError(
            Reason.SPAWNER_UNAVAILABLE,
            "cannot start the job: the process that starts it died",
            f"try again; the operator finds more in {self._instance.state_dir}/spawner.log",
        )

    def _create_directory(self, record: JobRecord) -> JobDirectory:
        try:
            return JobDirectory.create(self._instance.jobs_dir, record)
        except OSError as error:
            raise _short_of("its record can't be written", error) from error

    async def _spawn(self, record: JobRecord, terms: _Standing, directory: JobDirectory) -> Started:
        try:
            order = _sealed_memfd(encode_order(record))
        except OSError as error:
            raise _short_of("its order can't be given", error) from error
        try:
            ours, keepers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            os.close(order)
            raise _short_of("its order can't be given", error) from error
        try:
            with keepers:
                try:
                    message = terms.message(record.job_id)
                    await self._spawner.send(message, (keepers.fileno(), directory.fd, order))
                finally:
                    os.close(order)
            progress = await self._confirm(record, ours)
        except BaseException:
            ours.close()
            raise
        return Started(record, progress, ours, directory)

    async def _confirm(self, record: JobRecord, keeper: socket.socket) -> Progress:
        # While the job starts, it goes into the catalogue.
        adding = asyncio.ensure_future(self._threads.in_index(lambda: self._catalogue.add(record)))
        try:
            progress = _started(await _receive(keeper), record)
        except BaseException:
            await asyncio.wait({adding})
            with contextlib.suppress(sqlite3.Error):  # recovery forgets what has no directory
                await self._threads.in_index(lambda: self._catalogue.remove(record.job_id))
            raise
        try:
            await adding
        except sqlite3.Error as error:
            # The job runs; the next recovery adds it. Until then it is found by its id.
            _logger.error("cannot enter job %s into the catalogue: %s", record.job_id, error)
        return progress

    async def sync(self, started: Started) -> None:
        """Bring the order to the disk, and leave the job's lock to its keeper alone."""
        # Nobody waits for the disk: a crash of the host in this moment ends the job anyhow, and
        # what is forgotten of it is its record. A retry with its request id starts it anew.
        try:
            await self._threads.in_files(started.directory.sync)
        finally:
            started.directory.close()

    async def kill(self, job_id: str) -> None:
        """Kill all processes of a job whose keeper does not; nothing happens without a cgroup.

        Raises JobError (SPAWNER_UNAVAILABLE).
        """
        if self._instance.cgroup_root is not None:
            await self._ask({"op": "kill", "id": job_id})

    async def _ask(self, message: dict[str, object]) -> dict[str, object]:
        """Have the spawner do what can be done twice; raises JobError (SPAWNER_UNAVAILABLE)."""
        for _ in range(_TRIES):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                with theirs:
                    await self._spawner.send(message, (theirs.fileno(),))
                with contextlib.suppress(ConnectionError):  # it died; the next one is asked
                    return await _receive(ours)
        raise JobError(
            Reason.SPAWNER_UNAVAILABLE,
            f"cannot {message['op']} what is left of job {message['id']}: the spawner died",
            f"try again; the operator finds more in {self._instance.state_dir}/spawner.log",
        )

    async def sweep(self, job_id: str) -> None:
        """End what is left of a job whose keeper is gone; the caller holds the job's lock.

        Raises JobError: INTERNAL where its processes do not die or its group cannot be removed,
        SPAWNER_UNAVAILABLE.
        """
        answer = await self._ask({"op": "sweep", "id": job_id})
        if "swept" not in answer:
            failed = answer.get("failed")
            raise sweep_error(parse_failure(failed) if isinstance(failed, dict) else None, job_id)

    async def remove_home(self, job_id: str) -> int:
        """Have a job's own directory deleted, which is its owner's; return what that freed, bytes.

        Raises OSError where something of it stays, and JobError (SPAWNER_UNAVAILABLE).
        """
        home = f"{self._instance.work_dir}/{job_id}"
        if not await self._threads.in_removal(lambda: os.path.lexists(home)):
            return 0
        answer = await self._ask({"op": "remove", "id": job_id})
        if isinstance(failed := answer.get("failed"), dict):
            failure = parse_failure(failed)
            raise OSError(failure.errno, os.strerror(failure.errno), failure.path)
        return int(str(answer.get("freed", 0)))


async def _receive(sock: socket.socket) -> dict[str, object]:
    """Return the next message; raises ConnectionError where the peer ended without one."""
    sock.setblocking(False)
    await wait_readable(sock.fileno())
    received = sockets.receive_message(sock)
    if received is None:
        raise ConnectionError("the keeper ended")
    return received[0]


def _started(message: dict[str, object], record: JobRecord) -> Progress:
    if isinstance(failed := message.get("failed"), dict):
        raise start_error(parse_failure(failed), record.spec, record.limits)
    started = message.get("started") or message.get("ended")
    if not isinstance(started, dict):
        raise ConnectionError(f"the keeper said {message!r}")
    return parse_progress(started)


def _short_of(what: str, error: OSError) -> JobError:
    remedy = "free disk space on the server's host"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "the server is out of open files: end jobs, or raise its limit (ulimit -n)"
    return JobError(
        Reason.RESOURCE_EXHAUSTED, f"cannot start the job: {what}: {error.strerror}", remedy
    )


def _sealed_memfd(data: bytes) -> int:
    fd = os.memfd_create("spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        write_all(fd, data)
        fcntl.fcntl(
            fd,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
        )
    except BaseException:
        os.close(fd)
        raise
    return fd
