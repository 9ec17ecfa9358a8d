"""The instance's own certificate authority, and the certificates it gives to server and clients.

Everything is ECDSA P-256 and ends. A file that exists is never written again; a key that an
interrupted run has left is taken up, so that running again completes what is missing.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.rpc.tls import read_certificates, read_fitting_pair, read_private_key
from jobruntime.server.identity import check_user_name
from jobruntime.server.leaf import CLOCK_SKEW as CLOCK_SKEW
from jobruntime.server.leaf import Authority as Authority
from jobruntime.server.leaf import (
    Leaf,
    PrivateKey,
    builder_of,
    client_leaf,
    key_usage_of,
    server_leaf,
    sign_leaf,
    subject_of,
    validity_for,
)

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
PRIVATE_DIRECTORY: Final = 0o700
SHORTEST_VALID: Final = dt.timedelta(minutes=1)
_DAY: Final = dt.timedelta(days=1)
_NO_TIME: Final = dt.timedelta(0)
_KEY_MODE: Final = 0o600
_CERTIFICATE_MODE: Final = 0o644
_DNS_NAME = re.compile(r"(?:\*\.)?(?!-)[A-Za-z0-9-]{1,63}(?:\.(?!-)[A-Za-z0-9-]{1,63})*")


Record = Callable[[x509.Certificate], None]
"""What is told of each certificate, before it is written anywhere."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate and its private key are."""

    certificate: Path
    key: Path


def pair_at(directory: Path, name: str) -> Pair:
    """Return the places `name.crt` and `name.key` in `directory`."""
    return Pair(directory / f"{name}.crt", directory / f"{name}.key")


