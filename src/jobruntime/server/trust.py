"""Whom the server trusts at this moment: its CAs, its revocation lists, its own certificate.

All of it is read anew when a file has changed, without a restart. What cannot be used then is told
in the log, and the last that could be used stays.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.tls import (
    ServerPair,
    changing_server_credentials,
    grpc,
    read_certificates,
    read_revocation_lists,
    read_server_pair,
)

from .config import TlsFiles
from .crl import NO_LISTS, RevocationLists, check_fresh, parse_lists
from .identity import Identity, format_serial, refused
from .issued import ca_id
from .streams import OpenStreams

T = TypeVar("T")
_logger = logging.getLogger("jobd")
_MOST_VERDICTS: Final = 10_000

Signature = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """What the files of [tls] held when they were last usable."""

    pair: ServerPair
    ca: bytes
    authorities: tuple[x509.Certificate, ...]
    lists: RevocationLists
    verdicts: dict[bytes, JobError | None] = field(default_factory=dict)
    """What was found of each client certificate, by its PEM; made anew with each material."""

    def judge(self, identity: Identity) -> JobError | None:
        """Return why this client certificate does not count, None where it does."""
        if identity.pem not in self.verdicts:
            if len(self.verdicts) >= _MOST_VERDICTS:
                self.verdicts.clear()
            self.verdicts[identity.pem] = self._judge(identity.certificate)
        return self.verdicts[identity.pem]

    def _judge(self, certificate: x509.Certificate) -> JobError | None:
        # gRPC has checked the signature, when the connection was made: against the CAs of then.
        authority = next((one for one in self.authorities if is_issued_by(certificate, one)), None)
        if authority is None:
            return refused("the client certificate is of no CA that the server trusts (now)")
        at = self.lists.revoked_at(ca_id(authority), certificate.serial_number)
        if at is None:
            return None
        return refused(f"the client certificate was revoked at {at:%Y-%m-%d %H:%M:%S} UTC")


class Trust:
    """Keeps the material up to date, and cuts streams whose certificate does not count any more.

    `refresh` may be called in any thread, all else in the event loop's.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read everything.

        Raises JobError (CONFIG_INVALID), also for a revocation list that is missing or out of date.
        """
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._look()
        self.material = _read(files)
        check_start(files, self.material)
        self.streams = OpenStreams(self.check)
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files; from now on streams are cut in this loop."""
        self._loop = asyncio.get_running_loop()
        served = self.material

        def changed() -> tuple[ServerPair, bytes] | None:
            nonlocal served
            self.refresh()
            found = self.material
            if (found.pair, found.ca) == (served.pair, served.ca):
                return None
            served = found
            return found.pair, found.ca

        return changing_server_credentials((served.pair, served.ca), changed)

    def check(self, identity: Identity) -> None:
        """Refuse a certificate that is revoked, or of a CA that is not trusted any more.

        Looks first whether a file has changed, so it holds for the very next call. Raises JobError
        (UNAUTHENTICATED).
        """
        self.refresh()
        error = self.material.judge(identity)
        if error is not None:
            raise JobError(error.reason, error.message, error.remedy)

    def check_lists(self) -> None:
        """Refuse revocation lists that are out of date by now; raises JobError."""
        check_list_time(self._files.crl, self.material.lists)

    def refresh(self, *, force: bool = False) -> None:
        """Read the files again if one of them has changed, or in any case."""
        if not force and self._look() == self._seen:
            return
        with self._lock:
            seen = self._look()
            if not force and seen == self._seen:
                return
            before, self.material = self.material, self._read_again()
            self._seen = seen
        _tell_changes(before, self.material)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.streams.look)

    @property
    def directories(self) -> frozenset[str]:
        """Where the files are: what changes there may concern them."""
        paths = [path for path in _paths(self._files) if path is not None]
        return frozenset(
            os.fspath(place.parent)
            for path in paths
            for place in (path, Path(os.path.realpath(path)))
        )

    def _read_again(self) -> Material:
        old = self.material
        pair = _or_old(old.pair, lambda: read_server_pair(self._files.cert, self._files.key))
        ca, authorities = _or_old(
            (old.ca, old.authorities), lambda: read_authorities(self._files.ca)
        )
        try:
            lists = read_lists(self._files.crl, authorities)
            check_list_time(self._files.crl, lists)
        except JobError as error:
            _logger.error("%s; the list that was read before stays in force", error)
            lists = old.lists
        return Material(pair, ca, authorities, lists)

    def _look(self) -> Signature:
        return tuple(_signature(path) for path in _paths(self._files))


