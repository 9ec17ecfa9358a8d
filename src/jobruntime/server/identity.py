"""Who is calling: a principal from the verified client certificate, and from nothing else."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from jobruntime.model.access import Principal
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.names import MAX_NAME_CHARS, name_fault
from jobruntime.model.policy import DEFAULT_POLICY

_REMEDY: Final = "ask the server's operator for a certificate made by `jobd cert issue`"


@dataclass(frozen=True, slots=True)
class Identity:
    """A client certificate that names a user and his roles, and what it says."""

    principal: Principal
    pem: bytes
    certificate: x509.Certificate

    def check_validity(self, now: dt.datetime | None = None) -> None:
        """Refuse a certificate outside its time; raises JobError (UNAUTHENTICATED)."""
        now = dt.datetime.now(dt.UTC) if now is None else now
        end = self.certificate.not_valid_after_utc
        if now < self.certificate.not_valid_before_utc:
            raise refused("the client certificate is not valid yet", "compare the hosts' clocks")
        if now > end:
            raise refused(f"the client certificate expired at {end:%Y-%m-%d %H:%M:%S} UTC")


def principal_of(
    auth_context: Mapping[str, Sequence[bytes]],
    *,
    now: dt.datetime | None = None,
    known_roles: Collection[str] = DEFAULT_POLICY.known,
) -> Principal:
    """Return the principal of a call from gRPC's `context.auth_context()`.

    The name is the certificate's only CN, the roles are its O values, the serial is in upper-case
    hex as openssl prints it. Validity is looked at again for each call, because a connection may
    outlive its certificate. Raises JobError (UNAUTHENTICATED) for everything else than TLS 1.3 and
    one certificate with a proper name and known roles only.
    """
    return identity_of(auth_context, now=now, known_roles=known_roles).principal


def identity_of(
    auth_context: Mapping[str, Sequence[bytes]],
    *,
    now: dt.datetime | None = None,
    known_roles: Collection[str] = DEFAULT_POLICY.known,
) -> Identity:
    """Return what the certificate of a call says, as `principal_of` does."""
    identity = _identity_in(auth_context)
    identity.check_validity(now)
    check_known_roles(identity.principal.roles, known_roles)
    return identity


def expiry_of(auth_context: Mapping[str, Sequence[bytes]]) -> dt.datetime:
    """Return when the caller's certificate ends; the errors of `principal_of`."""
    return _identity_in(auth_context).certificate.not_valid_after_utc


def _identity_in(auth_context: Mapping[str, Sequence[bytes]]) -> Identity:
    if list(auth_context.get("ssl_tls_version", ())) != [b"TLSv1.3"]:
        raise refused("the connection is not TLS 1.3", "use a client that speaks TLS 1.3")
    certificates = list(auth_context.get("x509_pem_cert", ()))
    if len(certificates) != 1:
        raise refused("there is no client certificate", _REMEDY)
    return _read_identity(certificates[0])


def check_user_name(name: str) -> None:
    """Refuse a name that no certificate may carry; raises JobError (INVALID_ARGUMENT)."""
    fault = name_fault(name)
    if fault is not None:
        raise JobError(
            Reason.INVALID_ARGUMENT,
            f"cannot use {name[:MAX_NAME_CHARS]!a} as a user's name: {fault}",
            f"use 1 to {MAX_NAME_CHARS} letters, digits, '.', '_', '-' or '@', "
            "a letter or digit first",
        )


@lru_cache(maxsize=1024)
def _read_identity(pem: bytes) -> Identity:
    """Parse a certificate, once for all calls that show it; errors are not kept."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        with warnings.catch_warnings():
            # A name that is too long is refused below, and no reason to write to stderr.
            warnings.simplefilter("ignore")
            subject = certificate.subject
        usages = _extended_key_usages(certificate)
    except (ValueError, x509.DuplicateExtension) as error:
        raise refused("the client certificate cannot be parsed", _REMEDY) from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise refused("the certificate is not made for clients (clientAuth)", _REMEDY)
    principal = Principal(
        name=_name_in(subject),
        roles=_roles_in(subject),
        serial=format_serial(certificate.serial_number),
    )
    return Identity(principal, pem, certificate)


def identity_in(pem: bytes) -> Identity:
    """Return what a client certificate says, whatever its validity, as `principal_of` does."""
    return _read_identity(pem)


def format_serial(number: int) -> str:
    """Return a serial in upper-case hex, as openssl prints it."""
    serial = f"{number:X}"
    return serial.zfill(len(serial) + len(serial) % 2)


def _extended_key_usages(certificate: x509.Certificate) -> list[ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _name_in(subject: x509.Name) -> str:
    names = _texts(subject, NameOID.COMMON_NAME)
    if len(names) != 1:
        raise refused(f"the client certificate has {len(names)} common names (CN)", _REMEDY)
    fault = name_fault(names[0])
    if fault is not None:
        raise refused(f"the client certificate's common name (CN) is no user: {fault}", _REMEDY)
    return names[0]


def _roles_in(subject: x509.Name) -> frozenset[str]:
    texts = _texts(subject, NameOID.ORGANIZATION_NAME)
    if not texts:
        raise refused("the client certificate names no role (O)", _REMEDY)
    return frozenset(texts)


def check_known_roles(roles: Collection[str], known: Collection[str]) -> None:
    """Refuse a certificate with a role that is not `known`; raises JobError (UNAUTHENTICATED)."""
    # With each call, for the policy may have changed. One unknown role spoils all: it may be a
    # misspelt one, or one of a newer server.
    for role in sorted(roles):
        if role not in known:
            raise refused(
                f"the client certificate names {role[:MAX_NAME_CHARS]!a} as a role (O), "
                f"which is none of {', '.join(sorted(known))}",
                _REMEDY,
            )


def _texts(subject: x509.Name, oid: ObjectIdentifier) -> list[str]:
    values = [attribute.value for attribute in subject.get_attributes_for_oid(oid)]
    return [value if isinstance(value, str) else "" for value in values]


def refused(cause: str, remedy: str = _REMEDY) -> JobError:
    """Return the error that tells a caller why his certificate does not let him in."""
    return JobError(Reason.UNAUTHENTICATED, f"cannot accept the caller: {cause}", remedy)
