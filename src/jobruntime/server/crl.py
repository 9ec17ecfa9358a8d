"""X.509 revocation lists (RFC 5280): read and judged for jobd, made for `jobd cert revoke`."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from .issued import ca_id
from .leaf import Authority, authority_key_id

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """The lists of some CAs, each signed by its CA. `strangers` are issuers of lists not used."""

    by_ca: Mapping[str, Sequence[x509.CertificateRevocationList]]
    strangers: tuple[str, ...] = ()

    def revoked_at(self, ca: str, serial: int) -> dt.datetime | None:
        """Return when this certificate of the CA was revoked; None: it was not."""
        for crl in self.by_ca.get(ca, ()):
            entry = crl.get_revoked_certificate_by_serial_number(serial)
            if entry is not None:
                return entry.revocation_date_utc
        return None

    def next_update(self) -> dt.datetime | None:
        """Return when the first of the lists should have been replaced by a newer one."""
        times = [crl.next_update_utc for lists in self.by_ca.values() for crl in lists]
        return min((time for time in times if time is not None), default=None)


NO_LISTS: Final = RevocationLists({})


def parse_lists(pem: bytes, authorities: Sequence[x509.Certificate]) -> RevocationLists:
    """Return the lists of these CAs in `pem`; raises ValueError with the cause.

    A list of another CA is left out (its certificates are refused anyhow), but there must be one
    that counts, all must be whole lists, and each must be signed by its CA.
    """
    crls = [x509.load_pem_x509_crl(block) for block in _PEM.findall(pem)]
    if not crls:
        raise ValueError("it has no PEM revocation list (X509 CRL)")
    by_ca: dict[str, list[x509.CertificateRevocationList]] = {}
    strangers = []
    for crl in crls:
        _check_whole(crl)
        named = [one for one in authorities if one.subject == crl.issuer]
        signers = [one for one in named if _is_signed_by(crl, one)]
        if signers:
            by_ca.setdefault(ca_id(signers[0]), []).append(crl)
        elif named:
            raise ValueError(f"its list of {crl.issuer.rfc4514_string()} is not signed by that CA")
        else:
            strangers.append(crl.issuer.rfc4514_string())
    if not by_ca:
        raise ValueError(f"it is of {strangers[0]}, which is none of the CAs in tls.ca")
    return RevocationLists(by_ca, tuple(strangers))


def check_fresh(lists: RevocationLists, now: dt.datetime) -> None:
    """Refuse lists that should have been replaced by now; raises ValueError."""
    due = lists.next_update()
    if due is not None and due < now:
        raise ValueError(f"it was to be replaced by a newer one at {due:%Y-%m-%d %H:%M} UTC")


def make_list(
    authority: Authority,
    revoked: Iterable[x509.RevokedCertificate],
    *,
    number: int,
    now: dt.datetime,
) -> x509.CertificateRevocationList:
    """Sign a list. It has no term of its own, and counts as long as the CA does.

    The server reads it from a file beside its own certificate: there is no cache to be refreshed.
    """
    issuer = authority.certificate
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(max(issuer.not_valid_after_utc, now + dt.timedelta(days=1)))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(authority_key_id(issuer, authority.key.public_key()), critical=False)
    )
    for entry in revoked:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256())


def number_of(crl: x509.CertificateRevocationList) -> int:
    """Return the list's number; 0 where it has none."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def _check_whole(crl: x509.CertificateRevocationList) -> None:
    # Delta and partial lists say so in critical extensions; RFC 5280, 5.2, forbids to use a list
    # with one that is not understood.
    for extension in crl.extensions:
        if extension.critical and not _is_for_all_users(extension.value):
            raise ValueError(
                f"its list of {crl.issuer.rfc4514_string()} is a partial one "
                f"(critical extension {extension.oid.dotted_string})"
            )


def _is_for_all_users(value: x509.ExtensionType) -> bool:
    """Return whether it only says where the list is published, as step-ca's do."""
    return isinstance(value, x509.IssuingDistributionPoint) and not (
        value.indirect_crl
        or value.only_some_reasons
        or value.only_contains_ca_certs
        or value.only_contains_attribute_certs
    )


def _is_signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, InvalidSignature):
        return False
