import datetime as dt
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobruntime.model.access import Role
from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.tls import channel_credentials, server_credentials
from jobruntime.server import pki
from jobruntime.server.identity import principal_of
from jobruntime.server.issued import ca_id
from jobruntime.server.trust import check_list_time, read_lists

DOC = Path(__file__).parents[2] / "docs/certificates.md"


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.make_authority(pki.pair_at(tmp_path, "ca"))


def run(script: str, cwd: Path, **variables: str) -> str:
    env = {**os.environ, **variables}
    result = subprocess.run(
        ["sh", "-euc", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def documented(name: str) -> str:
    found = re.search(rf"<!-- tested: {name} -->\n```sh\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_openssl_accepts_each_certificate_for_its_own_purpose_only(
    tmp_path: Path, authority: pki.Authority
) -> None:
    pki.issue_server(authority, pki.pair_at(tmp_path, "server"), ["localhost", "::1"])
    pki.issue_client(authority, pki.pair_at(tmp_path, "alice"), "alice", [Role.USER])
    verify = "openssl verify -x509_strict -CAfile ca.crt -purpose"
    run(f"{verify} sslserver -verify_hostname localhost server.crt", tmp_path)
    run(f"{verify} sslserver -verify_ip ::1 server.crt", tmp_path)
    run(f"{verify} sslclient alice.crt", tmp_path)
    run(f"! {verify} sslclient server.crt", tmp_path)
    run(f"! {verify} sslserver alice.crt", tmp_path)


def test_a_ca_signs_leaf_certificates_only_for_ten_years(authority: pki.Authority) -> None:
    certificate = authority.certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (True, True)
    assert not usage.value.digital_signature
    validity = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert validity == dt.timedelta(days=3650) + pki.CLOCK_SKEW


def test_a_client_certificate_has_name_roles_and_nothing_but_client_use(
    tmp_path: Path, authority: pki.Authority
) -> None:
    roles = [Role.USER, Role.ADMIN, Role.USER]
    made = pki.issue_client(authority, pki.pair_at(tmp_path, "alice"), "alice", roles, days=7)
    assert made.subject.rfc4514_string() == "CN=alice,O=user,O=admin"
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    left = made.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=6, hours=23) < left <= dt.timedelta(days=7)


def test_serial_numbers_are_random_and_never_repeat(
    tmp_path: Path, authority: pki.Authority
) -> None:
    pairs = [pki.pair_at(tmp_path, f"u{n}") for n in range(5)]
    made = [pki.issue_client(authority, pair, "u", [Role.USER]) for pair in pairs]
    assert len({certificate.serial_number for certificate in made}) == 5
    assert all(certificate.serial_number.bit_length() > 100 for certificate in made)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_modes_are_exact_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        pki.make_directory(tmp_path / "pki")
        pki.make_authority(pki.pair_at(tmp_path / "pki", "ca"))
    finally:
        os.umask(old)
    assert mode_of(tmp_path / "pki") == 0o700
    assert mode_of(tmp_path / "pki/ca.key") == 0o600
    assert mode_of(tmp_path / "pki/ca.crt") == 0o644
    assert sorted(os.listdir(tmp_path / "pki")) == ["ca.crt", "ca.key"]


def test_a_written_file_is_never_replaced_and_leaves_nothing_beside_it(
    tmp_path: Path,
) -> None:
    pki.write_new(tmp_path / "k", b"secret", 0o600)
    with pytest.raises(JobError, match="it exists") as caught:
        pki.write_new(tmp_path / "k", b"other", 0o600)
    assert caught.value.reason is Reason.INSTANCE_IN_USE
    assert (tmp_path / "k").read_bytes() == b"secret"
    assert os.listdir(tmp_path) == ["k"]


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "k").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JobError, match="it exists"):
        pki.write_new(tmp_path / "k", b"secret", 0o600)
    assert not (tmp_path / "elsewhere").exists()


def test_an_existing_certificate_is_never_replaced(
    tmp_path: Path, authority: pki.Authority
) -> None:
    pair = pki.pair_at(tmp_path, "alice")
    pki.issue_client(authority, pair, "alice", [Role.USER])
    before = pair.certificate.read_bytes(), pair.key.read_bytes()
    with pytest.raises(JobError, match="it exists"):
        pki.issue_client(authority, pair, "alice", [Role.ADMIN])
    assert (pair.certificate.read_bytes(), pair.key.read_bytes()) == before


