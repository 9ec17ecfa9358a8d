"""The record of all certificates that an instance's CA has signed: pki/issued.jsonl."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jobruntime.rpc.pairs import holding
from jobruntime.server.identity import format_serial
from jobruntime.server.pki import reporting_os_errors

RECORD_NAME: Final = "issued.jsonl"
_RECORD_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate. Times are UTC in RFC 3339; `ca` is the `ca_id` of who has signed it."""

    serial: str
    kind: str
    """`client` or `server`."""
    name: str
    """The user; of a server its host names, with commas."""
    roles: tuple[str, ...]
    not_before: str
    not_after: str
    ca: str
    by: str
    """What made it: `init`, `issue`, `renew`, or `api` for a renewal over the API."""

    @property
    def ends_at(self) -> dt.datetime:
        """The end of its validity."""
        return dt.datetime.fromisoformat(self.not_after)


@contextlib.contextmanager
def changing(pki_dir: Path) -> Iterator[None]:
    """Hold the lock of whoever changes what is in `pki_dir`; raises JobError."""
    with contextlib.ExitStack() as stack:
        with reporting_os_errors(f"lock {pki_dir}"):
            stack.enter_context(holding(pki_dir))
        yield


def ca_id(authority: x509.Certificate) -> str:
    """Return 16 hex digits that tell CAs apart, by their key."""
    spki = authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()[:16]


def describe(certificate: x509.Certificate, authority: x509.Certificate, by: str) -> Issued:
    """Return what the record says of a certificate."""
    subject = certificate.subject
    [name] = (attribute.value for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    roles = [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    is_server = ExtendedKeyUsageOID.SERVER_AUTH in _usages(certificate)
    return Issued(
        serial=format_serial(certificate.serial_number),
        kind="server" if is_server else "client",
        name=",".join(server_names(certificate)) if is_server else str(name),
        roles=tuple(str(role) for role in roles),
        not_before=certificate.not_valid_before_utc.isoformat(),
        not_after=certificate.not_valid_after_utc.isoformat(),
        ca=ca_id(authority),
        by=by,
    )


def record_issued(pki_dir: Path, issued: Issued) -> None:
    """Append one certificate, and bring it to the disk; raises JobError."""
    path = pki_dir / RECORD_NAME
    with reporting_os_errors(f"record the certificate in {path}"):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, _RECORD_MODE), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            line = json.dumps(asdict(issued), separators=(",", ":")).encode() + b"\n"
            if file.seek(0, os.SEEK_END) and _last_byte(file.fileno()) != b"\n":
                line = b"\n" + line  # a crash has cut the last one
            if file.write(line) != len(line):
                raise OSError(f"no room in {path}")
            os.fsync(file.fileno())


def read_issued(pki_dir: Path) -> tuple[list[Issued], int]:
    """Return the record in its order, and how many lines of it cannot be read; raises JobError."""
    path = pki_dir / RECORD_NAME
    try:
        with reporting_os_errors(f"read {path}"):
            lines = path.read_bytes().splitlines()
    except Exception:
        if not os.path.lexists(path):
            return [], 0
        raise
    found, damaged = [], 0
    for line in filter(None, lines):
        try:
            fields = json.loads(line)
            found.append(Issued(**{**fields, "roles": tuple(fields["roles"])}))
        except (ValueError, TypeError, KeyError):
            damaged += 1
    return found, damaged


def server_names(certificate: x509.Certificate) -> list[str]:
    """Return the host names and IP addresses in a certificate; none where it has no SANs."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [
        *found.get_values_for_type(x509.DNSName),
        *(str(address) for address in found.get_values_for_type(x509.IPAddress)),
    ]


def _usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, ValueError):
        return []


def _last_byte(fd: int) -> bytes:
    return os.pread(fd, 1, os.fstat(fd).st_size - 1)
