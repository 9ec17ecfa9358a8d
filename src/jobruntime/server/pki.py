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
from collections.abc import Iterable, Iterator, Sequence
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
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.rpc.tls import read_certificates, read_private_key
from jobruntime.server.identity import check_user_name

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
CLOCK_SKEW: Final = dt.timedelta(minutes=5)
"""How far in the past validity starts: the other host's clock may be behind."""

PRIVATE_DIRECTORY: Final = 0o700
_KEY_MODE: Final = 0o600
_CERTIFICATE_MODE: Final = 0o644
_DNS_NAME = re.compile(r"(?:\*\.)?(?!-)[A-Za-z0-9-]{1,63}(?:\.(?!-)[A-Za-z0-9-]{1,63})*")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""Keys that may sign: ours are P-256, an authority brought along may be RSA."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate and its private key are."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that can sign."""

    certificate: x509.Certificate
    key: PrivateKey


def pair_at(directory: Path, name: str) -> Pair:
    """Return the places `name.crt` and `name.key` in `directory`."""
    return Pair(directory / f"{name}.crt", directory / f"{name}.key")


def make_authority(pair: Pair, *, now: dt.datetime | None = None) -> Authority:
    """Make a CA that signs leaf certificates only, valid for ten years.

    Raises JobError where its certificate exists, or a file cannot be written.
    """
    key = _new_key(pair)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _subject(f"jobd CA {key_id.digest.hex()[:16]}", ())
    usage = _key_usage(sign_certificates=True)
    builder = (
        _builder(name, name, key, _utc_now(now), CA_DAYS)
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
    certificate = read_certificate(pair.certificate)
    key = _read_key(pair.key)
    if certificate.public_key() != key.public_key():
        raise _unusable(pair.key, f"it is not the key of {pair.certificate}")
    return certificate, key


def read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of the file; raises JobError (CONFIG_INVALID)."""
    pem = read_certificates(path)
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
) -> x509.Certificate:
    """Write a server's key and certificate for these host names and IP addresses.

    Raises JobError where the certificate exists, a name is none, or a file cannot be written.
    """
    sans = x509.SubjectAlternativeName(subject_names(names))
    subject = _subject("jobd", ())
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    return _issue_leaf(authority, pair, subject, usage, days, _utc_now(now), sans=sans)


def issue_client(
    authority: Authority,
    pair: Pair,
    name: str,
    roles: Iterable[str],
    *,
    days: int = LEAF_DAYS,
    now: dt.datetime | None = None,
) -> x509.Certificate:
    """Write the key and certificate of the user `name` with at least one role.

    Raises JobError where the certificate exists, the name is none, or a file cannot be written.
    """
    check_user_name(name)
    chosen = sorted(set(roles))
    if not chosen:
        raise invalid(f"cannot make a certificate for {name} without a role", "name a role")
    subject = _subject(name, chosen)
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    return _issue_leaf(authority, pair, subject, usage, days, _utc_now(now))


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
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(pair.key, pem, _KEY_MODE)
    return key


def _read_key(path: Path) -> PrivateKey:
    data = read_private_key(path)
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
    subject: x509.Name,
    usage: ObjectIdentifier,
    days: int,
    now: dt.datetime,
    *,
    sans: x509.SubjectAlternativeName | None = None,
) -> x509.Certificate:
    _check_days(authority, days, now)
    key = _new_key(pair)
    signer = authority.key.public_key()
    builder = (
        _builder(subject, authority.certificate.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(_authority_key_id(authority.certificate, signer), critical=False)
    )
    if sans is not None:
        builder = builder.add_extension(sans, critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    _write_certificate(pair.certificate, certificate)
    return certificate


def _check_days(authority: Authority, days: int, now: dt.datetime) -> None:
    left = (authority.certificate.not_valid_after_utc - now).days
    if days < 1:
        raise invalid(f"cannot make a certificate for {days} days", "give 1 day or more")
    if days > left:
        raise invalid(
            f"cannot make a certificate for {days} days: the CA's own ends in {left} days",
            f"give at most {left} days" if left > 0 else "renew the CA, see docs/certificates.md",
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _authority_key_id(
    certificate: x509.Certificate, signer: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> x509.AuthorityKeyIdentifier:
    """Return the identifier that the CA's own certificate has: another CA's tool may hash apart."""
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(common_name: str, organizations: Iterable[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, str(o)) for o in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    write_new(path, certificate.public_bytes(Encoding.PEM), _CERTIFICATE_MODE)


def _utc_now(now: dt.datetime | None) -> dt.datetime:
    return (now or dt.datetime.now(dt.UTC)).replace(microsecond=0)


def _unusable(path: Path, cause: str) -> JobError:
    return JobError(Reason.CONFIG_INVALID, f"cannot use {path}: {cause}", "move it away and repeat")