def read_authorities(path: Path) -> tuple[bytes, tuple[x509.Certificate, ...]]:
    """Return the CAs in the file, as PEM and parsed; raises JobError (CONFIG_INVALID)."""
    pem = read_certificates(path, remedy="check [tls] in the server's configuration")
    try:
        return pem, tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise _unusable("CA certificates", path, str(error)) from error


def read_lists(path: Path | None, authorities: tuple[x509.Certificate, ...]) -> RevocationLists:
    """Return the revocation lists in the file; raises JobError (CONFIG_INVALID)."""
    if path is None:
        return NO_LISTS
    try:
        return parse_lists(read_revocation_lists(path), authorities)
    except ValueError as error:
        raise _unusable("revocation list", path, str(error)) from error


def check_list_time(path: Path | None, lists: RevocationLists) -> None:
    """Refuse a list that should have been replaced; raises JobError (CONFIG_INVALID)."""
    try:
        check_fresh(lists, dt.datetime.now(dt.UTC))
    except ValueError as error:
        raise _unusable("revocation list", path or Path(), str(error)) from error


def check_start(files: TlsFiles, material: Material) -> None:
    """Refuse to serve with a list that is out of date, and tell of what is not covered by any."""
    check_list_time(files.crl, material.lists)
    for issuer in material.lists.strangers:
        _logger.warning("%s has a list of %s, which is no CA here", files.crl, issuer)
    for authority in material.authorities:
        if files.crl is not None and ca_id(authority) not in material.lists.by_ca:
            name = authority.subject.rfc4514_string()
            _logger.warning("%s has no list of %s: nothing of it is revoked", files.crl, name)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether the CA has signed the certificate; time and revocation are not looked at."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(files: TlsFiles) -> Material:
    ca, authorities = read_authorities(files.ca)
    pair = read_server_pair(files.cert, files.key)
    return Material(pair, ca, authorities, read_lists(files.crl, authorities))


def _or_old(old: T, read: Callable[[], T]) -> T:
    try:
        return read()
    except JobError as error:
        _logger.error("%s; what was read before stays in force", error)
        return old


def _tell_changes(before: Material, now: Material) -> None:
    if before.pair != now.pair:
        serial = format_serial(x509.load_pem_x509_certificate(now.pair.chain).serial_number)
        _logger.info("new connections get the new server certificate, serial %s", serial)
    if before.ca != now.ca:
        names = ", ".join(one.subject.rfc4514_string() for one in now.authorities)
        _logger.info("client certificates now are those of %s", names)
    if before.lists is not now.lists and before.lists != now.lists:
        _logger.info("the revocation list was read anew")


def _paths(files: TlsFiles) -> tuple[Path | None, ...]:
    return files.cert, files.key, files.ca, files.crl


def _signature(path: Path | None) -> tuple[int, int, int, int] | None:
    try:
        about = os.stat(path) if path is not None else None
    except OSError:
        return None
    if about is None:
        return None
    return about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_size


def _unusable(what: str, path: Path, cause: str) -> JobError:
    return JobError(
        Reason.CONFIG_INVALID,
        f"cannot use the {what} {path}: {cause}",
        "correct it, or tls in jobd.toml, as docs/certificates.md tells",
    )
