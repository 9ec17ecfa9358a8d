"""The program that holds the CA's key believes nothing of what it is told."""

from __future__ import annotations

import base64
import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from jobruntime.model.access import Role
from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.renewal import signed_bytes
from jobruntime.server import cert_revoke, cert_rollover, pki
from jobruntime.server.authorities import Premises, premises_at
from jobruntime.server.config import parse_address
from jobruntime.server.identity import identity_in
from jobruntime.server.init_instance import InitOptions, init_instance
from jobruntime.server.issued import read_issued
from jobruntime.server.leaf import Authority, PrivateKey, subject_of
from jobruntime.server.signer import next_validity, renew
from tests.certificates import SERVER, odd_certificate

DAY = dt.timedelta(days=1)


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    init_instance(InitOptions(tmp_path / "i", parse_address("127.0.0.1:7443"), "ada"))
    return premises_at(tmp_path / "i")


@pytest.fixture
def authority(premises: Premises) -> Authority:
    return pki.read_authority(premises.ca)


@pytest.fixture
def alice(premises: Premises, authority: Authority) -> pki.Pair:
    pair = pki.pair_at(premises.pki_dir / "clients", "alice")
    pki.issue_client(authority, pair, "alice", [Role.USER], days=7)
    return pair


def csr_of(key: PrivateKey, *, name: str = "alice", role: str = "user") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_of(name, [role]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def request_of(
    pair: pki.Pair, csr: bytes, *, signer: PrivateKey | None = None
) -> dict[str, object]:
    key = pki.read_pair(pair)[1] if signer is None else signer
    data = signed_bytes(x509.load_pem_x509_csr(csr).public_bytes(Encoding.DER))
    if isinstance(key, rsa.RSAPrivateKey):
        proof = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    else:
        proof = key.sign(data, ec.ECDSA(hashes.SHA256()))
    return {
        "certificate": pair.certificate.read_text(),
        "csr": csr.decode(),
        "proof": base64.b64encode(proof).decode(),
    }


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def refusal(request: dict[str, object], premises: Premises) -> JobError:
    before = read_issued(premises.pki_dir)
    with pytest.raises(JobError) as caught:
        renew(request, premises)
    assert read_issued(premises.pki_dir) == before
    return caught.value


def test_name_and_roles_are_those_of_the_present_certificate_whatever_the_request_says(
    premises: Premises, alice: pki.Pair
) -> None:
    key = new_key()
    answer = renew(request_of(alice, csr_of(key, name="root", role="admin")), premises)

    pem = answer["certificate"].encode()
    new = x509.load_pem_x509_certificate(pem)
    principal = identity_in(pem).principal
    assert (principal.name, set(principal.roles)) == ("alice", {Role.USER})
    assert new.public_key() == key.public_key()
    assert new.not_valid_after_utc - new.not_valid_before_utc == 7 * DAY + pki.CLOCK_SKEW
    assert answer["ca"] == premises.ca.certificate.read_text()
    recorded = read_issued(premises.pki_dir)[0][-1]
    assert (recorded.serial, recorded.by) == (principal.serial, "api")


def test_who_does_not_have_the_present_key_gets_nothing(
    premises: Premises, authority: Authority, alice: pki.Pair
) -> None:
    csr = csr_of(new_key())
    bob = pki.pair_at(premises.pki_dir / "clients", "bob")
    pki.issue_client(authority, bob, "bob", [Role.USER])
    for signer in (new_key(), pki.read_pair(bob)[1]):
        error = refusal(request_of(alice, csr, signer=signer), premises)
        assert error.reason is Reason.PERMISSION_DENIED
    # A proof that was made for another request.
    request = request_of(alice, csr)
    request["csr"] = csr_of(new_key()).decode()
    assert refusal(request, premises).reason is Reason.PERMISSION_DENIED


def test_a_certificate_that_does_not_count_is_not_renewed(
    premises: Premises, authority: Authority, tmp_path: Path
) -> None:
    other = pki.make_authority(pki.pair_at(tmp_path, "other-ca"))
    foreign = pki.pair_at(tmp_path, "foreign")
    pki.issue_client(other, foreign, "alice", [Role.USER])
    kind = {"names": ["alice"], "roles": ["user"]}
    pairs = {
        "of no CA": foreign,
        "expired": odd_certificate(authority, tmp_path, "old", ends_in=-DAY / 2, **kind),  # type: ignore[arg-type]
        "not valid yet": odd_certificate(authority, tmp_path, "early", starts_in=DAY / 2, **kind),  # type: ignore[arg-type]
        "not made for clients": odd_certificate(
            authority, tmp_path, "server", usages=[SERVER], names=["alice"], roles=["user"]
        ),
        "as a role": odd_certificate(
            authority, tmp_path, "role", names=["alice"], roles=["user", "root"]
        ),
        "no user": odd_certificate(authority, tmp_path, "slash", names=["../ca"], roles=["user"]),
    }
    for words, pair in pairs.items():
        error = refusal(request_of(pair, csr_of(new_key())), premises)
        assert error.reason is Reason.UNAUTHENTICATED, words
        assert words in error.message


def test_a_revoked_certificate_is_not_renewed(premises: Premises, alice: pki.Pair) -> None:
    from argparse import Namespace

    serial = f"{pki.read_certificate(alice.certificate).serial_number:X}"
    cert_revoke.run(Namespace(dir=premises.directory, what=serial, all=False, unrecorded=False))

    error = refusal(request_of(alice, csr_of(new_key())), premises)

    assert (error.reason, "was revoked" in error.message) == (Reason.UNAUTHENTICATED, True)


def test_during_a_change_of_the_ca_the_new_one_signs_for_certificates_of_the_old(
    premises: Premises, authority: Authority, alice: pki.Pair
) -> None:
    from argparse import Namespace

    cert_rollover.run(Namespace(dir=premises.directory, step="start", force=False))

    answer = renew(request_of(alice, csr_of(new_key())), premises)

    new = x509.load_pem_x509_certificate(answer["certificate"].encode())
    fresh = pki.read_authority(premises.ca).certificate
    assert fresh != authority.certificate
    new.verify_directly_issued_by(fresh)
    assert answer["ca"].count("BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("csr", "nonsense"),
        ("csr", "x" * 40_000),
        ("csr", None),
        ("proof", "not base64!"),
        ("proof", 7),
        ("certificate", None),
    ],
)
def test_a_request_that_is_none_is_refused(
    premises: Premises, alice: pki.Pair, name: str, value: object
) -> None:
    request = request_of(alice, csr_of(new_key())) | {name: value}
    assert refusal(request, premises).reason is Reason.INVALID_ARGUMENT


