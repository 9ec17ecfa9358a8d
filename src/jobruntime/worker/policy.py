"""The operator's defaults and ceilings, applied to what each job asks for."""

from __future__ import annotations

from ..linux.controllers import Offer
from ..model.errors import JobError, Reason
from ..model.io_rates import AboveCeilingError, IoCeiling, IoOrder, check_rates
from ..model.limits import SERVER, Limits, check_ceiling, check_together, merge_limits
from ..model.log_policy import LogPolicy, resolve_log_policy
from .settings import Settings
from .tree import check_enforceable


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

    def at_start(self, asked: Limits) -> Limits:
        """Return what holds for a job that asks for `asked`; of I/O, see `io_at_start`.

        Raises JobError: INVALID_ARGUMENT, LIMIT_ABOVE_CEILING, LIMIT_NOT_ENFORCEABLE.
        """
        bounded = check_ceiling(merge_limits(self._default, asked), self._ceiling)
        check_together(bounded, asked)
        check_enforceable(bounded, self._offer, "run the job")
        return bounded

    def io_at_start(self, asked: Limits) -> IoOrder:
        """Return what the keeper of a job that asks for `asked` makes its I/O rates of."""
        return IoOrder(self._default.io, asked.io, self._io_ceilings)

    def at_update(self, present: Limits, changes: Limits) -> Limits:
        """Return what holds for a running job once `changes` are made; the errors of `at_start`.

        Only these are judged: what has become too much since the job's start stays as it is.
        """
        check_ceiling(changes, self._ceiling, what="update a job to")
        check_enforceable(changes, self._offer, "update the job")
        merged = merge_limits(present, changes)
        check_together(merged, changes)
        return merged

    def io_at_update(self, changes: Limits) -> IoOrder:
        """Return what the keeper of a running job makes the changes of its I/O rates of."""
        return IoOrder((), changes.io, self._io_ceilings)

    def log_at_start(self, asked: LogPolicy) -> LogPolicy:
        """Return the bounds of a job's log; raises JobError (LIMIT_ABOVE_CEILING)."""
        return resolve_log_policy(self._default_log, asked, self._log_ceiling)
