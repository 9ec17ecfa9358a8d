"""The words of access: principals, roles, verbs and scopes. What they may is in policy.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final


@unique
class Role(StrEnum):
    """A role that every server knows. A policy file can have others; roles are names, so `str`."""

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
    WHOAMI = "whoami"
    CAN_I = "can-i"
    EXPLAIN = "explain"


ABOUT_ONESELF: Final = frozenset({Verb.WHOAMI, Verb.CAN_I, Verb.EXPLAIN})
"""Verbs of everybody with a role: they tell a caller of himself. No policy gives or takes them."""


@unique
class Scope(StrEnum):
    """Whose jobs a verb reaches."""

    OWN = "own"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: the user name (CN) and roles (O) of a verified client certificate."""

    name: str
    roles: frozenset[str]
    serial: str = ""
