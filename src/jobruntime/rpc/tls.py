"""Mutual TLS 1.3 for both ends of gRPC, and the only place that imports `grpc`.

Everybody else takes it from here (`from jobruntime.rpc.tls import grpc`), because one environment
variable has to be set before.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from jobruntime.model.errors import JobError, Reason

from .pairs import PENDING_SUFFIX

# grpcio offers TLS 1.2 and 1.3 and has no setting for a floor
# (https://github.com/grpc/grpc/issues/37305). This variable names the suites of TLS 1.2 only, those
# of 1.3 are fixed in BoringSSL. The one suite named here needs a pre-shared key, which nobody has:
# no TLS 1.2 handshake can succeed, whatever the kind of the certificates, and 1.3 is untouched.
# (The name of a TLS 1.3 suite is no way out: grpc then refuses to make credentials at all.)
_VARIABLE: Final = "GRPC_SSL_CIPHER_SUITES"
_NO_TLS12_SUITE: Final = "ECDHE-PSK-CHACHA20-POLY1305"


def _forbid_tls12() -> None:
    if "grpc" in sys.modules and os.environ.get(_VARIABLE) != _NO_TLS12_SUITE:
        raise RuntimeError(
            "cannot forbid TLS 1.2: grpc was imported before jobruntime.rpc.tls; "
            f"import jobruntime.rpc.tls first, or set {_VARIABLE}={_NO_TLS12_SUITE}"
        )
    os.environ[_VARIABLE] = _NO_TLS12_SUITE


_forbid_tls12()

import grpc  # noqa: E402 (the variable above has to be set first)
import grpc.aio  # noqa: E402 (loaded by grpc anyway; named here for the type checker)

__all__ = [
    "CHANNEL_OPTIONS",
    "MAX_MESSAGE_BYTES",
    "SERVER_OPTIONS",
    "ServerPair",
    "changing_server_credentials",
    "channel_credentials",
    "grpc",
    "read_certificates",
    "read_client_pair",
    "read_fitting_pair",
    "read_private_key",
    "read_revocation_lists",
    "read_server_pair",
    "server_credentials",
]

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""The largest message either end takes: Linux' 6 MiB of arguments (a status has them, too)."""

SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # grpc would share the port with a second server in silence.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A follower whose host went away is noticed within 80 s, and its log file closed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Below the clients' own interval, or their pings would count as abuse (GOAWAY, too_many_pings).
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Connections without a call are given back; a client makes a new one when it needs it.
    ("grpc.max_connection_idle_ms", 600_000),
)
"""Options for `grpc.aio.server`."""

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A silent job's log may send nothing for hours: go on pinging (the default stops after two).
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted server is found again in a moment (the defaults wait 1 s, growing to 2 minutes).
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Also the time that one attempt to connect may take; 20 s unless set.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # Straight to the server, whatever https_proxy says: the server is often this very host.
    ("grpc.enable_http_proxy", 0),
    # What a name server says must not change how calls are made.
    ("grpc.service_config_disable_resolution", 1),
)
"""Options for `grpc.aio.secure_channel` and `grpc.secure_channel`."""

_MAX_FILE_BYTES: Final = 1024 * 1024
_MAX_CRL_BYTES: Final = 64 * 1024 * 1024  # a million entries
_MOST_READINGS: Final = 20
_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----[^\n]*\n?", re.DOTALL
)
_KEY_MARK: Final = b"PRIVATE KEY-----"
_SERVER_REMEDY: Final = "check [tls] in the server's configuration"
_CLIENT_REMEDY: Final = "check JOBC_CA, JOBC_CERT and JOBC_KEY, the flags and the settings file"

FilePath = str | os.PathLike[str]
Fits = Callable[[bytes, bytes], bool]
"""Tells whether the key (the second) is that of the certificates; may raise JobError."""


