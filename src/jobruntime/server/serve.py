"""`jobd serve`: the server of one instance, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
from functools import partial
from typing import Final

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.gen import service_pb2_grpc
from jobruntime.rpc.memory import keep_large_blocks
from jobruntime.rpc.tls import SERVER_OPTIONS, grpc
from jobruntime.worker import LocalWorker
from jobruntime.worker.prepared import Prepared

from .access import AccessInterceptor
from .admissions import Admissions
from .audit import AuditLog, open_audit
from .config import Config, read_config
from .followers import Followers
from .monitor import configure_logging
from .notify import notify
from .open_files import raise_open_files
from .policies import Policies
from .programs import Programs
from .reload import Reloads
from .renewals import Renewals, asking
from .search import compile_search
from .service import JobService
from .trust import Trust
from .trust_watch import kept_fresh, reload_trust
from .worker_settings import settings_of

_logger = logging.getLogger("jobd")

_CALLS_GRACE_S: Final = 1.0
STOP_WITH_JOBS: Final = signal.SIGUSR2
"""Sent by `jobd stop --jobs`: end every job, then the server."""


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; return the exit code. Raises JobError."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to be read anew
    configure_logging()
    asyncio.run(serve(read_config(args.config)))
    return 0


async def serve(config: Config, prepared: Prepared | None = None) -> None:
    """Serve one instance until SIGTERM or SIGINT; its jobs go on.

    SIGHUP reads certificates and the policy anew.

    `prepared` is the instance where root has made it for this process.

    Raises JobError: CONFIG_INVALID, INSTANCE_IN_USE, SPAWNER_UNAVAILABLE.
    """
    keep_large_blocks()
    raise_open_files()  # a connection, a followed log and a running job each take one
    reloads = Reloads()
    requests: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for signo in (signal.SIGTERM, signal.SIGINT, STOP_WITH_JOBS):
        loop.add_signal_handler(signo, requests.put_nowait, signo)
    loop.add_signal_handler(signal.SIGHUP, reloads.request)
    trust = Trust(config.tls)
    policies = Policies(config, {} if prepared is None else prepared.disks)
    async with LocalWorker(settings_of(config), compile_search, prepared) as worker:
        reloads.add("certificates and revocation lists", partial(reload_trust, trust))
        reloads.add("the policy", partial(policies.reload, worker))
        await policies.warn(worker)
        try:
            async with open_audit(config.audit) as audit, reloads.running():
                with kept_fresh(trust):
                    await _serve_worker(config, trust, worker, policies, requests, audit, prepared)
        finally:
            await worker.retire()


async def _serve_worker(
    config: Config,
    trust: Trust,
    worker: LocalWorker,
    policies: Policies,
    requests: asyncio.Queue[int],
    audit: AuditLog,
    prepared: Prepared | None,
) -> None:
    server = grpc.aio.server(
        interceptors=[AccessInterceptor(lambda: policies.current, trust, audit)],
        options=list(SERVER_OPTIONS),
    )
    followers = Followers(config.logs.followers_per_user)
    admissions = Admissions(Programs(for_others=bool(worker.instance.uids)))
    renewals = Renewals(config.path, None if prepared is None else asking(prepared))
    service = JobService(worker, config.default_grace_ms, followers, admissions, renewals)
    service_pb2_grpc.add_JobServiceServicer_to_server(service, server)
    port = _bind(server, config, trust.serve())
    await server.start()
    for note in () if prepared is None else prepared.notes:
        _logger.info("%s", note)
    _announce(config, port, worker)
    notify("READY=1")
    if await requests.get() == STOP_WITH_JOBS:
        await _end_jobs(worker, requests)
    notify("STOPPING=1")
    _logger.info("stopping; jobs that go on: %d", len(worker.running))
    await server.stop(_CALLS_GRACE_S)


def _bind(server: grpc.aio.Server, config: Config, credentials: grpc.ServerCredentials) -> int:
    _check_address(config)
    try:
        return server.add_secure_port(str(config.listen), credentials)
    except RuntimeError as error:
        raise _cannot_listen(config, str(error), "") from error


def _check_address(config: Config) -> None:
    # grpc says only that it failed, and prints lines of its own; the kernel says why.
    host, port = config.listen.host, config.listen.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(address)
                sock.listen()  # REUSEADDR alone lets a second one bind beside a listener's port
    except OSError as error:
        remedies = {
            errno.EADDRINUSE: "stop what listens there",
            errno.EACCES: "let users have such a port (sysctl net.ipv4.ip_unprivileged_port_start)",
            errno.EADDRNOTAVAIL: "give this host's network that address",
        }
        remedy = remedies.get(error.errno or 0, "")
        raise _cannot_listen(config, (error.strerror or str(error)).lower(), remedy) from error


def _cannot_listen(config: Config, cause: str, remedy: str) -> JobError:
    change = f"change `listen` in {config.path}"
    return JobError(
        Reason.INSTANCE_IN_USE,
        f"cannot listen on {config.listen}: {cause}",
        f"{remedy}, or {change}" if remedy else change,
    )


def _announce(config: Config, port: int, worker: LocalWorker) -> None:
    instance = worker.instance
    tree = instance.tree
    _logger.info("cgroup: %s", tree.place if tree.root is None else tree.root)
    if tree.root is not None:
        _logger.info("cgroup v2 %s", tree.place)
    enforced = ", ".join(tree.offer.controllers) or "none"
    _logger.info("limits that jobs can have: %s", enforced)
    lacks = tree.offer.lacks
    for remedy in dict.fromkeys(lack.remedy for lack in lacks.values()):
        missing = [controller for controller, lack in lacks.items() if lack.remedy == remedy]
        _logger.info(
            "not to be had: %s (%s: %s)", ", ".join(missing), lacks[missing[0]].cause, remedy
        )
    if instance.uids:
        _logger.info(
            "jobs run as uids %d to %d, one for each owner",
            instance.uids.start,
            instance.uids.stop - 1,
        )
        if instance.accounts:
            _logger.info("and as, where the policy allows it: %s", ", ".join(instance.accounts))
    else:
        _logger.warning(
            "without root every job runs as this server's own user (uid %d): any job can read "
            "the server's key, its state and the other owners' output, signal the server, the "
            "keepers and other jobs, lift its own limits and leave its cgroup. Serve only users "
            "who trust each other, or run jobd as root",
            os.geteuid(),
        )
        if config.users.accounts:
            _logger.warning("without root no job can run as %s", ", ".join(config.users.accounts))
    host = f"[{config.listen.host}]" if ":" in config.listen.host else config.listen.host
    _logger.info("serving on %s:%d; %d jobs running", host, port, len(worker.running))


async def _end_jobs(worker: LocalWorker, requests: asyncio.Queue[int]) -> None:
    _logger.info("stopping all jobs, %d of them", len(worker.running))
    ending = asyncio.ensure_future(worker.stop_all(by="jobd stop"))
    hurry = asyncio.ensure_future(requests.get())
    done, _ = await asyncio.wait({ending, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if ending in done:
        ending.result()
    else:
        ending.cancel()
