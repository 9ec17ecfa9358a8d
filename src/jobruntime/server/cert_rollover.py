"""`jobd cert rollover`: a new CA beside the old one, then instead of it, while jobd serves."""

from __future__ import annotations

import argparse
import os

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.pairs import replace_file, replace_pair
from jobruntime.server import pki
from jobruntime.server.authorities import (
    Premises,
    empty_list,
    premises_at,
    read_instance_lists,
    read_signing_authority,
    write_lists,
)
from jobruntime.server.cert_list import State, read_states
from jobruntime.server.issued import ca_id, changing
from jobruntime.server.trust import is_issued_by, read_authorities

_MODE = 0o644


def run(args: argparse.Namespace) -> int:
    """Do one step, print what comes next, and return the exit code."""
    premises = premises_at(args.dir)
    if premises.tls.ca != premises.ca.certificate:
        raise _refused(
            f"{premises.tls.ca} is not the instance's own CA",
            'replace yours as "The CA" in docs/certificates.md tells',
        )
    with changing(premises.pki_dir), pki.reporting_os_errors("replace the CA"):
        if args.step == "start":
            _start(premises)
        else:
            _finish(premises, force=args.force)
    return 0


def _start(premises: Premises) -> None:
    """Make the new CA. Each step can be done twice: an interrupted run is completed by the next."""
    next_pair = pki.pair_at(premises.pki_dir / "next", "ca")
    old = read_signing_authority(premises)
    _, trusted = read_authorities(premises.tls.ca)
    if not next_pair.key.exists() and len(trusted) > 1:
        raise _refused("a change of the CA is under way", "run `jobd cert rollover finish` first")
    for directory in (premises.old_dir, next_pair.key.parent):
        pki.make_directory(directory)
    if next_pair.certificate.exists():
        new = pki.read_authority(next_pair)
    else:
        new = pki.make_authority(next_pair)
    if ca_id(old.certificate) != ca_id(new.certificate):
        _keep_old(premises, old.certificate)
        _add_empty_list(premises, empty_list(new), ca_id(new.certificate))
        bundle = [new.certificate, *trusted]
        replace_pair(
            premises.ca.certificate, premises.ca.key, _pem(bundle), next_pair.key.read_bytes()
        )
    elif (pending := premises.ca.key.with_name(f"{premises.ca.key.name}.new")).exists():
        pending.replace(premises.ca.key)
    for path in (next_pair.certificate, next_pair.key):
        path.unlink(missing_ok=True)
    os.rmdir(next_pair.key.parent)
    print(
        f"The new CA signs from now on, and both are trusted. {premises.ca.certificate} has both.\n"
        "Next:\n"
        "  every user           jobc renew --update-ca\n"
        "  (or for them)        jobd cert renew NAME, and hand over ca.crt, too\n"
        f"  then the server      jobd cert renew server --dir {premises.directory}\n"
        f"  and at last          jobd cert rollover finish --dir {premises.directory}\n"
        "Who still has the old CA alone will not trust the server's new certificate."
    )


def _keep_old(premises: Premises, certificate: x509.Certificate) -> None:
    pair = pki.pair_at(premises.old_dir, ca_id(certificate))
    replace_file(pair.key, premises.ca.key.read_bytes(), 0o600)
    replace_file(pair.certificate, _pem([certificate]), _MODE)


def _add_empty_list(premises: Premises, pem: bytes, ca: str) -> None:
    lists = read_instance_lists(premises).by_ca
    if ca not in lists:
        write_lists(premises, {**lists, ca: [x509.load_pem_x509_crl(pem)]})


def _finish(premises: Premises, *, force: bool) -> None:
    new = read_signing_authority(premises)
    _, trusted = read_authorities(premises.tls.ca)
    if len(trusted) == 1:
        raise _refused("there is one CA only", "begin with `jobd cert rollover start`")
    if not is_issued_by(pki.read_certificate(premises.tls.cert), new.certificate):
        raise _refused(
            "the server's certificate is of the old CA",
            "run `jobd cert renew server` first",
        )
    current = ca_id(new.certificate)
    left = _names_with_old_only(premises, current)
    if left and not force:
        raise _refused(
            f"{len(left)} users have certificates of the old CA only: {', '.join(left[:20])}",
            "let them run `jobc renew --update-ca`, or give --force to lock them out",
        )
    replace_file(premises.ca.certificate, _pem([new.certificate]), _MODE)
    lists = read_instance_lists(premises).by_ca
    if current in lists:
        write_lists(premises, {current: lists[current]})
    print(
        "Certificates of the old CA are refused from now on.\n"
        f"{premises.old_dir} has its key still; delete it when nothing trusts it any more."
    )


def _names_with_old_only(premises: Premises, current: str) -> list[str]:
    states, _ = read_states(premises)
    clients = [one for one, state in states if state is State.VALID and one.kind == "client"]
    renewed = {one.name for one in clients if one.ca == current}
    return sorted({one.name for one in clients} - renewed)


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def _refused(cause: str, remedy: str) -> JobError:
    return JobError(Reason.CONFIG_INVALID, f"cannot replace the CA: {cause}", remedy)
