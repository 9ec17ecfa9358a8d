"""`jobd cert revoke`: put certificates on the revocation list that jobd reads."""

from __future__ import annotations

import argparse
import datetime as dt
import re
import shlex
from collections import defaultdict
from typing import Final

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.server import pki
from jobruntime.server.authorities import Premises, add_revoked, premises_at
from jobruntime.server.cert_list import State, read_states
from jobruntime.server.identity import check_user_name
from jobruntime.server.issued import Issued, ca_id, changing

_SERIAL: Final = re.compile(r"[0-9A-F]{8,40}")
_WHOLE_SERIAL: Final = 40


def run(args: argparse.Namespace) -> int:
    """Revoke, print what was revoked, and return the exit code."""
    premises = premises_at(args.dir)
    _check_list(premises)
    serial = args.what.replace(":", "").upper()
    with changing(premises.pki_dir):
        states, _ = read_states(premises)
        found = _find(states, args.what, serial, every=args.all)
        by_ca: dict[str, list[int]] = defaultdict(list)
        for one in found:
            by_ca[one.ca].append(int(one.serial, 16))
        if not found:
            by_ca[_ca_of_unrecorded(premises, args, serial)].append(int(serial, 16))
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        for ca, serials in by_ca.items():
            add_revoked(premises, ca, serials, now)
    for one in found:
        print(f"Revoked {one.serial} of {one.name}.")
    if not found:
        print(f"Revoked {serial}.")
    return 0


def _find(
    states: list[tuple[Issued, State]], what: str, serial: str, *, every: bool
) -> list[Issued]:
    """Return what is meant; empty where it may be a serial that is not recorded."""
    named = [(one, state) for one, state in states if one.kind == "client" and one.name == what]
    is_serial = _SERIAL.fullmatch(serial) is not None
    numbered = [(one, state) for one, state in states if is_serial and _fits(one.serial, serial)]
    if named and numbered:
        raise invalid(
            f"cannot revoke {what!a}: it is a user's name and the beginning of a serial",
            "give the whole serial, as `jobd cert list` tells it",
        )
    if len(numbered) > 1:
        raise invalid(f"cannot revoke {serial}: several serials begin so", "give more digits")
    if numbered:
        return [one for one, _ in numbered]
    if not named:
        return _refuse_unknown(what, is_serial=is_serial)
    valid = [one for one, state in named if state is State.VALID]
    if not valid:
        raise invalid(f"cannot revoke {what!a}: no certificate of this user is valid")
    if len(valid) > 1 and not every:
        serials = ", ".join(one.serial for one in valid)
        raise invalid(
            f"cannot revoke {what!a}: the user has {len(valid)} valid certificates",
            f"give --all, or one of the serials {serials}",
        )
    return valid


def _fits(whole: str, given: str) -> bool:
    # Some programs leave out a zero in front.
    return whole.startswith(given) or int(whole, 16) == int(given, 16)


def _refuse_unknown(what: str, *, is_serial: bool) -> list[Issued]:
    if is_serial:
        return []
    check_user_name(what)
    raise invalid(
        f"cannot revoke {what!a}: no user has a certificate in this name",
        "look at `jobd cert list`",
    )


def _ca_of_unrecorded(premises: Premises, args: argparse.Namespace, serial: str) -> str:
    if not args.unrecorded or len(serial) > _WHOLE_SERIAL:
        raise invalid(
            f"cannot revoke {serial}: no certificate with this serial is recorded",
            "look at `jobd cert list`; --unrecorded revokes it all the same",
        )
    return ca_id(pki.read_certificate(premises.ca.certificate))


def _check_list(premises: Premises) -> None:
    # A list that nobody reads would tell of revocations that there are not.
    if premises.tls.crl is None:
        config = shlex.quote(str(premises.directory / "jobd.toml"))
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot revoke a certificate: {config} names no revocation list",
            f'write crl = "{premises.crl}" into its table [tls], repeat this, and restart jobd',
        )
