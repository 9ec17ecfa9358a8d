"""Certificates that no `jobd cert issue` would make, signed by an instance's own CA."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from jobruntime.server.pki import Authority, Pair, pair_at

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
DAY = dt.timedelta(days=1)


def odd_certificate(
    authority: Authority,
    directory: Path,
    file_name: str,
    *,
    names: Sequence[str],
    roles: Sequence[str],
    usages: Sequence[ObjectIdentifier] = (CLIENT,),
    hosts: Sequence[str] = (),
    starts_in: dt.timedelta = -DAY,
    ends_in: dt.timedelta = DAY,
) -> Pair:
    """Sign a certificate with exactly these CNs, Os and key usages, whatever they are."""
    pair = pair_at(directory, file_name)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(names, roles))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts_in)
        .not_valid_after(now + ends_in)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if hosts:
        dns = [x509.DNSName(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(dns), critical=False)
    pair.certificate.write_bytes(
        builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pair


def _subject(names: Sequence[str], roles: Sequence[str]) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, role) for role in roles]
    # Also longer than any is allowed to be.
    commons = [x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names]
    return x509.Name([*organizations, *commons])
