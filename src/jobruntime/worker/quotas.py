"""What each owner's jobs have of his quota: counted and taken without a pause in between.

Nothing here awaits, so of any number of starts at once each sees what those before it have taken.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..model.errors import JobError, Reason
from ..model.limits import UNLIMITED, Limits
from ..model.log_policy import LogPolicy
from ..model.quota import NO_QUOTA, Claim, Quota, check_start, check_update, starts_refused
from .live import LiveJob


class Quotas:
    """The claims of all owners: their live jobs, starts under way, updates under way."""

    def __init__(
        self, kept_log_bytes: Callable[[str], int], now: Callable[[], float] = time.monotonic
    ) -> None:
        """`kept_log_bytes` tells the room that an owner's jobs have which have ended."""
        self._kept_log_bytes = kept_log_bytes
        self._now = now
        self._live: defaultdict[str, dict[str, LiveJob]] = defaultdict(dict)
        self._starting: defaultdict[str, list[Claim]] = defaultdict(list)
        self._updating: dict[str, Claim] = {}
        self._starts: dict[str, tuple[float, float]] = {}

    def add(self, job: LiveJob) -> None:
        """Count a job that runs."""
        self._live[job.record.owner][job.record.job_id] = job

    def forget(self, job: LiveJob) -> None:
        """Count it no more: it has ended, and its log is measured."""
        owner, job_id = job.record.owner, job.record.job_id
        self._updating.pop(job_id, None)
        self._live[owner].pop(job_id, None)
        if not self._live[owner]:
            del self._live[owner]

    def check(self, owner: str, limits: Limits, log: LogPolicy, quota: Quota, rule: str) -> None:
        """Raise the JobError with which `starting` would refuse it now; its rate is not asked."""
        if quota != NO_QUOTA:
            kept = self._kept_log_bytes(owner)
            check_start(quota, rule, self._claims(owner), kept, _claim_of(limits, log))

    @contextmanager
    def starting(
        self, owner: str, limits: Limits, log: LogPolicy, quota: Quota, rule: str
    ) -> Iterator[None]:
        """Count a start under way: when this ends, the job has been added, or there is none.

        Raises JobError: RESOURCE_EXHAUSTED or LIMIT_ABOVE_CEILING where the quota has no room.
        """
        self.check(owner, limits, log, quota, rule)
        self._take_start(owner, quota, rule)
        claim = _claim_of(limits, log)
        self._starting[owner].append(claim)
        try:
            yield
        finally:
            self._starting[owner].remove(claim)
            if not self._starting[owner]:
                del self._starting[owner]

    @contextmanager
    def updating(self, job: LiveJob, limits: Limits, quota: Quota, rule: str) -> Iterator[None]:
        """Count the larger of a job's present and its new limits while they are changed.

        Raises JobError as `starting` does. Where the keeper did not say whether it has made the
        change, this stays so until a later change or the job's end.
        """
        job_id = job.record.job_id
        before = self._claim(job)
        asked = replace(before, cpu_millis=limits.cpu_millis, memory_bytes=limits.memory_bytes)
        if quota != NO_QUOTA:
            others = [claim for claim in self._claims(job.record.owner) if claim.job != job_id]
            check_update(quota, rule, others, before, asked)
        unknown = self._updating.get(job_id)
        self._updating[job_id] = _larger(before, asked)
        try:
            yield
        except JobError as error:
            if error.reason is not Reason.KEEPER_UNREACHABLE:
                self._updating.pop(job_id)
                if unknown is not None:
                    self._updating[job_id] = unknown
            raise
        self._updating.pop(job_id, None)

    def _claims(self, owner: str) -> list[Claim]:
        live = self._live.get(owner, {}).values()
        return [*(self._claim(job) for job in live), *self._starting.get(owner, ())]

    def _claim(self, job: LiveJob) -> Claim:
        record, progress = job.record, job.progress
        limits = record.limits
        if progress is not None and progress.limits is not None:
            limits = progress.limits
        claim = Claim(
            record.job_id,
            limits.cpu_millis,
            limits.memory_bytes,
            record.log.max_bytes,
            is_live=not job.ended.done(),
        )
        return _larger(claim, self._updating.get(record.job_id, claim))

    def _take_start(self, owner: str, quota: Quota, rule: str) -> None:
        rate = quota.starts_per_second
        if rate is None:
            return
        if rate <= 0:
            raise starts_refused(quota, rule, None)
        burst, now = max(1.0, rate), self._now()
        left, at = self._starts.get(owner, (burst, now))
        left = min(burst, left + (now - at) * rate)
        if left < 1:
            raise starts_refused(quota, rule, (1 - left) / rate)
        self._starts[owner] = (left - 1, now)


def _claim_of(limits: Limits, log: LogPolicy) -> Claim:
    return Claim("", limits.cpu_millis, limits.memory_bytes, log.max_bytes)


def _larger(one: Claim, other: Claim) -> Claim:
    def most(a: int | None, b: int | None) -> int:
        return max(UNLIMITED if value is None else value for value in (a, b))

    return replace(
        one,
        cpu_millis=most(one.cpu_millis, other.cpu_millis),
        memory_bytes=most(one.memory_bytes, other.memory_bytes),
    )
