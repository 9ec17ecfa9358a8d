"""`jobd cert` on an instance's files: what is written, what is refused, what a crash leaves."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from jobruntime.cli.validity import parse_validity, read_validity
from jobruntime.model.access import Role
from jobruntime.model.errors import JobError
from jobruntime.rpc.pairs import replace_pair
from jobruntime.rpc.tls import read_client_pair
from jobruntime.server import cert, cert_list, cert_renew, cert_revoke, cert_rollover, pki
from jobruntime.server.authorities import Premises, premises_at, read_instance_lists
from jobruntime.server.config import parse_address
from jobruntime.server.identity import format_serial
from jobruntime.server.init_instance import InitOptions, init_instance
from jobruntime.server.issued import read_issued

DOC = Path(__file__).parents[2] / "docs/certificates.md"


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    init_instance(InitOptions(tmp_path / "i", parse_address("127.0.0.1:7443"), "ada"))
    return premises_at(tmp_path / "i")


def issue(premises: Premises, name: str = "alice", *, valid: str = "7d") -> pki.Pair:
    length = {"7d": dt.timedelta(days=7), "12h": dt.timedelta(hours=12)}[valid]
    return cert.issue_certificate(premises.directory, name, [Role.USER], valid=length)


def revoke(premises: Premises, what: str, *, every: bool = False, unrecorded: bool = False) -> None:
    args = Namespace(dir=premises.directory, what=what, all=every, unrecorded=unrecorded)
    assert cert_revoke.run(args) == 0


def renew(premises: Premises, who: str, *, user: bool = False, san: tuple[str, ...] = ()) -> None:
    args = Namespace(dir=premises.directory, who=who, user=user, san=list(san), valid=None)
    assert cert_renew.run(args) == 0


def rollover(premises: Premises, step: str) -> None:
    assert cert_rollover.run(Namespace(dir=premises.directory, step=step, force=False)) == 0


def states(premises: Premises) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one, state in cert_list.read_states(premises)[0]:
        found.setdefault(one.name, []).append(state.value)
    return found


def serial_of(pair: pki.Pair) -> str:
    return format_serial(pki.read_certificate(pair.certificate).serial_number)


NAMES = ["", "../ca", "a/b", ".hidden", "a\nb", "a\0b", "x" * 65, "x" * 65_536, "-rf", "\u0430dmin"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_no_path_is_built_from_a_name_that_is_no_users(premises: Premises, name: str) -> None:
    before = {path: path.read_bytes() for path in premises.directory.rglob("*") if path.is_file()}
    for action in (
        lambda: issue(premises, name),
        lambda: renew(premises, name),
        lambda: revoke(premises, name),
        lambda: revoke(premises, name, every=True, unrecorded=True),
    ):
        with pytest.raises(JobError, match="as a user's name"):
            action()
    after = {path: path.read_bytes() for path in premises.directory.rglob("*") if path.is_file()}
    assert after == before


def test_a_list_that_openssl_accepts_holds_what_was_revoked(premises: Premises) -> None:
    alice, bob = issue(premises), issue(premises, "bob")
    revoke(premises, serial_of(alice))
    revoke(premises, "ada")
    assert [states(premises)[name] for name in ("alice", "ada")] == [["revoked"]] * 2
    verify = ["openssl", "verify", "-crl_check", "-CAfile", "ca.crt", "-CRLfile", "crl.pem"]
    codes = {
        name: subprocess.run(
            [*verify, f"clients/{name}.crt"], cwd=premises.pki_dir, capture_output=True
        ).returncode
        for name in ("alice", "ada", "bob")
    }
    assert codes == {"alice": 2, "ada": 2, "bob": 0}
    assert states(premises)["bob"] == ["valid"]
    assert bob.certificate.exists()
    text = subprocess.check_output(
        ["openssl", "crl", "-in", "crl.pem", "-noout", "-crlnumber"], cwd=premises.pki_dir
    )
    assert text == b"crlNumber=0x03\n"


def test_a_user_with_several_certificates_is_revoked_by_serial_or_wholly(
    premises: Premises, capsys: pytest.CaptureFixture[str]
) -> None:
    alice = issue(premises)
    first = serial_of(alice)
    renew(premises, "alice")
    second = serial_of(alice)
    with pytest.raises(JobError, match="2 valid certificates") as caught:
        revoke(premises, "alice")
    assert first in str(caught.value)
    assert second in str(caught.value)
    colons = ":".join(re.findall("..", first.lower()))
    revoke(premises, colons)
    assert states(premises)["alice"] == ["revoked", "valid"]
    renew(premises, "alice")
    revoke(premises, "alice", every=True)
    assert states(premises)["alice"] == ["revoked"] * 3
    with pytest.raises(JobError, match="it was revoked"):
        renew(premises, "alice")
    with pytest.raises(JobError, match="no certificate of this user is valid"):
        revoke(premises, "alice")
    assert "Revoked" in capsys.readouterr().out


def test_a_beginning_of_a_serial_will_do_and_an_unknown_one_only_on_request(
    premises: Premises,
) -> None:
    alice = issue(premises)
    revoke(premises, serial_of(alice)[:10])
    assert states(premises)["alice"] == ["revoked"]
    with pytest.raises(JobError, match="no certificate with this serial is recorded"):
        revoke(premises, "ABCDEF0123456789")
    revoke(premises, "ABCDEF0123456789", unrecorded=True)
    [lists] = read_instance_lists(premises).by_ca.values()
    assert 0xABCDEF0123456789 in {entry.serial_number for crl in lists for entry in crl}
    with pytest.raises(JobError, match="no user has a certificate"):
        revoke(premises, "nobody")


def test_a_serial_without_its_zero_in_front_is_the_same(
    premises: Premises, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(x509, "random_serial_number", lambda: 0x0ABCDEF0123456789ABC)
    alice = issue(premises)
    assert serial_of(alice).endswith("0ABCDEF0123456789ABC")
    revoke(premises, "ABCDEF0123456789ABC")
    assert states(premises)["alice"] == ["revoked"]


def test_a_revocation_that_no_server_reads_is_no_success(premises: Premises) -> None:
    issue(premises)
    config = premises.directory / "jobd.toml"
    config.write_text(config.read_text().replace('crl = "pki/crl.pem"\n', ""))
    with pytest.raises(JobError, match="names no revocation list") as caught:
        revoke(premises_at(premises.directory), "alice")
    assert 'crl = "' in caught.value.remedy
    assert states(premises)["alice"] == ["valid"]  # nothing tells of what there is not


def test_the_record_has_every_certificate_and_outlives_a_cut_line(
    premises: Premises, capsys: pytest.CaptureFixture[str]
) -> None:
    issue(premises)
    renew(premises, "alice")
    renew(premises, "server", san=("x.example",))
    assert [one.by for one in read_issued(premises.pki_dir)[0]] == [
        *("init", "init"),
        *("issue", "renew", "renew"),
    ]
    record = premises.pki_dir / "issued.jsonl"
    record.write_bytes(record.read_bytes()[:-20])
    issue(premises, "bob")
    capsys.readouterr()

    args = Namespace(dir=premises.directory, output="json")
    assert cert_list.run(args) == 1

    out, err = capsys.readouterr()
    assert "1 lines of the record cannot be read" in err
    found = json.loads(out)
    # The one whose line was cut is found in its file.
    assert [one["by"] for one in found] == ["init", "init", "issue", "renew", "issue", "file"]
    assert {"serial", "name", "roles", "not_before", "not_after", "state"} <= found[0].keys()


def test_short_validities_are_kept_by_a_renewal(premises: Premises) -> None:
    alice = issue(premises, valid="12h")
    renew(premises, "alice")
    renewed = pki.read_certificate(alice.certificate)
    length = renewed.not_valid_after_utc - renewed.not_valid_before_utc
    assert length == dt.timedelta(hours=12) + pki.CLOCK_SKEW


def test_a_user_named_server_is_not_the_server(premises: Premises) -> None:
    pair = issue(premises, "server")
    before = premises.tls.cert.read_bytes(), pair.certificate.read_bytes()
    renew(premises, "server", user=True)
    assert premises.tls.cert.read_bytes() == before[0]
    assert pair.certificate.read_bytes() != before[1]


def test_a_pair_is_whole_at_each_moment_of_its_replacement(
    premises: Premises, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = issue(premises), issue(premises, "bob")
    new = bob.certificate.read_bytes(), bob.key.read_bytes()
    replace, moments = Path.replace, 0

    def replace_and_look(self: Path, target: Path) -> Path:
        nonlocal moments
        read_client_pair(alice.certificate, alice.key)  # raises where they do not fit
        pki.read_pair(alice)
        moved = replace(self, target)
        read_client_pair(alice.certificate, alice.key)
        pki.read_pair(alice)
        moments += 1
        return moved

    monkeypatch.setattr(Path, "replace", replace_and_look)
    replace_pair(alice.certificate, alice.key, *new)
    assert moments == 3
    assert (alice.certificate.read_bytes(), alice.key.read_bytes()) == new


@pytest.mark.parametrize("died_before", range(12))
def test_a_change_of_the_ca_that_died_anywhere_is_completed_by_the_next_try(
    premises: Premises, monkeypatch: pytest.MonkeyPatch, died_before: int
) -> None:
    alice = issue(premises)
    old = premises.ca.certificate.read_bytes()
    replace, unlink, left = Path.replace, Path.unlink, died_before

    def step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    def replace_or_die(self: Path, target: Path) -> Path:
        step()
        return replace(self, target)

    def unlink_or_die(self: Path, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002
        if self.suffix in (".crt", ".key"):
            step()
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_die)
        patch.setattr(Path, "unlink", unlink_or_die)
        try:
            rollover(premises, "start")
        except KeyboardInterrupt:
            pass
    pki.read_authority(premises.ca)  # it can sign at each moment
    trusted = premises.ca.certificate.read_bytes()
    assert old in trusted or old == trusted
    if trusted == old or (premises.pki_dir / "next").exists():
        rollover(premises, "start")
    assert premises.ca.certificate.read_bytes().count(b"BEGIN") == 2
    assert not (premises.pki_dir / "next").exists()
    renew(premises, "alice")
    pki.check_issued_by(
        pki.read_authority(premises.ca), alice.certificate, pki.read_certificate(alice.certificate)
    )
    revoke(premises, "alice", every=True)


@pytest.mark.parametrize("days", [1, 400, 36_000 - 10_000])
def test_jobc_reads_the_same_validity_as_a_library(tmp_path: Path, days: int) -> None:
    key, _ = pki.generate_key()
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    name = x509.Name([])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "x.crt"
    path.write_bytes(b"text\n" + made.public_bytes(Encoding.PEM))
    found = read_validity(path)
    assert found is not None
    assert found.begin == made.not_valid_before_utc.timestamp()
    assert found.end == made.not_valid_after_utc.timestamp()
    data = made.public_bytes(Encoding.DER)
    for length in range(len(data) - 1):
        with pytest.raises((ValueError, IndexError)):
            parse_validity(data[:length])
