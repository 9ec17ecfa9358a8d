"""Quotas: what all of one owner's jobs together may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .errors import JobError, Reason
from .limits import UNLIMITED
from .quantities import format_cpus, format_size


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that one owner may have at once; every field may be None, no quota.

    A quota of CPUs, memory or log bytes counts the limits of his jobs, not what they use: each of
    his jobs must have that limit, his own or a default, and the sum is never above the quota.
    """

    jobs: int | None = None
    """Jobs that have not ended, starts under way included."""
    cpu_millis: int | None = None
    """Thousandths of a CPU, summed over the limits of those jobs."""
    memory_bytes: int | None = None
    """The same of memory."""
    log_bytes: int | None = None
    """On disk: the bounds of logs of jobs that have not ended, and what those have that ended."""
    followers: int | None = None
    """Logs that he reads or follows at once."""
    starts_per_second: float | None = None
    """On the average; a second's worth at once, and at least one start."""


NO_QUOTA: Final = Quota()
"""Nothing is set."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one job has of its owner's quota; None or `UNLIMITED`: it has no such limit."""

    job: str
    """Its id; empty while it is being started."""
    cpu_millis: int | None = None
    memory_bytes: int | None = None
    log_bytes: int | None = None
    is_live: bool = True
    """False for one that has ended and whose log is not measured yet: it has only its log."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """A quota of a sum: its word, the flag of a job's own limit, how amounts are told."""

    word: str
    flag: str
    format: Callable[[int], str]
    more: str
    """What makes room for one more job."""


_SUMS: Final[Mapping[str, _Sum]] = {
    "cpu_millis": _Sum("cpus", "--cpus", format_cpus, "stop some"),
    "memory_bytes": _Sum("memory", "--memory", format_size, "stop some"),
    "log_bytes": _Sum(
        "log", "--log-max", format_size, "remove jobs that have ended (jobc rm, jobc prune)"
    ),
}
_UPDATED: Final = ("cpu_millis", "memory_bytes")


def check_start(
    quota: Quota, rule: str, claims: Sequence[Claim], kept_log_bytes: int, asked: Claim
) -> None:
    """Refuse one more job beside those that have `claims`.

    Raises JobError: RESOURCE_EXHAUSTED where a quota is used up, LIMIT_ABOVE_CEILING where the job
    lacks a limit that a quota needs.
    """
    if quota.jobs is not None:
        live = sum(claim.is_live for claim in claims)
        if live >= quota.jobs:
            raise JobError(
                Reason.RESOURCE_EXHAUSTED,
                f"cannot start a job: {_named(rule, 'jobs', str(quota.jobs))} is used up, "
                f"{live} run or start",
                "stop one, or ask the operator for a larger quota",
            )
    for field in _SUMS:
        kept = kept_log_bytes if field == "log_bytes" else 0
        _check_sum(quota, rule, field, claims, kept, asked, "start a job")


def check_update(
    quota: Quota, rule: str, others: Sequence[Claim], before: Claim, asked: Claim
) -> None:
    """Refuse new limits of a job beside the owner's `others`; the errors of `check_start`.

    What does not grow is never refused.
    """
    for field in _UPDATED:
        had, wants = (getattr(claim, field) or UNLIMITED for claim in (before, asked))
        if wants > had:
            _check_sum(quota, rule, field, others, 0, asked, f"update job {asked.job}")


def _check_sum(
    quota: Quota,
    rule: str,
    field: str,
    claims: Sequence[Claim],
    kept: int,
    asked: Claim,
    what: str,
) -> None:
    most: int | None = getattr(quota, field)
    if most is None:
        return
    kind = _SUMS[field]
    named = _named(rule, kind.word, kind.format(most))
    wanted: int | None = getattr(asked, field)
    if wanted is None or wanted == UNLIMITED:
        raise JobError(
            Reason.LIMIT_ABOVE_CEILING,
            f"cannot {what} without a limit of its own: {named} counts the limits of all jobs",
            f"give {kind.flag}",
        )
    used = kept
    for claim in claims:
        has: int | None = getattr(claim, field)
        if not claim.is_live and field != "log_bytes":
            continue
        if has is None or has == UNLIMITED:
            raise _unbounded(claim, kind, named, what)
        used += has
    if used + wanted > most:
        raise JobError(
            Reason.RESOURCE_EXHAUSTED,
            f"cannot {what} with {kind.flag} {kind.format(wanted)}: {named} has "
            f"{kind.format(max(0, most - used))} left, {kind.format(used)} are taken",
            f"give a smaller {kind.flag}, {kind.more}, or ask the operator for a larger quota",
        )


def _unbounded(claim: Claim, kind: _Sum, named: str, what: str) -> JobError:
    # Started before there was this quota. Counted as nothing it would make the quota a lie.
    job = f"job {claim.job}" if claim.job else "a job that is being started"
    change = f"give it one (jobc update {kind.flag})" if kind.word != "log" else "wait for its end"
    return JobError(
        Reason.RESOURCE_EXHAUSTED,
        f"cannot {what}: {named} counts the limits of all jobs, and {job} has none",
        f"{change}, or stop it",
    )


def check_followers(quota: Quota, rule: str, reading: int) -> None:
    """Refuse one more reader of logs; raises JobError (RESOURCE_EXHAUSTED)."""
    if quota.followers is not None and reading >= quota.followers:
        raise JobError(
            Reason.RESOURCE_EXHAUSTED,
            f"cannot read one more log: {_named(rule, 'followers', str(quota.followers))} is used "
            f"up, {reading} are read at once",
            "end some, or ask the operator for a larger quota",
        )


def starts_refused(quota: Quota, rule: str, wait_s: float | None) -> JobError:
    """Return the error for a start that comes too soon; `wait_s` None: there is never a time."""
    rate = f"{quota.starts_per_second:g}"
    return JobError(
        Reason.RESOURCE_EXHAUSTED,
        f"cannot start a job: {_named(rule, 'starts per second', rate)} is used up",
        "ask the operator for a larger quota"
        if wait_s is None
        else f"try again in {max(wait_s, 0.1):.1f} s, or ask the operator for a larger quota",
    )


def _named(rule: str, word: str, value: str) -> str:
    return f"{rule or 'the quota'} {word} = {value}"
