"""`jobd cert list`: every certificate that is known, and whether it counts."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from dataclasses import asdict
from enum import StrEnum, unique

from jobruntime.server.authorities import (
    Premises,
    premises_at,
    read_all_authorities,
    read_instance_lists,
    read_known,
)
from jobruntime.server.crl import RevocationLists
from jobruntime.server.issued import Issued, ca_id
from jobruntime.server.trust import read_authorities


@unique
class State(StrEnum):
    """Whether a certificate counts."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"
    UNTRUSTED = "untrusted"
    """Its CA is not one that the server trusts any more."""


def state_of(
    issued: Issued, lists: RevocationLists, trusted: frozenset[str], now: dt.datetime
) -> State:
    """Return the state of a certificate; revoked before expired before of a dropped CA."""
    if lists.revoked_at(issued.ca, int(issued.serial, 16)) is not None:
        return State.REVOKED
    if issued.ends_at < now:
        return State.EXPIRED
    return State.VALID if issued.ca in trusted else State.UNTRUSTED


def read_states(premises: Premises) -> tuple[list[tuple[Issued, State]], int]:
    """Return all known certificates with their states, and how many lines are damaged."""
    known, damaged = read_known(premises)
    lists = read_instance_lists(premises)
    trusted = frozenset(map(ca_id, read_authorities(premises.tls.ca)[1]))
    now = dt.datetime.now(dt.UTC)
    return [(one, state_of(one, lists, trusted, now)) for one in known], damaged


def run(args: argparse.Namespace) -> int:
    """Print the list; exit code 1 where lines of the record cannot be read."""
    premises = premises_at(args.dir)
    states, damaged = read_states(premises)
    if args.output == "json":
        _print_json(premises, states)
    else:
        _print_text(states)
    if damaged:
        print(f"jobd: {damaged} lines of the record cannot be read", file=sys.stderr)
    return 1 if damaged else 0


def _print_json(premises: Premises, states: list[tuple[Issued, State]]) -> None:
    names = {ca_id(one): one.subject.rfc4514_string() for one in read_all_authorities(premises)}
    print(
        json.dumps(
            [
                {**asdict(one), "ca_name": names.get(one.ca), "state": state.value}
                for one, state in states
            ],
            indent=2,
        )
    )


def _print_text(states: list[tuple[Issued, State]]) -> None:
    header = ("SERIAL", "NAME", "ROLES", "UNTIL (UTC)", "STATE")
    rows = [
        (
            one.serial,
            one.name if one.kind == "client" else f"[server] {one.name}",
            ",".join(one.roles) or "-",
            f"{one.ends_at:%Y-%m-%d %H:%M}",
            state.value,
        )
        for one, state in states
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print(
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        )
