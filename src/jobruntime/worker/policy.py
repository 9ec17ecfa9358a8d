"""The operator's defaults and ceilings, applied to what each job asks for."""

from __future__ import annotations

from dataclasses import dataclass

from ..linux.controllers import Offer
from ..model.admission import NO_TERMS, Terms, check_log_ceiling
from ..model.ceilings import cut_to_ceiling, join_ceilings
from ..model.errors import JobError, Reason
from ..model.io_rates import (
    AboveCeilingError,
    IoCeiling,
    IoOrder,
    check_rates,
    cut_rates,
    replace_rates,
)
from ..model.isolation import Isolation
from ..model.limits import SERVER, Limits, check_ceiling, check_together, merge_limits
from ..model.log_policy import LogPolicy, resolve_log_policy
from ..model.rlimits import Rlimits
from .settings import Settings
from .tree import check_enforceable


@dataclass(frozen=True, slots=True)
class Plan:
    """What a start would come to, were it made now."""

    limits: Limits
    log: LogPolicy
    uid: int | None
    """The uid of the job; None: the server's own, or one that is chosen at the owner's first."""
    is_new_owner: bool
    """His uid is chosen at his first start."""
    isolation: Isolation
    rlimits: Rlimits
    """The role's, and the configuration's beside them."""


class LimitPolicy:
    """Works out the limits that are in force for a job on this host.

    Of I/O rates it says what the keeper is to hold to, which alone knows the disks of a job's own
    paths; the operator's paths have theirs (see operator_limits.py).
    """

    def __init__(self, settings: Settings, offer: Offer) -> None:
        self._default = settings.default_limits
        self._ceiling = settings.ceiling
        io = settings.ceiling.io
        self._io_ceilings = (IoCeiling(SERVER, io),) if io else ()
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
                check_together(check_ceiling(limits, self._ceiling), limits)
            except JobError as error:
                raise JobError(
                    Reason.CONFIG_INVALID,
                    error.message,
                    f"{error.remedy}; or take it out of the {what} in the configuration",
                ) from error
        try:
            check_rates(self._default.io, self._io_ceilings)
        except AboveCeilingError as error:
            raise JobError(
                Reason.CONFIG_INVALID,
                f"cannot run a job with {error}",
                "give less in [limits.default], or more in [limits.ceiling], of the configuration",
            ) from error

    def at_start(self, asked: Limits, terms: Terms = NO_TERMS) -> Limits:
        """Return what holds for a job that asks for `asked`; of I/O, see `io_at_start`.

        The role's defaults come before the configuration's; of two ceilings the lower one holds.
        What nobody asked for is brought down to it; more that was asked for is refused.

        Raises JobError: INVALID_ARGUMENT, LIMIT_ABOVE_CEILING, LIMIT_NOT_ENFORCEABLE.
        """
        check_ceiling(asked, terms.ceiling, terms.rule)
        check_ceiling(asked, self._ceiling)
        ceiling = join_ceilings(terms.ceiling, self._ceiling)
        default = cut_to_ceiling(merge_limits(self._default, terms.default_limits), ceiling)
        bounded = check_ceiling(merge_limits(default, asked), ceiling)
        check_together(bounded, asked)
        check_enforceable(bounded, self._offer, "run the job")
        return bounded

    def io_at_start(self, asked: Limits, terms: Terms = NO_TERMS) -> IoOrder:
        """Return what the keeper of a job that asks for `asked` makes its I/O rates of.

        The role's rates have their disks already, as the configuration's have.
        """
        base = replace_rates(self._default.io, terms.default_limits.io)
        ceilings = self._ceilings(terms)
        return IoOrder(cut_rates(base, ceilings), asked.io, ceilings)

    def at_update(self, present: Limits, changes: Limits, terms: Terms = NO_TERMS) -> Limits:
        """Return what holds for a running job once `changes` are made; the errors of `at_start`.

        Only these are judged: what has become too much since the job's start stays as it is, and
        what it has may be another's to give.
        """
        check_ceiling(changes, terms.ceiling, terms.rule, what="update a job to")
        check_ceiling(changes, self._ceiling, what="update a job to")
        check_enforceable(changes, self._offer, "update the job")
        merged = merge_limits(present, changes)
        check_together(merged, changes)
        return merged

    def io_at_update(self, changes: Limits, terms: Terms = NO_TERMS) -> IoOrder:
        """Return what the keeper of a running job makes the changes of its I/O rates of."""
        return IoOrder((), changes.io, self._ceilings(terms))

    def _ceilings(self, terms: Terms) -> tuple[IoCeiling, ...]:
        if not terms.ceiling.io:
            return self._io_ceilings
        return (IoCeiling(terms.rule("io"), terms.ceiling.io), *self._io_ceilings)

    def log_at_start(self, asked: LogPolicy, terms: Terms = NO_TERMS) -> LogPolicy:
        """Return the bounds of a job's log; raises JobError (LIMIT_ABOVE_CEILING)."""
        check_log_ceiling(asked, terms)
        own, role = self._default_log, terms.default_log
        size = own.max_bytes if role.max_bytes is None else role.max_bytes
        ceilings = [c for c in (self._log_ceiling, terms.log_ceiling_bytes) if c is not None]
        default = LogPolicy(size, role.on_full or own.on_full)
        return resolve_log_policy(default, asked, min(ceilings, default=None))