def make_authority(pair: Pair, *, now: dt.datetime | None = None) -> Authority:
    """Make a CA that signs leaf certificates only, valid for ten years.

    Raises JobError where its certificate exists, or a file cannot be written.
    """
    key = _new_key(pair)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = subject_of(f"jobd CA {key_id.digest.hex()[:16]}", ())
    usage = key_usage_of(sign_certificates=True)
    validity = validity_for(dt.timedelta(days=CA_DAYS), _utc_now(now))
    builder = (
        builder_of(name, name, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    _write_certificate(pair.certificate, certificate)
    return Authority(certificate, key)


def read_authority(pair: Pair) -> Authority:
    """Return the CA in the files; raises JobError (CONFIG_INVALID) if it cannot sign."""
    certificate, key = read_pair(pair)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        is_authority = constraints.value.ca
    except (x509.ExtensionNotFound, ValueError):
        is_authority = False
    if not is_authority:
        raise _unusable(pair.certificate, "it is not a CA's (basicConstraints CA:TRUE)")
    return Authority(certificate, key)


def read_pair(pair: Pair) -> tuple[x509.Certificate, PrivateKey]:
    """Return the first certificate of the file and its key.

    Raises JobError (CONFIG_INVALID) for files that cannot be read or do not belong together.
    """

    def parse(pem: bytes, key: bytes) -> tuple[x509.Certificate, PrivateKey]:
        return _parse_certificate(pair.certificate, pem), _parse_key(pair.key, key)

    def fits(pem: bytes, key: bytes) -> bool:
        certificate, private = parse(pem, key)
        return certificate.public_key() == private.public_key()

    found = read_fitting_pair(pair.certificate, pair.key, fits)
    if found is None:
        raise _unusable(pair.key, f"it is not the key of {pair.certificate}")
    return parse(*found)


def read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of the file; raises JobError (CONFIG_INVALID)."""
    return _parse_certificate(path, read_certificates(path))


def _parse_certificate(path: Path, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def issue_server(
    authority: Authority,
    pair: Pair,
    names: Sequence[str],
    *,
    days: int = LEAF_DAYS,
    now: dt.datetime | None = None,
    record: Record | None = None,
) -> x509.Certificate:
    """Write a server's key and certificate for these host names and IP addresses.

    Raises JobError where the certificate exists, a name is none, or a file cannot be written.
    """
    leaf = server_leaf(x509.SubjectAlternativeName(subject_names(names)))
    return _issue_leaf(authority, pair, leaf, dt.timedelta(days=days), _utc_now(now), record)


def issue_client(
    authority: Authority,
    pair: Pair,
    name: str,
    roles: Iterable[str],
    *,
    days: int = LEAF_DAYS,
    valid: dt.timedelta | None = None,
    now: dt.datetime | None = None,
    record: Record | None = None,
) -> x509.Certificate:
    """Write the key and certificate of the user `name` with at least one role.

    `record` gets the certificate before anybody can have it. Raises JobError where the certificate
    exists, the name is none, or a file cannot be written.
    """
    leaf = user_leaf(name, roles)
    valid = dt.timedelta(days=days) if valid is None else valid
    return _issue_leaf(authority, pair, leaf, valid, _utc_now(now), record)


def user_leaf(name: str, roles: Iterable[str]) -> Leaf:
    """Return what a user's certificate says; raises JobError for a wrong name and for no role."""
    check_user_name(name)
    chosen = sorted(set(roles))
    if not chosen:
        raise invalid(f"cannot make a certificate for {name} without a role", "name a role")
    return client_leaf(name, chosen)


def check_issued_by(authority: Authority, path: Path, certificate: x509.Certificate) -> None:
    """Refuse a certificate of another CA; raises JobError (CONFIG_INVALID)."""
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _unusable(path, "it is not signed by this instance's CA") from error


def subject_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """Return host names and IP addresses, each once, as a certificate has them.

    Raises JobError (INVALID_ARGUMENT) for what is neither.
    """
    found: dict[x509.GeneralName, None] = {}
    for name in names:
        try:
            found[x509.IPAddress(ipaddress.ip_address(name))] = None
        except ValueError:
            if not is_dns_name(name):
                raise invalid(
                    f"cannot put the name {name!a} into a certificate",
                    "give a DNS name in ASCII (xn--... for others) or an IP address",
                ) from None
            found[x509.DNSName(name.lower())] = None
    return list(found)


def is_dns_name(text: str) -> bool:
    """Return whether `text` can be a DNS name in a certificate."""
    return len(text) <= 253 and _DNS_NAME.fullmatch(text) is not None


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY, *, forbidden: int = 0o077) -> None:
    """Make a directory with exactly `mode`, or accept one that has no permission of `forbidden`.

    Raises JobError for one that grants more, or that belongs neither to the caller nor to root.
    """
    with reporting_os_errors(f"make the directory {path}"):
        try:
            path.mkdir(mode=PRIVATE_DIRECTORY)
        except FileExistsError:
            _check_directory(path, forbidden)
        else:
            path.chmod(mode)  # mkdir(2) takes the umask off


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole and safely to disk; its name appears last, and replaces nothing.

    Nobody but its owner can open it before it has its `mode`. Raises JobError, also where `path`
    exists (INSTANCE_IN_USE).
    """
    # A random name: what an interrupted run left is never in the way, and never taken for a key.
    partial = path.with_name(f".{secrets.token_hex(16)}.new")
    with reporting_os_errors(f"write {path}"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(partial, flags, _KEY_MODE), "wb") as file:
            try:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                os.link(partial, path)  # unlike rename(2), it fails where the name exists
            finally:
                partial.unlink()
        _sync_directory(path.parent)


@contextmanager
def reporting_os_errors(what: str) -> Iterator[None]:
    """Turn an OSError inside into the JobError "cannot <what>: <cause>"."""
    try:
        yield
    except FileExistsError as error:
        raise JobError(
            Reason.INSTANCE_IN_USE, f"cannot {what}: it exists", "move it away, or use it"
        ) from error
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise JobError(Reason.CONFIG_INVALID, f"cannot {what}: {cause}") from error


def _check_directory(path: Path, forbidden: int) -> None:
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode):
        raise _unusable(path, "it is not a directory")
    if about.st_uid not in (0, os.geteuid()):
        raise _unusable(path, f"it belongs to user {about.st_uid}, who could swap what is in it")
    if about.st_mode & forbidden:
        wanted = "go=" if forbidden & 0o055 else "go-w"
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot use the directory {path}: others have access to it "
            f"(mode {stat.S_IMODE(about.st_mode):04o})",
            f"run: chmod {wanted} {path}",
        )


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _new_key(pair: Pair) -> PrivateKey:
    """Write a fresh key, or return the one that an interrupted run left without certificate."""
    if os.path.lexists(pair.certificate):
        raise JobError(
            Reason.INSTANCE_IN_USE,
            f"cannot make the certificate {pair.certificate}: it exists",
            "move it and its key away to make another one",
        )
    if os.path.lexists(pair.key):
        return _read_key(pair.key)
    key, pem = generate_key()
    write_new(pair.key, pem, _KEY_MODE)
    return key


def generate_key() -> tuple[PrivateKey, bytes]:
    """Return a fresh key, and the same as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_key(path: Path) -> PrivateKey:
    return _parse_key(path, read_private_key(path))


def _parse_key(path: Path, data: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise _unusable(path, "it is not a PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _unusable(path, "it is neither an elliptic curve nor an RSA key")
    return key


def _issue_leaf(
    authority: Authority,
    pair: Pair,
    leaf: Leaf,
    valid: dt.timedelta,
    now: dt.datetime,
    record: Record | None,
) -> x509.Certificate:
    check_valid(authority, valid, now)
    key = _new_key(pair)
    certificate = sign_leaf(authority, key.public_key(), leaf, validity_for(valid, now))
    if record is not None:
        record(certificate)
    _write_certificate(pair.certificate, certificate)
    return certificate


def check_valid(authority: Authority, valid: dt.timedelta, now: dt.datetime) -> None:
    """Refuse a validity that is empty or longer than the CA's; raises JobError."""
    left = authority.certificate.not_valid_after_utc - now
    text = f"{valid.days} days" if valid % _DAY == _NO_TIME else str(valid)
    if valid < SHORTEST_VALID:
        raise invalid(f"cannot make a certificate for {text}", "give 1 minute or more")
    if valid > left:
        raise invalid(
            f"cannot make a certificate for {text}: the CA's own ends in {left.days} days",
            f"give at most {left.days} days"
            if left > _NO_TIME
            else "replace the CA: jobd cert rollover",
        )


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    write_new(path, certificate.public_bytes(Encoding.PEM), _CERTIFICATE_MODE)


def _utc_now(now: dt.datetime | None) -> dt.datetime:
    return (now or dt.datetime.now(dt.UTC)).replace(microsecond=0)


def _unusable(path: Path, cause: str) -> JobError:
    return JobError(Reason.CONFIG_INVALID, f"cannot use {path}: {cause}", "move it away and repeat")
