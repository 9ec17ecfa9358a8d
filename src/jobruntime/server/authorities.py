"""An instance's directory as the operator's commands see it: its CAs, its record, its lists."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.pairs import replace_file
from jobruntime.server import pki
from jobruntime.server.config import TlsFiles, read_config
from jobruntime.server.crl import (
    NO_LISTS,
    RevocationLists,
    make_list,
    number_of,
    parse_lists,
)
from jobruntime.server.issued import Issued, ca_id, describe, read_issued, record_issued
from jobruntime.server.leaf import Authority
from jobruntime.server.trust import is_issued_by, read_authorities

CRL_NAME: Final = "crl.pem"
_CRL_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Premises:
    """Where an instance's certificates are. `tls` is what its jobd.toml says of them."""

    directory: Path
    tls: TlsFiles

    @property
    def pki_dir(self) -> Path:
        """Where the CA is, if it is the instance's own."""
        return self.directory / "pki"

    @property
    def ca(self) -> pki.Pair:
        """The CA that signs."""
        return pki.pair_at(self.pki_dir, "ca")

    @property
    def old_dir(self) -> Path:
        """Where the CAs before it are."""
        return self.pki_dir / "old"

    @property
    def crl(self) -> Path:
        """The file of revocation lists, there or not."""
        return self.tls.crl or self.pki_dir / CRL_NAME


def premises_at(directory: Path) -> Premises:
    """Return the instance in the directory; raises JobError (CONFIG_INVALID)."""
    directory = directory.resolve()
    config = directory / "jobd.toml"
    if not config.exists():
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot find the certificates: there is no instance in {directory}",
            f"make one with `jobd init --dir {shlex.quote(str(directory))}`",
        )
    return Premises(directory, read_config(config).tls)


def read_signing_authority(premises: Premises) -> Authority:
    """Return the CA with its key; raises JobError (CONFIG_INVALID), also where it is another's."""
    if not premises.ca.key.exists():
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot make a certificate: {premises.ca.key} is not there",
            "let the CA that you brought sign one, see docs/certificates.md",
        )
    authority = pki.read_authority(premises.ca)
    if authority.certificate not in read_authorities(premises.tls.ca)[1]:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot make a certificate: the server does not trust {premises.ca.certificate}, "
            f"but {premises.tls.ca}",
            "let the CA that you brought sign one, see docs/certificates.md",
        )
    return authority


def read_all_authorities(premises: Premises) -> list[x509.Certificate]:
    """Return all CAs that certificates of this instance may be of, the trusted ones first."""
    _, trusted = read_authorities(premises.tls.ca)
    others = [pki.read_certificate(path) for path in sorted(premises.old_dir.glob("*.crt"))]
    if premises.ca.certificate.exists():
        others.append(pki.read_certificate(premises.ca.certificate))
    return list({ca_id(one): one for one in (*trusted, *others)}.values())


def read_known(premises: Premises) -> tuple[list[Issued], int]:
    """Return all known certificates: the record, and what lies in `pki` and is not in it.

    The number is that of damaged lines in the record. Raises JobError.
    """
    known, damaged = read_issued(premises.pki_dir)
    serials = {one.serial for one in known}
    authorities = read_all_authorities(premises)
    clients = premises.pki_dir / "clients"
    for path in (*sorted(clients.glob("*.crt")), premises.tls.cert):
        if not path.exists():
            continue
        certificate = pki.read_certificate(path)
        signer = next((one for one in authorities if is_issued_by(certificate, one)), None)
        if signer is not None:
            found = describe(certificate, signer, "file")
            known += [] if found.serial in serials else [found]
    return known, damaged


def read_instance_lists(premises: Premises) -> RevocationLists:
    """Return the revocation lists of all CAs that are known; raises JobError."""
    if not premises.crl.exists():
        return NO_LISTS
    try:
        return parse_lists(premises.crl.read_bytes(), read_all_authorities(premises))
    except (OSError, ValueError) as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot use the revocation list {premises.crl}: {error}",
            "correct it, or move it away and revoke again",
        ) from error


def add_revoked(premises: Premises, ca: str, serials: Sequence[int], now: dt.datetime) -> None:
    """Sign a new list of the CA with these added, and put it in the place of the old one.

    The lists of other CAs stay as they are. Raises JobError, also where the CA's key is not there.
    """
    lists = read_instance_lists(premises)
    authority = _find_authority(premises, ca)
    before = list(lists.by_ca.get(ca, ()))
    entries = {entry.serial_number: entry for crl in before for entry in crl}
    for serial in serials:
        builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        entries.setdefault(serial, builder.build())
    number = max(map(number_of, before), default=0) + 1
    new = make_list(authority, entries.values(), number=number, now=now)
    write_lists(premises, {**lists.by_ca, ca: [new]})


def write_lists(
    premises: Premises, by_ca: dict[str, Sequence[x509.CertificateRevocationList]]
) -> None:
    """Replace the file of revocation lists; raises JobError."""
    pem = b"".join(crl.public_bytes(Encoding.PEM) for lists in by_ca.values() for crl in lists)
    with pki.reporting_os_errors(f"write {premises.crl}"):
        replace_file(premises.crl, pem, _CRL_MODE)


def empty_list(authority: Authority) -> bytes:
    """Return a list of nothing, in PEM: jobd does not start without the list it is told of."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return make_list(authority, (), number=1, now=now).public_bytes(Encoding.PEM)


def recorder(premises_dir: Path, authority: Authority, by: str) -> pki.Record:
    """Return what records each new certificate in `premises_dir`, a pki directory."""
    return lambda certificate: record_issued(
        premises_dir, describe(certificate, authority.certificate, by)
    )


def _find_authority(premises: Premises, ca: str) -> Authority:
    pairs = [premises.ca, *(pki.pair_at(premises.old_dir, path.stem) for path in _old(premises))]
    for pair in pairs:
        if pair.certificate.exists() and ca_id(pki.read_certificate(pair.certificate)) == ca:
            if not pair.key.exists():
                break
            return pki.read_authority(pair)
    raise JobError(
        Reason.CONFIG_INVALID,
        "cannot revoke it: the key of the CA that has signed it is not here",
        "let that CA write a revocation list, and name its file as tls.crl in jobd.toml: see "
        "docs/certificates.md",
    )


def _old(premises: Premises) -> list[Path]:
    return sorted(premises.old_dir.glob("*.crt"))
