"""Checks of an instance's revocation list, and of what its CA has given to users."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from jobruntime.model.errors import JobError
from jobruntime.server.authorities import Premises
from jobruntime.server.cert_list import State, read_states
from jobruntime.server.config import Config
from jobruntime.server.expiry import is_near_end
from jobruntime.server.issued import Issued
from jobruntime.server.trust import check_list_time, read_authorities, read_lists

from .report import Check, failed_with, good, lacking

_NAME = "revocation list"
_CLIENTS = "users' certificates"
_FEW = 10


def check_revocations(config: Config) -> Check:
    """Check that the revocation list is there and counts."""
    path = config.tls.crl
    if path is None:
        return lacking(
            _NAME,
            "none: no certificate can be locked out before it ends",
            "write crl = ... into [tls] of jobd.toml, see docs/certificates.md",
        )
    try:
        _, authorities = read_authorities(config.tls.ca)
        lists = read_lists(path, authorities)
        check_list_time(path, lists)
    except JobError as error:
        return failed_with(_NAME, error)
    count = sum(len(crl) for found in lists.by_ca.values() for crl in found)
    due = lists.next_update()
    text = f"{count} certificates revoked"
    if due is None:
        return good(_NAME, text, revoked=count)
    left = due - dt.datetime.now(dt.UTC)
    return good(_NAME, f"{text}; good until {due:%Y-%m-%d}", revoked=count, days_left=left.days)


def check_clients(config: Config) -> Iterator[Check]:
    """Tell whose certificates end soon without a later one; nothing where there is no record."""
    premises = Premises(config.path.parent, config.tls)
    try:
        states, damaged = read_states(premises)
    except JobError as error:
        yield failed_with(_CLIENTS, error)
        return
    last: dict[str, Issued] = {}
    for one, state in states:
        if one.kind == "client" and state is State.VALID:
            last[one.name] = max(last.get(one.name, one), one, key=lambda found: found.ends_at)
    if damaged:
        yield lacking(_CLIENTS, f"{damaged} lines of the record cannot be read", "restore it")
    if last:
        yield _check_ends(last)


def _check_ends(last: dict[str, Issued]) -> Check:
    now = dt.datetime.now(dt.UTC)
    ending = sorted(name for name, one in last.items() if _is_ending(one, now))
    days = min((one.ends_at - now).days for one in last.values())
    text = f"{len(last)} users have one that is valid"
    if not ending:
        return good(_CLIENTS, text, users=len(last), ending=0, days_left=days)
    more = "" if len(ending) <= _FEW else f" and {len(ending) - _FEW} more"
    return lacking(
        _CLIENTS,
        f"{text}; soon without: {', '.join(ending[:_FEW])}{more}",
        "they renew it with jobc renew, or you with jobd cert renew",
        users=len(last),
        ending=len(ending),
        days_left=days,
    )


def _is_ending(one: Issued, now: dt.datetime) -> bool:
    return is_near_end(dt.datetime.fromisoformat(one.not_before), one.ends_at, now)
