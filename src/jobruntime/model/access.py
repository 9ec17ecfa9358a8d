"""Who may do what: principals, roles, and one table of verbs. Whatever it lacks is denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final


@unique
class Role(StrEnum):
    """A role that a certificate's organization (O) can name."""

    ADMIN = "admin"
    USER = "user"


@unique
class Verb(StrEnum):
    """What can be asked of the server; the RPCs' names in lower case."""

    START = "start"
    STOP = "stop"
    STATUS = "status"
    LOGS = "logs"
    STATS = "stats"
    UPDATE = "update"
    PAUSE = "pause"
    RESUME = "resume"
    REMOVE = "remove"
    PRUNE = "prune"
    RENEW = "renew"


@unique
class Scope(StrEnum):
    """Whose jobs a verb reaches."""

    OWN = "own"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: the user name (CN) and roles (O) of a verified client certificate."""

    name: str
    roles: frozenset[Role]
    serial: str = ""


Policy = Mapping[Role, Mapping[Verb, Scope]]

DEFAULT_POLICY: Final[Policy] = MappingProxyType(
    {
        Role.ADMIN: MappingProxyType(dict.fromkeys(Verb, Scope.ANY)),
        Role.USER: MappingProxyType(dict.fromkeys(Verb, Scope.OWN)),
    }
)
"""The design's table: an admin may do anything with any job, a user with his own."""


def allowed_scope(policy: Policy, principal: Principal, verb: Verb) -> Scope | None:
    """Return the widest scope that any of the principal's roles gives `verb`; None is a refusal."""
    scopes = {policy[role].get(verb) for role in principal.roles if role in policy}
    if Scope.ANY in scopes:
        return Scope.ANY
    return Scope.OWN if Scope.OWN in scopes else None
