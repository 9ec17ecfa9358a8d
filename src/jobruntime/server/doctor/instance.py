"""Checks of one instance: its configuration, its places on disk, its certificates, its uids."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509

from jobruntime.model.errors import JobError
from jobruntime.model.limits import NO_LIMITS
from jobruntime.model.quantities import format_size
from jobruntime.server import pki
from jobruntime.server.account import server_account
from jobruntime.server.config import Config
from jobruntime.server.expiry import is_ending
from jobruntime.server.issued import server_names
from jobruntime.server.trust import is_issued_by, read_authorities
from jobruntime.server.worker_settings import settings_of
from jobruntime.worker.host import (
    FileSystem,
    disk_of,
    existing,
    read_file_system,
    sync_once,
    unmapped_uid,
)
from jobruntime.worker.instance import lock_holder
from jobruntime.worker.operator_limits import check_cpus, resolve_settings
from jobruntime.worker.policy import LimitPolicy
from jobruntime.worker.tree import check_all_jobs
from jobruntime.worker.trial import Trial
from jobruntime.worker.uids import find_accounts, taken_uid

from .certificates import check_clients, check_revocations
from .policy import check_policy
from .report import Check, Level, failed, failed_with, good, lacking

_MIB: Final = 1 << 20
_FEW_BYTES: Final = 64 * _MIB
_FEW_INODES: Final = 1000
_SMALL_PART: Final = 0.05
_FORGETFUL: Final = ("tmpfs", "ramfs", "devtmpfs")
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs")
_RENEW: Final = 'renew it: "jobd cert renew", or as docs/certificates.md says'


def check_instance(config: Config) -> Iterator[Check]:
    """Check what the configuration names; nothing is changed, and a server may be running."""
    yield good("configuration", str(config.path))
    yield _check_server(config)
    yield from _check_state_dir(str(config.state_dir))
    yield from _check_work_dir(config)
    yield from _check_certificates(config)
    yield check_policy(config)
    if os.geteuid() == 0:
        yield _check_uids(config)
        yield _check_server_user(config)


def check_limits(config: Config, trial: Trial) -> Check:
    """Check that this host can hold jobs to the limits in the configuration."""
    try:
        settings = resolve_settings(settings_of(config))
        LimitPolicy(settings, trial.offer).check()
        check_all_jobs(settings.all_limits, trial.offer)
        check_cpus(settings, trial.jobs_group)
    except JobError as error:
        return failed_with("configured limits", error)
    given = (config.default_limits, config.ceiling, config.all_limits)
    if given == (NO_LIMITS,) * len(given):
        return good("configured limits", "none: jobs have the limits that they ask for")
    return good("configured limits", "this host can hold jobs to them")


def _check_server(config: Config) -> Check:
    state_dir = str(config.state_dir)
    try:
        owner = os.stat(state_dir).st_uid
        if owner not in _fitting_owners(config):
            return failed(
                "server",
                f"its state belongs to user {owner}, and this runs as user {os.geteuid()}",
                f"run this as the server's user: sudo -u '#{owner}' jobd doctor ...; or, as root, "
                "name its account with `user`",
            )
        pid = lock_holder(state_dir)
    except FileNotFoundError:
        return good("server", "it has never been started")
    except OSError as error:
        return failed("server", f"its state cannot be looked at: {error.strerror}", "run as root")
    if pid is None:
        return good("server", "none is running")
    return good("server", f"process {pid} is serving; it and its jobs are left alone", pid=pid)


def _fitting_owners(config: Config) -> set[int]:
    if os.geteuid() != 0:
        return {os.geteuid()}
    with contextlib.suppress(JobError):  # told of by itself
        return {0, server_account(config).uid}  # root's: it is given away at the next start
    return {0}


# ---------------------------------------------------------------- directories


def _check_state_dir(path: str) -> Iterator[Check]:
    place = existing(path)
    try:
        system = read_file_system(place)
        took_ms = sync_once(place) / 1e6
    except OSError as error:
        cause = f"cannot write in {place}: {error.strerror}"
        yield failed("state_dir", cause, "run this as the server's user; mend that file system")
        return
    if system.kind in _FORGETFUL:
        text = f"{path} is on {system.kind}: a reboot takes all records of jobs"
        yield lacking("state_dir", text, "set state_dir to a directory on a disk")
    elif system.kind in _REMOTE:
        text = f"{path} is on {system.kind}, where locks and syncs are less sure"
        yield lacking("state_dir", text, "set state_dir to a directory on a disk of this host")
    else:
        text = f"{path} is on {system.kind}, which syncs in {took_ms:.1f} ms"
        yield good("state_dir", text, sync_ms=round(took_ms, 3))
    yield _check_room(path, system)
    yield _check_disk("state_dir's disk", place, system)


def _check_room(path: str, system: FileSystem) -> Check:
    measured = {"free_bytes": system.free_bytes, "free_inodes": system.free_inodes}
    text = f"{format_size(system.free_bytes)} of {format_size(system.size_bytes)} are free"
    is_short = _is_short(system.free_bytes, system.size_bytes, _FEW_BYTES)
    has_none = system.free_bytes < _MIB
    if system.inodes:
        text += f", and {system.free_inodes} of {system.inodes} inodes"
        is_short |= _is_short(system.free_inodes, system.inodes, _FEW_INODES)
        has_none |= system.free_inodes == 0
    remedy = f"free some, or set state_dir elsewhere; what takes it: du -xh {path} | sort -h"
    if has_none:
        return failed("state_dir's room", text, remedy, **measured)
    if is_short:
        return lacking("state_dir's room", text, remedy, **measured)
    return good("state_dir's room", text, **measured)


def _is_short(free: int, whole: int, few: int) -> bool:
    return free < few or free < _SMALL_PART * whole


def _check_disk(name: str, place: str, system: FileSystem) -> Check:
    disk = disk_of(place)
    if disk.device:
        return good(
            name, f"{disk.device}, a block device whose I/O can be told", device=disk.device
        )
    return lacking(
        name,
        f"none ({disk.cause}): I/O there cannot be limited",
        f"use a directory on a disk instead of {system.kind}",
    )


def _check_work_dir(config: Config) -> Iterator[Check]:
    path = str(config.work_dir)
    place = existing(path)
    closed = _closed_directory(place) if os.geteuid() == 0 else None
    if closed is not None:
        text = f"jobs, which run as users of their own, cannot pass {closed}"
        yield failed("work_dir", text, f"run: chmod o+x {closed}")
        return
    try:
        system = read_file_system(place)
    except OSError as error:
        yield failed("work_dir", f"cannot look at {place}: {error.strerror}", "run as root")
        return
    yield good("work_dir", f"{path} is on {system.kind}")
    yield _check_disk("work_dir's disk", place, system)


def _closed_directory(path: str) -> str | None:
    for directory in (Path(path), *Path(path).parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return str(directory)
    return None


# ---------------------------------------------------------------- certificates and users


def _check_certificates(config: Config) -> Iterator[Check]:
    tls = config.tls
    _, ca_check = _read_dated("CA certificate", tls.ca)
    yield ca_check
    server, server_check = _read_dated("server certificate", tls.cert)
    yield server_check
    if server is None:
        return
    yield _check_key(config)
    yield _check_names(config, server)
    if ca_check.level is not Level.FAILED:
        yield _check_issuer(config, server)
    yield check_revocations(config)
    yield from check_clients(config)


def _read_dated(name: str, path: Path) -> tuple[x509.Certificate | None, Check]:
    try:
        certificate = pki.read_certificate(path)
    except JobError as error:
        return None, failed_with(name, error)
    now, end = dt.datetime.now(dt.UTC), certificate.not_valid_after_utc
    left = end - now
    if left <= dt.timedelta(0):
        return certificate, failed(name, f"{path} expired on {end:%Y-%m-%d}", _RENEW)
    if certificate.not_valid_before_utc > now:
        begin = certificate.not_valid_before_utc
        text = f"{path} is not valid before {begin:%Y-%m-%d %H:%M} UTC"
        return certificate, failed(name, text, "set this host's clock: timedatectl set-ntp true")
    text = f"valid until {end:%Y-%m-%d} ({left.days} days)"
    hours = left // dt.timedelta(hours=1)
    if is_ending(certificate, now):
        return certificate, lacking(name, text, _RENEW, days_left=left.days, hours_left=hours)
    return certificate, good(name, text, days_left=left.days, hours_left=hours)


def _check_key(config: Config) -> Check:
    try:
        pki.read_pair(pki.Pair(config.tls.cert, config.tls.key))
    except JobError as error:
        return failed_with("server key", error)
    return good("server key", "nobody else can read it, and it fits its certificate")


def _check_names(config: Config, certificate: x509.Certificate) -> Check:
    names = server_names(certificate)
    text = f"the certificate is for {', '.join(names) or 'no name at all'}"
    host = config.listen.host
    remedy = 'add the names that clients use, see "Renewing" in docs/certificates.md'
    if not names:
        return failed("server names", text, remedy)
    if host not in ("0.0.0.0", "::", "") and host.lower() not in names:  # noqa: S104 - any address
        return lacking("server names", f"{text}, and not for {host}, where it listens", remedy)
    return good("server names", text)


def _check_issuer(config: Config, certificate: x509.Certificate) -> Check:
    _, authorities = read_authorities(config.tls.ca)
    if any(is_issued_by(certificate, authority) for authority in authorities):
        return good("server's CA", "clients with this CA trust the server")
    text = f"no CA in {config.tls.ca} has signed the server's certificate"
    return lacking("server's CA", text, "give clients the CA that has signed it")


def _check_uids(config: Config) -> Check:
    uids = range(config.uid_first, config.uid_first + config.uid_count)
    text = f"{uids.start} to {uids.stop - 1}"
    mend = "set jobs.uid_first and jobs.uid_count to uids that nobody has"
    unmapped = unmapped_uid(uids)
    if unmapped is not None:
        return failed("uids", f"{text}: this user namespace does not have {unmapped}", mend)
    taken = [user.pw_name for user in pwd.getpwall() if user.pw_uid in uids]
    if taken:
        return failed("uids", f"{text}: the user {taken[0]} has one of them", mend)
    if somebody := taken_uid(uids):
        return failed("uids", f"{text}: {somebody}", mend)
    try:
        find_accounts(config.users.accounts, uids)
    except JobError as error:
        return failed_with("uids", error)
    return good("uids", f"{text}, one for each owner; no user of this host has one")


def _check_server_user(config: Config) -> Check:
    try:
        account = server_account(config)
    except JobError as error:
        return failed_with("server's user", error)
    if unmapped_uid(range(account.uid, account.uid + 1)) is not None:
        text = f"this user namespace does not have uid {account.uid}"
        return failed("server's user", text, "make an account, and name it with `user`")
    return good("server's user", f"uid {account.uid}, without privileges", uid=account.uid)