def test_a_key_left_by_an_interrupted_run_is_taken_up(
    tmp_path: Path, authority: pki.Authority
) -> None:
    pair = pki.pair_at(tmp_path, "alice")
    pki.issue_client(authority, pair, "alice", [Role.USER])
    key = pair.key.read_bytes()
    pair.certificate.unlink()
    pki.issue_client(authority, pair, "alice", [Role.USER])
    assert pair.key.read_bytes() == key
    pki.read_pair(pair)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_a_validity_that_is_empty_or_longer_than_the_cas_is_refused(
    tmp_path: Path, authority: pki.Authority, days: int
) -> None:
    pair = pki.pair_at(tmp_path, "alice")
    with pytest.raises(JobError) as caught:
        pki.issue_client(authority, pair, "alice", [Role.USER], days=days)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert not pair.key.exists()


@pytest.mark.parametrize(
    "name", ["", "a b", "-a", "a..b", "*", "bücher.example", "a/b", "1.2.3.4/8"]
)
def test_a_server_name_that_is_none_is_refused_before_anything_is_written(
    tmp_path: Path, authority: pki.Authority, name: str
) -> None:
    with pytest.raises(JobError, match="into a certificate"):
        pki.issue_server(authority, pki.pair_at(tmp_path, "server"), [name])
    assert not (tmp_path / "server.key").exists()


def test_a_leaf_certificate_cannot_sign(tmp_path: Path, authority: pki.Authority) -> None:
    pair = pki.pair_at(tmp_path, "alice")
    pki.issue_client(authority, pair, "alice", [Role.USER])
    with pytest.raises(JobError, match="not a CA's"):
        pki.read_authority(pair)


def test_a_directory_that_others_can_enter_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki").chmod(0o755)
    with pytest.raises(JobError, match="chmod go= "):
        pki.make_directory(tmp_path / "pki")


def test_the_documented_openssl_commands_make_certificates_that_are_accepted(
    tmp_path: Path,
) -> None:
    run("".join(documented(name) for name in ("own-ca", "own-server", "own-client")), tmp_path)
    server_credentials(tmp_path / "server.crt", tmp_path / "server.key", tmp_path / "ca.crt")
    channel_credentials(tmp_path / "ca.crt", tmp_path / "alice.crt", tmp_path / "alice.key")
    pem = (tmp_path / "alice.crt").read_bytes()
    principal = principal_of({"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [pem]})
    assert principal.name == "alice"
    assert principal.roles == {Role.ADMIN, Role.USER}
    authority = pki.read_authority(pki.pair_at(tmp_path, "ca"))
    pki.issue_client(authority, pki.pair_at(tmp_path, "bob"), "bob", [Role.USER])
    run("openssl verify -x509_strict -CAfile ca.crt alice.crt bob.crt server.crt", tmp_path)


def test_the_documented_openssl_commands_make_a_revocation_list_that_counts(tmp_path: Path) -> None:
    steps = ("own-ca", "own-client", "own-crl")
    run("".join(documented(name) for name in steps), tmp_path)
    authority = pki.read_authority(pki.pair_at(tmp_path, "ca")).certificate
    serial = pki.read_certificate(tmp_path / "alice.crt").serial_number
    path = tmp_path / "crl.pem"
    assert read_lists(path, (authority,)).revoked_at(ca_id(authority), serial) is None

    run(documented("own-revoke"), tmp_path)

    lists = read_lists(path, (authority,))
    assert lists.revoked_at(ca_id(authority), serial) is not None
    assert lists.revoked_at(ca_id(authority), serial + 1) is None
    check_list_time(path, lists)


def test_the_documented_renewal_keeps_key_and_names(tmp_path: Path) -> None:
    pki.make_directory(tmp_path / "pki")
    authority = pki.make_authority(pki.pair_at(tmp_path / "pki", "ca"))
    pair = pki.pair_at(tmp_path / "pki", "server")
    old = pki.issue_server(authority, pair, ["localhost"], days=1)
    run(documented("renew-server"), tmp_path, DIR=str(tmp_path))
    new, _ = pki.read_pair(pair)
    pki.check_issued_by(authority, pair.certificate, new)
    assert new.serial_number != old.serial_number
    assert new.not_valid_after_utc > old.not_valid_after_utc + dt.timedelta(days=300)
    assert mode_of(pair.certificate) == 0o644
    verify = "openssl verify -x509_strict -CAfile ca.crt -purpose sslserver"
    run(f"{verify} -verify_hostname localhost server.crt", tmp_path / "pki")