def test_a_weak_new_key_is_refused(premises: Premises, alice: pki.Pair) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is to be refused
    error = refusal(request_of(alice, csr_of(weak)), premises)
    assert (error.reason, "too weak" in error.message) == (Reason.INVALID_ARGUMENT, True)


def test_without_the_cas_key_nothing_is_signed(premises: Premises, alice: pki.Pair) -> None:
    premises.ca.key.unlink()
    error = refusal(request_of(alice, csr_of(new_key())), premises)
    assert (error.reason, bool(error.remedy)) == (Reason.CONFIG_INVALID, True)


def test_the_next_validity_is_as_long_as_the_present_one_within_bounds(
    premises: Premises, alice: pki.Pair
) -> None:
    present = pki.read_certificate(alice.certificate)
    now = dt.datetime.now(dt.UTC)
    far = now + 9999 * DAY
    assert next_validity(present, far, 9999 * DAY, now).end == now + 7 * DAY
    assert next_validity(present, far, 2 * DAY, now).end == now + 2 * DAY
    assert next_validity(present, now + DAY, 9 * DAY, now).end == now + DAY


def test_as_a_program_it_answers_errors_as_json(premises: Premises, alice: pki.Pair) -> None:
    command = [sys.executable, "-I", "-m", "jobruntime.server.signer"]
    command.append(str(premises.directory / "jobd.toml"))
    good = json.dumps(request_of(alice, csr_of(new_key()))).encode()
    answers = [
        json.loads(subprocess.run(command, input=data, capture_output=True, timeout=60).stdout)
        for data in (good, b"[]")
    ]
    assert set(answers[0]) == {"certificate", "ca"}
    assert answers[1]["error"]["reason"] == "INVALID_ARGUMENT"
