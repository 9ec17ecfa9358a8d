"""How a certificate is put together and signed; what its key is and where it goes is not known."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

CLOCK_SKEW: Final = dt.timedelta(minutes=5)
"""How far in the past validity starts: the other host's clock may be behind."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""Keys that may sign: ours are P-256, an authority brought along may be RSA."""
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that can sign."""

    certificate: x509.Certificate
    key: PrivateKey


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate is valid, in UTC."""

    begin: dt.datetime
    end: dt.datetime


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a server's or client's certificate says, but for its key and its time."""

    subject: x509.Name
    usage: ObjectIdentifier
    sans: x509.SubjectAlternativeName | None = None


def client_leaf(name: str, roles: Iterable[str]) -> Leaf:
    """Return what a user's certificate says."""
    return Leaf(subject_of(name, roles), ExtendedKeyUsageOID.CLIENT_AUTH)


def server_leaf(sans: x509.SubjectAlternativeName) -> Leaf:
    """Return what a server's certificate says."""
    return Leaf(subject_of("jobd", ()), ExtendedKeyUsageOID.SERVER_AUTH, sans)


def validity_for(valid: dt.timedelta, now: dt.datetime) -> Validity:
    """Return the time from `now` on, and a little before it."""
    return Validity(now - CLOCK_SKEW, now + valid)


def sign_leaf(
    authority: Authority, public: PublicKey, leaf: Leaf, validity: Validity
) -> x509.Certificate:
    """Return a certificate that cannot sign others."""
    issuer = authority.certificate
    builder = (
        builder_of(leaf.subject, issuer.subject, public, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage_of(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([leaf.usage]), critical=False)
        .add_extension(authority_key_id(issuer, authority.key.public_key()), critical=False)
    )
    if leaf.sans is not None:
        builder = builder.add_extension(leaf.sans, critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def builder_of(
    subject: x509.Name, issuer: x509.Name, public: PublicKey, validity: Validity
) -> x509.CertificateBuilder:
    """Return the builder of a certificate with a serial of its own."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.begin)
        .not_valid_after(validity.end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def authority_key_id(
    certificate: x509.Certificate, signer: PublicKey
) -> x509.AuthorityKeyIdentifier:
    """Return the identifier that the CA's own certificate has: another CA's tool may hash apart."""
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def key_usage_of(*, sign_certificates: bool) -> x509.KeyUsage:
    """Return the key usage of a CA, or of a server or client."""
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


def subject_of(common_name: str, organizations: Iterable[str]) -> x509.Name:
    """Return a subject of one CN and any number of O."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, str(o)) for o in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