def server_credentials(
    cert_path: FilePath, key_path: FilePath, ca_path: FilePath
) -> grpc.ServerCredentials:
    """Return credentials that ask every client for a certificate of the CA in `ca_path`.

    Raises JobError (CONFIG_INVALID) for a file that is missing, unreadable or not PEM, for a key
    that others can read, and for a key that is not the certificate's.
    """
    pair = read_server_pair(cert_path, key_path)
    ca = read_certificates(ca_path, remedy=_SERVER_REMEDY)
    return grpc.ssl_server_credentials([(pair.key, pair.chain)], ca, require_client_auth=True)


@dataclass(frozen=True, slots=True)
class ServerPair:
    """The server's private key and its certificate with what is between it and its CA, in PEM."""

    key: bytes = field(repr=False)
    chain: bytes


def read_server_pair(cert_path: FilePath, key_path: FilePath) -> ServerPair:
    """Return key and certificate; raises JobError (CONFIG_INVALID) as `server_credentials` does."""
    return ServerPair(*_read_pair(cert_path, key_path, _SERVER_REMEDY))


def read_client_pair(cert_path: FilePath, key_path: FilePath) -> tuple[bytes, bytes]:
    """Return a client's key and certificate; raises JobError as `channel_credentials` does."""
    return _read_pair(cert_path, key_path, _CLIENT_REMEDY)


def changing_server_credentials(
    first: tuple[ServerPair, bytes], changed: Callable[[], tuple[ServerPair, bytes] | None]
) -> grpc.ServerCredentials:
    """Return credentials that ask before each handshake whether pair and CAs have changed.

    `changed` returns None where they have not. gRPC calls it in threads of its own, one at a time.
    Connections that were made before live on. Clients need a certificate, as always.
    """

    def encode(pair: ServerPair, ca: bytes) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        found = changed()
        return None if found is None else encode(*found)

    # The stubs lack the None that means "as before".
    return grpc.dynamic_ssl_server_credentials(
        encode(*first),
        fetch,  # type: ignore[arg-type]
        require_client_authentication=True,
    )


def channel_credentials(
    ca_path: FilePath, cert_path: FilePath, key_path: FilePath
) -> grpc.ChannelCredentials:
    """Return credentials that trust servers of the CA in `ca_path` and show the client's own.

    Raises JobError (CONFIG_INVALID) as `server_credentials` does.
    """
    ca = read_certificates(ca_path, remedy=_CLIENT_REMEDY)
    key, chain = _read_pair(cert_path, key_path, _CLIENT_REMEDY)
    return grpc.ssl_channel_credentials(ca, key, chain)


def read_certificates(path: FilePath, *, remedy: str = "check the path") -> bytes:
    """Return the PEM certificates in the file, at least one, all of which can be parsed.

    Raises JobError (CONFIG_INVALID).
    """
    data, _ = _read_file(path, "certificate", remedy)
    pem = b"".join(_CERTIFICATE.findall(data))
    try:
        if not pem:
            raise ValueError("no certificate")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except ssl.SSLError as error:
        cause = f"it is not a PEM certificate that can be used ({error.reason or error})"
        raise _bad_file(path, "certificate", cause, remedy) from None
    except ValueError:
        raise _bad_file(path, "certificate", "it is not a PEM certificate", remedy) from None
    return pem


def read_revocation_lists(path: FilePath) -> bytes:
    """Return what the file of X.509 revocation lists holds, unparsed.

    Raises JobError (CONFIG_INVALID).
    """
    data, _ = _read_file(path, "revocation list", _SERVER_REMEDY, _MAX_CRL_BYTES)
    return data


def read_private_key(path: FilePath, *, remedy: str = "check the path") -> bytes:
    """Return the PEM private key in the file, which nobody but its owner may read.

    Raises JobError (CONFIG_INVALID). That it can be parsed is not checked here.
    """
    data, mode = _read_file(path, "private key", remedy)
    if mode & 0o077:
        raise _bad_file(
            path, "private key", f"others can reach it (mode {mode:04o})", f"run: chmod 600 {path}"
        )
    if b"ENCRYPTED" in data:
        raise _bad_file(
            path,
            "private key",
            "it is protected by a passphrase",
            f"write it without: openssl pkey -in {path} -out NEW",
        )
    if _KEY_MARK not in data:
        raise _bad_file(path, "private key", "it is not a PEM private key", remedy)
    return data


