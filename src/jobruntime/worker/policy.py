"""The operator's defaults and ceilings, applied to what each job asks for."""

from __future__ import annotations

from ..linux.controllers import Offer
from ..model.errors import JobError, Reason
from ..model.limits import Limits, check_ceiling, check_together, merge_limits
from ..model.log_policy import LogPolicy, resolve_log_policy
from .settings import Settings
from .tree import check_enforceable


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

    def at_start(self, asked: Limits) -> Limits:
        """Return what holds for a job that asks for `asked`.

        Raises JobError: INVALID_ARGUMENT, LIMIT_ABOVE_CEILING, LIMIT_NOT_ENFORCEABLE.
        """
        return self._checked(merge_limits(self._default, asked), "run the job")

    def at_update(self, present: Limits, changes: Limits) -> Limits:
        """Return what holds for a running job once `changes` are made; the errors of `at_start`."""
        return self._checked(merge_limits(present, changes), "update the job")

    def log_at_start(self, asked: LogPolicy) -> LogPolicy:
        """Return the bounds of a job's log; raises JobError (LIMIT_ABOVE_CEILING)."""
        return resolve_log_policy(self._default_log, asked, self._log_ceiling)

    def _checked(self, limits: Limits, what: str) -> Limits:
        bounded = check_ceiling(limits, self._ceiling)
        check_together(bounded)
        check_enforceable(bounded, self._offer, what)
        return bounded
