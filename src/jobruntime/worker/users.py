"""As whom a job runs: the owner's own uid, or an account of the host where that is granted."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from ..model.admission import Terms
from ..model.errors import JobError, Reason
from .owners import Owners


@dataclass(frozen=True, slots=True)
class User:
    """Whom a job runs as, by the name that is told of him: an account's, or the uid in digits."""

    name: str
    uid: int | None = None
    """None: the worker's own, and so its groups."""
    gid: int | None = None


class Users:
    """The users of one instance's jobs. Not for use by two threads, except for `known`."""

    def __init__(self, owners: Owners, accounts: Mapping[str, tuple[int, int]]) -> None:
        """Take the owners' table, and the accounts that jobs may run as."""
        self._owners = owners
        self._accounts = accounts
        self._own = User(_own_name())

    def check(self, asked: str | None, terms: Terms) -> None:
        """Refuse what is not granted, or not to be had here.

        Raises JobError: USER_UNAVAILABLE, PERMISSION_DENIED.
        """
        name = asked if terms.account is None else terms.account
        if name is None:
            return
        if not self._owners.has_uids:
            raise JobError(
                Reason.USER_UNAVAILABLE,
                f"cannot start the job as user {name[:64]!r}: this server is not root's, so that "
                "all jobs run as its own user",
                "leave --user out, or have the operator run jobd as root",
            )
        if asked is not None and asked != terms.account:
            raise JobError(
                Reason.PERMISSION_DENIED,
                f"cannot start the job as user {asked[:64]!r}: no rule of the policy allows it",
                "leave --user out, or have the operator allow it",
            )
        if name not in self._accounts:
            raise JobError(
                Reason.USER_UNAVAILABLE,
                f"cannot start the job as user {name[:64]!r}: it is none of the accounts that jobs "
                "may run as on this host",
                "the operator names these under `accounts` in [jobs] of jobd.toml",
            )

    def known(self, owner: str, terms: Terms) -> User | None:
        """Return the user of an owner's job; None: `user_of` must see to it."""
        if terms.account is not None:
            return User(terms.account, *self._accounts[terms.account])
        if not self._owners.has_uids:
            return self._own
        uid = self._owners.known_uid(owner)
        return None if uid is None else User(str(uid), uid, uid)

    def user_of(self, owner: str) -> User:
        """Return the owner's own user, giving him a uid; raises JobError as Owners.uid_of does."""
        uid = self._owners.uid_of(owner)
        return self._own if uid is None else User(str(uid), uid, uid)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
