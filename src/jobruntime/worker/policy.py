"""The operator's defaults and ceilings, applied to what each job asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..linux.controllers import Offer
from ..model.admission import NO_TERMS, Terms, check_log_ceiling
from ..model.ceilings import cut_to_ceiling, join_ceilings
from ..model.errors import JobError, Reason
from ..model.limits import Limits, check_ceiling, check_together, merge_limits
from ..model.log_policy import LogPolicy, resolve_log_policy
from .settings import Settings
from .tree import check_enforceable


@dataclass(frozen=True, slots=True)
class Plan:
    """What a start would come to, were it made now."""

    limits: Limits
    log: LogPolicy
    uid: int | None
    """The uid of the owner's jobs; None: the server's own, or one that is chosen at his first."""
    is_new_owner: bool
    """His uid is chosen at his first start."""


_NOT_HELD: Final = ("account", "isolation", "rlimits", "quota")
"""Fields of Terms that this worker has no means to hold yet."""


def check_held(terms: Terms) -> None:
    """Refuse terms that this worker would not hold; raises JobError (LIMIT_NOT_ENFORCEABLE)."""
    for name in _NOT_HELD:
        if getattr(terms, name) != getattr(NO_TERMS, name):
            raise JobError(
                Reason.LIMIT_NOT_ENFORCEABLE,
                f"cannot run the job: this server cannot hold the {name} that role "
                f"{terms.role} has in {terms.source}",
                "ask the operator to take it out of the policy",
            )


class LimitPolicy:
    """Works out the limits that are in force for a job on this host."""

    def __init__(self, settings: Settings, offer: Offer) -> None:
        self._default = settings.default_limits
        self._ceiling = settings.ceiling
        self._offer = offer
        self._default_log = settings.default_log
        self._log_ceiling = settings.log_ceiling_bytes

    def check(self) -> None:
        """Refuse defaults and ceilings that this host cannot hold: every job would be refused.

        Raises JobError (CONFIG_INVALID).
        """
        for what, limits in (
            ("defaults", self._default),
            ("ceilings", self._ceiling),
        ):
            try:
                check_enforceable(limits, self._offer, f"serve: the {what} limit jobs")
                check_together(check_ceiling(merge_limits(limits, Limits()), self._ceiling))
            except JobError as error:
                raise JobError(
                    Reason.CONFIG_INVALID,
                    error.message,
                    f"{error.remedy}; or take it out of the {what} in the configuration",
                ) from error

    def at_start(self, asked: Limits, terms: Terms = NO_TERMS) -> Limits:
        """Return what holds for a job that asks for `asked`.

        The role's defaults come before the configuration's; of two ceilings the lower one holds.
        What nobody asked for is brought down to it; more that was asked for is refused.

        Raises JobError: INVALID_ARGUMENT, LIMIT_ABOVE_CEILING, LIMIT_NOT_ENFORCEABLE.
        """
        check_ceiling(asked, terms.ceiling, terms.rule)
        check_ceiling(asked, self._ceiling)
        check_held(terms)
        ceiling = join_ceilings(terms.ceiling, self._ceiling)
        default = cut_to_ceiling(merge_limits(self._default, terms.default_limits), ceiling)
        return self._checked(merge_limits(default, asked), ceiling, "run the job")

    def at_update(self, present: Limits, changes: Limits, terms: Terms = NO_TERMS) -> Limits:
        """Return what holds for a running job once `changes` are made; the errors of `at_start`.

        The role's ceiling bounds the changes alone: what the job has may be another's to give.
        """
        check_ceiling(changes, terms.ceiling, terms.rule)
        return self._checked(merge_limits(present, changes), self._ceiling, "update the job")

    def log_at_start(self, asked: LogPolicy, terms: Terms = NO_TERMS) -> LogPolicy:
        """Return the bounds of a job's log; raises JobError (LIMIT_ABOVE_CEILING)."""
        check_log_ceiling(asked, terms)
        own, role = self._default_log, terms.default_log
        size = own.max_bytes if role.max_bytes is None else role.max_bytes
        ceilings = [c for c in (self._log_ceiling, terms.log_ceiling_bytes) if c is not None]
        default = LogPolicy(size, role.on_full or own.on_full)
        return resolve_log_policy(default, asked, min(ceilings, default=None))

    def _checked(self, limits: Limits, ceiling: Limits, what: str) -> Limits:
        bounded = check_ceiling(limits, ceiling)
        check_together(bounded)
        check_enforceable(bounded, self._offer, what)
        return bounded
