from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from jobruntime.model.access import Principal, Role
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.names import name_fault
from jobruntime.server.identity import check_user_name, principal_of

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


def attribute(oid: ObjectIdentifier, text: str) -> x509.NameAttribute[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it breaks X.520 is the point
        return x509.NameAttribute(oid, text, _validate=False)


def certificate(
    names: Sequence[str], roles: Sequence[str], usages: Sequence[ObjectIdentifier] = CLIENT
) -> bytes:
    subject = x509.Name(
        [attribute(NameOID.ORGANIZATION_NAME, role) for role in roles]
        + [attribute(NameOID.COMMON_NAME, name) for name in names]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")]))
        .public_key(KEY.public_key())
        .serial_number(0xABC)
        .not_valid_before(NOW - dt.timedelta(hours=1))
        .not_valid_after(NOW + dt.timedelta(hours=1))
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def called_with(pem: bytes, **more: list[bytes]) -> Principal:
    return principal_of({"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [pem], **more})


def refusal(pem: bytes) -> str:
    with pytest.raises(JobError) as caught:
        called_with(pem)
    assert caught.value.reason is Reason.UNAUTHENTICATED
    assert caught.value.remedy
    return caught.value.message


def test_a_user_is_its_common_name_with_its_role_and_serial() -> None:
    pem = certificate(["alice"], ["user"])
    assert called_with(pem) == Principal("alice", frozenset({Role.USER}), "0ABC")


def test_two_known_roles_are_both_had() -> None:
    assert called_with(certificate(["alice"], ["user", "admin"])).roles == {Role.USER, Role.ADMIN}


def test_a_user_named_admin_is_no_admin() -> None:
    assert called_with(certificate(["admin"], ["user"])).roles == {Role.USER}


def test_roles_are_no_names_and_names_no_roles() -> None:
    assert "0 common names" in refusal(certificate([], ["admin"]))
    assert "no role" in refusal(certificate(["admin"], []))


def test_two_common_names_are_refused() -> None:
    assert "2 common names" in refusal(certificate(["alice", "bob"], ["user"]))
    assert "2 common names" in refusal(certificate(["alice", "alice"], ["user"]))


@pytest.mark.parametrize(
    "roles",
    [[""], ["root"], ["Admin"], ["admin "], ["user,admin"], ["admin\0"], ["аdmin"]],  # noqa: RUF001
)
def test_a_role_that_is_not_known_is_refused(roles: list[str]) -> None:
    assert "as a role" in refusal(certificate(["alice"], roles))


@pytest.mark.parametrize("roles", [["user", "root"], ["root", "user"], ["admin", ""]])
def test_one_unknown_role_beside_a_known_one_spoils_both(roles: list[str]) -> None:
    assert "as a role" in refusal(certificate(["alice"], roles))


BAD_NAMES = [
    "",
    "a\0b",
    "alice\0",
    "a\nb",
    "a\x1b[31m",
    "a\x7f",
    "a\u200bb",
    "a\u202eb",
    "a\u00a0b",
    "a" * 65,
    "a/b",
    "../a",
    ".a",
    "-a",
    " a",
    "a ",
    "\uff41dmin",  # fullwidth a
    "e\u0301ve",  # e with a combining acute: not composed
    "\u0430dmin",  # Cyrillic a
    "adm\u03b9n",  # Greek iota
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_could_mislead_is_refused_in_calls_and_when_it_is_issued(name: str) -> None:
    assert "common name" in refusal(certificate([name], ["user"]))
    with pytest.raises(JobError, match="as a user's name") as caught:
        check_user_name(name)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a" * 64,
        "alice@example.com",
        "Anna Schmidt",
        "\u00e9ve",
        "\u0430\u043d\u043d\u0430",
        "田中",
        "_x",
        "a=b,c",
    ],
)
def test_a_proper_name_is_taken_as_it_is(name: str) -> None:
    assert name_fault(name) is None
    assert called_with(certificate([name], ["user"])).name == name


@pytest.mark.parametrize("versions", [None, [], [b"TLSv1.2"], [b"TLSv1.3", b"TLSv1.2"]])
def test_anything_but_tls_1_3_is_refused(versions: list[bytes] | None) -> None:
    context = {"x509_pem_cert": [certificate(["alice"], ["user"])]}
    if versions is not None:
        context["ssl_tls_version"] = versions
    with pytest.raises(JobError, match=r"not TLS 1\.3"):
        principal_of(context)


def test_no_certificate_and_several_are_refused_whatever_else_is_told() -> None:
    pem = certificate(["alice"], ["user"])
    hints = {"x509_common_name": [b"alice"], "x509_subject": [b"CN=alice,O=admin"]}
    for certificates in ([], [pem, pem]):
        context = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": certificates, **hints}
        with pytest.raises(JobError, match="no client certificate"):
            principal_of(context)


def test_only_the_certificate_is_believed() -> None:
    pem = certificate(["alice"], ["user"])
    told = called_with(pem, x509_common_name=[b"root"], x509_subject=[b"CN=root,O=admin"])
    assert told == Principal("alice", frozenset({Role.USER}), "0ABC")


def test_what_is_no_certificate_is_refused() -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for pem in (b"", b"hello", broken):
        assert "cannot be parsed" in refusal(pem)


@pytest.mark.parametrize("usages", [(), (ExtendedKeyUsageOID.SERVER_AUTH,)])
def test_a_certificate_that_is_not_for_clients_is_refused(
    usages: tuple[ObjectIdentifier, ...],
) -> None:
    assert "not made for clients" in refusal(certificate(["alice"], ["user"], usages))


def test_a_connection_does_not_outlive_its_certificate() -> None:
    context = {
        "ssl_tls_version": [b"TLSv1.3"],
        "x509_pem_cert": [certificate(["alice"], ["user"])],
    }
    assert principal_of(context, now=NOW).name == "alice"
    with pytest.raises(JobError, match="expired at"):
        principal_of(context, now=NOW + dt.timedelta(hours=2))
    with pytest.raises(JobError, match="not valid yet"):
        principal_of(context, now=NOW - dt.timedelta(hours=2))


def test_a_role_of_the_policy_is_known_while_the_policy_has_it() -> None:
    # Each time the same certificate: what was parsed once must not keep a role that is gone.
    context = {
        "ssl_tls_version": [b"TLSv1.3"],
        "x509_pem_cert": [certificate(["alice"], ["operator", "user"])],
    }
    known = {"admin", "user", "operator"}
    assert principal_of(context, known_roles=known).roles == {"operator", "user"}
    with pytest.raises(JobError, match="'operator' as a role"):
        principal_of(context)
    assert principal_of(context, known_roles=known).roles == {"operator", "user"}
