"""Renews a client's certificate, as a program of its own: `-m jobruntime.server.signer FILE`.

One JSON object on stdin, one on stdout, then it ends. It holds the CA's key while it runs, so it
believes nothing of what it is told: the present certificate has to be one of the CA's, in its time
and not revoked; its key has to have signed the request. Name and roles come from that certificate.
The network-facing server never sees the CA's key, and can't make it sign for anybody.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.rpc.renewal import MAX_CSR_BYTES, signed_bytes
from jobruntime.server import pki
from jobruntime.server.authorities import (
    Premises,
    premises_at,
    read_signing_authority,
    recorder,
)
from jobruntime.server.identity import Identity, check_known_roles, identity_in, refused
from jobruntime.server.issued import ca_id, changing
from jobruntime.server.leaf import CLOCK_SKEW, Authority, PublicKey, Validity, sign_leaf
from jobruntime.server.policy_file import read_policy_of
from jobruntime.server.trust import check_list_time, is_issued_by, read_authorities, read_lists

_MAX_REQUEST_BYTES: Final = 256 * 1024
_MIN_RSA_BITS: Final = 2048
_MIN_EC_BITS: Final = 256


def renew(request: dict[str, object], premises: Premises) -> dict[str, str]:
    """Return the new certificate and the CAs that clients shall trust, in PEM.

    Raises JobError: UNAUTHENTICATED for a certificate that does not count, PERMISSION_DENIED
    without a proof, INVALID_ARGUMENT for a request that is none, CONFIG_INVALID where nothing can
    be signed here.
    """
    certificate, csr_pem, proof = _parse(request)
    identity = identity_in(certificate)
    csr = _read_csr(csr_pem)
    _check_proof(identity.certificate, csr.public_bytes(Encoding.DER), proof)
    leaf = pki.user_leaf(identity.principal.name, identity.principal.roles)
    # From the look at the revocations on: whoever revokes must see what was signed before.
    with changing(premises.pki_dir):
        authority = _read_authority(premises)
        ca_pem = _check_present(identity, premises)
        validity = next_validity(
            identity.certificate,
            authority.certificate.not_valid_after_utc,
            dt.timedelta(milliseconds=premises.tls.renew_max_ms),
            dt.datetime.now(dt.UTC).replace(microsecond=0),
        )
        new = sign_leaf(authority, _public_key(csr), leaf, validity)
        recorder(premises.pki_dir, authority, "api")(new)
    return {"certificate": new.public_bytes(Encoding.PEM).decode(), "ca": ca_pem.decode()}


def next_validity(
    present: x509.Certificate, ca_end: dt.datetime, longest: dt.timedelta, now: dt.datetime
) -> Validity:
    """Return the time of the next certificate: as long as the present one's, at most `longest`.

    It never outlasts the CA.
    """
    length = min(present.not_valid_after_utc - present.not_valid_before_utc, longest + CLOCK_SKEW)
    begin = now - min(CLOCK_SKEW, length / 2)
    return Validity(begin, min(begin + length, ca_end))


def main(argv: list[str]) -> int:
    """Answer one request for the instance of the jobd.toml in `argv`."""
    try:
        [config] = argv
        request = json.loads(sys.stdin.buffer.read(_MAX_REQUEST_BYTES))
        if not isinstance(request, dict):
            raise invalid("cannot renew the certificate: the request is no object")
        answer: dict[str, object] = dict(renew(request, premises_at(Path(config).parent)))
    except JobError as error:
        answer = {
            "error": {
                "reason": error.reason.value,
                "message": error.message,
                "remedy": error.remedy,
            }
        }
    print(json.dumps(answer), flush=True)
    return 0


def _parse(request: dict[str, object]) -> tuple[bytes, bytes, bytes]:
    texts = [request.get(key) for key in ("certificate", "csr", "proof")]
    parts = [text.encode("ascii", "replace") for text in texts if isinstance(text, str)]
    if len(parts) != len(texts):
        raise invalid("cannot renew the certificate: a part of the request is missing")
    certificate, csr, proof = parts
    try:
        return certificate, csr, base64.b64decode(proof, validate=True)
    except ValueError as error:
        raise invalid("cannot renew the certificate: its proof is not base64") from error


def _read_authority(premises: Premises) -> Authority:
    if not premises.ca.key.exists():
        raise JobError(
            Reason.CONFIG_INVALID,
            "cannot renew the certificate: the CA's key is not on the server's host",
            "ask the operator for a new certificate",
        )
    return read_signing_authority(premises)


def _check_present(identity: Identity, premises: Premises) -> bytes:
    """Refuse a certificate that does not count at this moment; return the trusted CAs as PEM."""
    identity.check_validity()
    policy = read_policy_of(premises.directory / "jobd.toml")
    check_known_roles(identity.principal.roles, policy.known)
    ca_pem, authorities = read_authorities(premises.tls.ca)
    signer = next((one for one in authorities if is_issued_by(identity.certificate, one)), None)
    if signer is None:
        raise refused("the client certificate is of no CA that the server trusts")
    lists = read_lists(premises.tls.crl, authorities)
    check_list_time(premises.tls.crl, lists)
    if lists.revoked_at(ca_id(signer), identity.certificate.serial_number) is not None:
        raise refused("the client certificate was revoked")
    return ca_pem


def _read_csr(pem: bytes) -> x509.CertificateSigningRequest:
    if len(pem) > MAX_CSR_BYTES:
        raise invalid(f"cannot renew the certificate: the CSR is larger than {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(pem)
        if csr.is_signature_valid:
            return csr
    except (ValueError, TypeError) as error:
        raise invalid("cannot renew the certificate: the CSR is no PEM request") from error
    raise invalid("cannot renew the certificate: the CSR is not signed by its own key")


def _public_key(csr: x509.CertificateSigningRequest) -> PublicKey:
    key = csr.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= _MIN_EC_BITS:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise invalid(
        "cannot renew the certificate: the new key is too weak, or of another kind",
        f"use P-256, or RSA with {_MIN_RSA_BITS} bits or more",
    )


def _check_proof(present: x509.Certificate, csr_der: bytes, proof: bytes) -> None:
    key = present.public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(proof, signed_bytes(csr_der), ec.ECDSA(hashes.SHA256()))
            return
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(proof, signed_bytes(csr_der), padding.PKCS1v15(), hashes.SHA256())
            return
    except InvalidSignature:
        pass  # refused below, as a key of another kind is
    raise JobError(
        Reason.PERMISSION_DENIED,
        "cannot renew the certificate: the request is not signed by the present key",
        "use jobc renew, with the key of the certificate that it calls with",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
