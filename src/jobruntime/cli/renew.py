"""`jobc renew`: a new key and a new certificate in the place of the present ones."""

from __future__ import annotations

import os
import time
from argparse import Action, ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .failure import Exit, Failure, tell
from .output import write_line
from .validity import format_left, read_validity
from .values import positive_duration_ms

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    from jobruntime.rpc.gen import service_pb2 as pb

    from .settings import Settings

USAGE = "[FLAGS]"
DESCRIPTION = """\
Get the next certificate before the present one ends: the same name and roles, a new key.

Certificate and key (--cert and --key, or what stands for them) are replaced together once the new
ones are there and fit. The present certificate stays valid until it ends.
"""
EPILOG = """\
examples:
  jobc renew
  jobc renew --if-expires-within 30d     for cron: does nothing while more is left
  jobc renew --update-ca                 when the operator replaces the CA
"""
_CA_MODE: Final = 0o644


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags of this verb."""
    add = parser.add_argument
    return [
        add(
            "--if-expires-within",
            type=positive_duration_ms,
            metavar="DURATION",
            help="do nothing if the certificate is valid for longer than that",
        ),
        add(
            "--update-ca",
            action="store_true",
            help="also replace the file of --ca by the CAs that the server names",
        ),
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Renew; raises Failure."""
    present = read_validity(settings.cert)
    within_ms = args.if_expires_within
    if within_ms is not None and present is not None:
        left_s = present.left_s(time.time())
        if left_s * 1000 > within_ms:
            write_line(f"nothing to do: valid for {format_left(left_s)} more")
            return Exit.OK
    response, key_pem, certificate = _renew(settings)
    _take_authorities(settings, response.ca_pem, update=args.update_ca)
    _replace(settings, response.certificate_pem, key_pem)
    end, serial = certificate.not_valid_after_utc, f"{certificate.serial_number:X}"
    serial = serial.zfill(len(serial) + len(serial) % 2)  # as openssl prints it
    write_line(
        f"renewed: serial {serial}, valid until {end:%Y-%m-%d %H:%M} UTC "
        f"({format_left(end.timestamp() - time.time())})"
    )
    return Exit.OK


def _renew(settings: Settings) -> tuple[pb.RenewResponse, bytes, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    old, old_key = _read_present(settings)
    _check_writable(settings)
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder().subject_name(old.subject).sign(key, hashes.SHA256())
    )
    proof = _sign(old_key, csr.public_bytes(Encoding.DER))
    request = pb.RenewRequest(csr_pem=csr.public_bytes(Encoding.PEM), proof=proof)
    response: pb.RenewResponse = call(
        settings,
        lambda stub: stub.Renew(request),
        if_lost="your certificate is the same as before; give the command again, that is safe",
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return response, key_pem, _check_answer(response, old, key)


def _read_present(
    settings: Settings,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from jobruntime.model.errors import JobError
    from jobruntime.rpc.tls import read_client_pair

    try:
        key_pem, chain = read_client_pair(settings.cert, settings.key)
    except JobError as error:
        raise Failure(Exit.OWN_FAILURE, error.message, error.remedy) from error
    key = load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Failure(
            Exit.OWN_FAILURE,
            f"cannot renew the certificate: {settings.key} is neither an elliptic curve nor an "
            "RSA key",
            "ask the operator for a new certificate",
        )
    return x509.load_pem_x509_certificate(chain), key


def _sign(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, csr_der: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding

    from jobruntime.rpc.renewal import signed_bytes

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(signed_bytes(csr_der), ec.ECDSA(hashes.SHA256()))
    return key.sign(signed_bytes(csr_der), padding.PKCS1v15(), hashes.SHA256())


def _check_answer(
    response: pb.RenewResponse, old: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Refuse an answer that would leave the user without a certificate that works."""
    from cryptography import x509

    try:
        new = x509.load_pem_x509_certificate(response.certificate_pem)
    except ValueError as error:
        raise _bad_answer("it is no certificate") from error
    if new.public_key() != key.public_key():
        raise _bad_answer("it is not for the new key")
    if _names(new) != _names(old):
        raise _bad_answer("it has another name, or other roles")
    if (
        not new.not_valid_before_utc.timestamp()
        <= time.time()
        < new.not_valid_after_utc.timestamp()
    ):
        raise _bad_answer("it is not valid at this moment; compare the clocks")
    return new


def _names(certificate: x509.Certificate) -> list[tuple[str, str]]:
    return sorted((one.oid.dotted_string, str(one.value)) for one in certificate.subject)


def _take_authorities(settings: Settings, pem: bytes, *, update: bool) -> None:
    from cryptography import x509

    from jobruntime.rpc.pairs import replace_file

    try:
        named = set(x509.load_pem_x509_certificates(pem))
        known = set(x509.load_pem_x509_certificates(settings.ca.read_bytes()))
    except (ValueError, OSError) as error:
        raise _bad_answer(f"the CAs cannot be compared ({error})") from error
    if named == known:
        return
    if not update:
        tell(f"the server names other CAs than {settings.ca} has: jobc renew --update-ca")
        return
    try:
        replace_file(Path(os.path.realpath(settings.ca)), pem, _CA_MODE)
    except OSError as error:
        raise _cannot_write(settings.ca, error) from error


def _check_writable(settings: Settings) -> None:
    """Find out before anything is asked for whether the files can be replaced."""
    for path in (settings.cert, settings.key):
        directory = Path(os.path.realpath(path)).parent
        if not os.access(directory, os.W_OK | os.X_OK):
            raise Failure(
                Exit.OWN_FAILURE,
                f"cannot renew the certificate: {directory} is not writable for you",
                "run it as the user whose files they are",
            )


def _replace(settings: Settings, certificate: bytes, key: bytes) -> None:
    from jobruntime.rpc.pairs import replace_pair

    try:
        replace_pair(settings.cert, settings.key, certificate, key)
    except OSError as error:
        raise _cannot_write(settings.cert, error) from error


def _cannot_write(path: Path, error: OSError) -> Failure:
    cause = (error.strerror or str(error)).lower()
    return Failure(
        Exit.OWN_FAILURE,
        f"cannot replace {path}: {cause}",
        "make room, or the directory writable, and give the command again",
    )


def _bad_answer(cause: str) -> Failure:
    return Failure(
        Exit.REFUSED,
        f"cannot use the new certificate: {cause}",
        "your present one is as it was; tell the server's operator",
    )
