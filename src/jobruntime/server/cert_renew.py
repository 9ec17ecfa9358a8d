"""`jobd cert renew`: the next certificate of a user or of the server, with a new key."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.rpc.pairs import replace_pair
from jobruntime.server import pki
from jobruntime.server.authorities import (
    Premises,
    premises_at,
    read_instance_lists,
    read_signing_authority,
    recorder,
)
from jobruntime.server.cert import format_valid
from jobruntime.server.identity import check_user_name, format_serial, identity_in
from jobruntime.server.issued import ca_id, changing, server_names
from jobruntime.server.leaf import CLOCK_SKEW, Authority, Leaf, server_leaf, sign_leaf, validity_for
from jobruntime.server.trust import is_issued_by, read_authorities

SERVER = "server"


def run(args: argparse.Namespace) -> int:
    """Renew, print where the files are, and return the exit code."""
    premises = premises_at(args.dir)
    if args.san and (args.user or args.who != SERVER):
        raise invalid("cannot put a host name into a user's certificate", "leave out --san")
    # From the look at the revocations on: whoever revokes must see what was signed before.
    with changing(premises.pki_dir):
        authority = read_signing_authority(premises)
        if args.who == SERVER and not args.user:
            _refuse_ambiguous(premises)
            pair, old, leaf = _of_server(premises, args.san)
        else:
            pair, old, leaf = _of_user(premises, args.who)
        valid = args.valid or _validity_of(old)
        renew_pair(premises, authority, pair, leaf, valid)
    print(
        f"Made a new certificate for {args.who}, valid for {format_valid(valid)}:\n"
        f"  {pair.certificate}\n  {pair.key}\n"
        "The old one stays valid until it ends; to lock it out:\n"
        f"  jobd cert revoke {format_serial(old.serial_number)} --dir {premises.directory}"
    )
    return 0


def renew_pair(
    premises: Premises, authority: Authority, pair: pki.Pair, leaf: Leaf, valid: dt.timedelta
) -> None:
    """Put a new key and certificate in the place of the pair; raises JobError.

    The caller holds the lock of what is in the instance's pki directory.
    """
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    pki.check_valid(authority, valid, now)
    key, key_pem = pki.generate_key()
    certificate = sign_leaf(authority, key.public_key(), leaf, validity_for(valid, now))
    with pki.reporting_os_errors(f"replace {pair.certificate}"):
        recorder(premises.pki_dir, authority, "renew")(certificate)
        replace_pair(pair.certificate, pair.key, certificate.public_bytes(Encoding.PEM), key_pem)


def _of_user(premises: Premises, name: str) -> tuple[pki.Pair, x509.Certificate, Leaf]:
    check_user_name(name)
    pair = pki.pair_at(premises.pki_dir / "clients", name)
    if not pair.certificate.exists():
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot renew the certificate of {name}: {pair.certificate} is not there",
            "put it there, or make one with `jobd cert issue`",
        )
    old = pki.read_certificate(pair.certificate)
    principal = identity_in(old.public_bytes(Encoding.PEM)).principal
    if principal.name != name:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot renew the certificate of {name}: {pair.certificate} is of {principal.name}",
            "put each user's certificate under his own name",
        )
    _check_counts(premises, pair, old)
    return pair, old, pki.user_leaf(name, principal.roles)


def _of_server(premises: Premises, more: Sequence[str]) -> tuple[pki.Pair, x509.Certificate, Leaf]:
    pair = pki.Pair(premises.tls.cert, premises.tls.key)
    old = pki.read_certificate(pair.certificate)
    names = pki.subject_names([*server_names(old), *more])
    return pair, old, server_leaf(x509.SubjectAlternativeName(names))


def _check_counts(premises: Premises, pair: pki.Pair, old: x509.Certificate) -> None:
    """Refuse what was revoked, or signed by somebody else: to renew it would give access back."""
    known = [pki.read_certificate(premises.ca.certificate), *read_authorities(premises.tls.ca)[1]]
    signer = next((one for one in known if is_issued_by(old, one)), None)
    if signer is None:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot renew {pair.certificate}: it is of no CA that the server trusts",
            "move it and its key away, and make one with `jobd cert issue`",
        )
    if read_instance_lists(premises).revoked_at(ca_id(signer), old.serial_number) is not None:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot renew {pair.certificate}: it was revoked",
            "to let the user in again, move it and its key away and use `jobd cert issue`",
        )


def _refuse_ambiguous(premises: Premises) -> None:
    path = premises.pki_dir / "clients" / f"{SERVER}.crt"
    if path.exists():
        print(f"jobd: renewing the server's; for the user's ({path}) give --user", file=sys.stderr)


def _validity_of(old: x509.Certificate) -> dt.timedelta:
    whole = old.not_valid_after_utc - old.not_valid_before_utc
    # What was made here starts a little early.
    return whole - CLOCK_SKEW if whole > 2 * CLOCK_SKEW else whole
