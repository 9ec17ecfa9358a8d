"""Shares of a job: which other users may do what with it, beside its owner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .access import Verb
from .errors import JobError, Reason, invalid
from .names import MAX_NAME_CHARS, name_fault

SHAREABLE: Final = (Verb.STATUS, Verb.LOGS, Verb.STATS, Verb.STOP, Verb.PAUSE, Verb.RESUME)
"""What can be shared. Never what starts, changes or removes a job, or shares it further."""
MAX_SHARES: Final = 64


@dataclass(frozen=True, slots=True)
class Share:
    """What one user may do with a job that is not his.

    `verbs` always has STATUS, because the answers to all others tell it, and is in the order of
    `SHAREABLE`. Making one raises JobError (INVALID_ARGUMENT).
    """

    user: str
    verbs: tuple[Verb, ...]

    def __post_init__(self) -> None:
        if (fault := name_fault(self.user)) is not None:
            raise invalid(
                f"cannot share a job with {self.user[:MAX_NAME_CHARS]!a}: {fault}",
                "give a user's name as his certificate has it (CN)",
            )
        if not self.verbs:
            raise invalid(
                f"cannot share a job with {self.user!r}: no verb was named", _verbs_remedy()
            )
        for verb in self.verbs:
            if verb not in SHAREABLE:
                raise invalid(f"cannot share {str(verb)[:64]!a}", _verbs_remedy())
        verbs = tuple(verb for verb in SHAREABLE if verb in (Verb.STATUS, *self.verbs))
        object.__setattr__(self, "verbs", verbs)


def make_share(user: str, verbs: Iterable[str]) -> Share:
    """Return the share that these words name; raises JobError (INVALID_ARGUMENT)."""
    known = {str(verb): verb for verb in SHAREABLE}
    found = []
    for word in verbs:
        if word not in known:
            raise invalid(f"cannot share {word[:64]!a}", _verbs_remedy())
        found.append(known[word])
    return Share(user, tuple(found))


def parse_share(text: str) -> Share:
    """Return the share in `NAME:VERB[,VERB...]`; raises JobError (INVALID_ARGUMENT)."""
    user, colon, verbs = text.rpartition(":")
    if not colon:
        raise invalid(
            f"cannot read the share {text[:MAX_NAME_CHARS]!a}", "write it as NAME:status,logs"
        )
    return make_share(user, [word for word in verbs.split(",") if word])


def format_share(share: Share) -> str:
    """Return the text that `parse_share` reads back."""
    return f"{share.user}:{','.join(share.verbs)}"


def join_shares(shares: Iterable[Share]) -> tuple[Share, ...]:
    """Return one share for each user, sorted: equal requests give equal specs."""
    found: dict[str, Share] = {}
    for share in shares:
        before = found[share.user].verbs if share.user in found else ()
        found[share.user] = Share(share.user, (*before, *share.verbs))
    return tuple(found[user] for user in sorted(found))


def check_shares(shares: tuple[Share, ...]) -> None:
    """Refuse more shares than a job can have, or two for one user; raises JobError."""
    if len(shares) > MAX_SHARES:
        raise invalid(
            f"cannot share a job with {len(shares)} users", f"share it with at most {MAX_SHARES}"
        )
    if len({share.user for share in shares}) != len(shares):
        raise invalid("cannot share a job with one user twice", "name all his verbs together")


def change_shares(
    present: tuple[Share, ...], given: Iterable[Share], taken: Iterable[str]
) -> tuple[Share, ...]:
    """Return `present` with `given` in the place of what those users had, without the `taken`.

    Raises JobError (INVALID_ARGUMENT), also for a user who is given and taken at once.
    """
    changes, gone = join_shares(given), set(taken)
    if both := gone & {share.user for share in changes}:
        raise invalid(
            f"cannot share a job with {min(both)[:MAX_NAME_CHARS]!a} and take that back at once",
            "do one of them",
        )
    table = {share.user: share for share in (*present, *changes)}
    shares = tuple(table[user] for user in sorted(table) if user not in gone)
    check_shares(shares)
    return shares


def check_may_share(shares: Iterable[Share], allowed: frozenset[Verb]) -> None:
    """Refuse to hand on what the sharer may not do himself; raises JobError (PERMISSION_DENIED)."""
    for share in shares:
        for verb in share.verbs:
            if verb not in allowed:
                raise JobError(
                    Reason.PERMISSION_DENIED,
                    f"cannot share {str(verb)!r}: no role of yours allows you to {verb} a job",
                    "leave it out, or ask the operator for a certificate with a role that does",
                )


def encode_shares(shares: tuple[Share, ...]) -> list[object]:
    """Return `shares` as JSON-ready values; `parse_shares` is the inverse."""
    return [[share.user, list(share.verbs)] for share in shares]


def parse_shares(raw: object) -> tuple[Share, ...]:
    """Return what `encode_shares` wrote; raises ValueError or JobError for anything else."""
    if raw is None:  # what an older version wrote
        return ()
    if not isinstance(raw, list):
        raise ValueError(f"not a job's shares: {raw!r}")
    shares = []
    for entry in raw:
        match entry:
            case [str(user), list(verbs)]:
                shares.append(make_share(user, [str(verb) for verb in verbs]))
            case _:
                raise ValueError(f"not a share: {entry!r}")
    return tuple(shares)


def _verbs_remedy() -> str:
    return f"name some of {', '.join(SHAREABLE)}"