def read_fitting_pair(
    cert_path: FilePath, key_path: FilePath, fits: Fits, *, remedy: str = "check the path"
) -> tuple[bytes, bytes] | None:
    """Return certificates and key that fit, also while they are being replaced; None if none do.

    Raises JobError (CONFIG_INVALID) as `read_certificates` and `read_private_key` do.
    """
    before = None
    for _ in range(_MOST_READINGS):
        found = (
            read_certificates(cert_path, remedy=remedy),
            read_private_key(key_path, remedy=remedy),
        )
        if fits(*found):
            return found
        pending = _read_pending_key(key_path, found[0], fits)
        if pending is not None:
            return found[0], pending
        # Twice the same: both were there together, and no rename came before the look at `KEY.new`.
        # The certificate alone would not tell: it can be the new one, and `KEY.new` gone since.
        if found == before:
            break
        before = found
    return None


def _read_pair(cert_path: FilePath, key_path: FilePath, remedy: str) -> tuple[bytes, bytes]:
    """Return key and certificate chain, in gRPC's order, after a look whether they fit.

    gRPC itself would say no more than "failed to connect" or "failed to bind".
    """

    def fits(chain: bytes, key: bytes) -> bool:
        try:
            _load_pair(chain, key)
        except ssl.SSLError as error:
            if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
                return False
            cause = f"it is not a PEM private key that can be used ({error.reason or error})"
            raise _bad_file(key_path, "private key", cause, remedy) from None
        return True

    found = read_fitting_pair(cert_path, key_path, fits, remedy=remedy)
    if found is None:
        cause = f"it is not the key of the certificate {os.fspath(cert_path)}"
        raise _bad_file(key_path, "private key", cause, remedy)
    chain, key = found
    return key, chain


def _read_pending_key(key_path: FilePath, chain: bytes, fits: Fits) -> bytes | None:
    """Return the key that is about to replace the one in `key_path`, if it is the chain's."""
    try:
        key = read_private_key(f"{os.path.realpath(key_path)}{PENDING_SUFFIX}")
        return key if fits(chain, key) else None
    except JobError:
        return None


def _load_pair(chain: bytes, key: bytes) -> None:
    """Let OpenSSL load both; raises ssl.SSLError. It takes paths: memfds hold what was read."""
    fds: list[int] = []
    try:
        for data in (chain, key):
            fds.append(os.memfd_create("jobruntime-tls", os.MFD_CLOEXEC))
            with open(fds[-1], "wb", closefd=False) as file:
                file.write(data)
        cert, private = (f"/proc/self/fd/{fd}" for fd in fds)
        # The password is never used; without one OpenSSL would ask on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, private, password="")
    finally:
        for fd in fds:
            os.close(fd)


def _read_file(
    path: FilePath, what: str, remedy: str, most_bytes: int = _MAX_FILE_BYTES
) -> tuple[bytes, int]:
    """Return content and permission bits of one and the same regular file."""
    try:
        # A FIFO in its place must not block.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise _bad_file(path, what, "it is not a regular file", remedy)
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        cause = error.strerror if isinstance(error, OSError) else None
        raise _bad_file(path, what, (cause or str(error)).lower(), remedy) from error
    if len(data) > most_bytes:
        raise _bad_file(path, what, f"it is larger than {most_bytes} bytes", remedy)
    return data, stat.S_IMODE(about.st_mode)


def _bad_file(path: FilePath, what: str, cause: str, remedy: str) -> JobError:
    return JobError(
        Reason.CONFIG_INVALID, f"cannot use the {what} {os.fspath(path)}: {cause}", remedy
    )
