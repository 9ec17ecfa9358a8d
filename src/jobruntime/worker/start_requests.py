"""Requests to start a job: each is carried out once, whatever becomes of its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

from ..model.admission import Terms
from ..model.errors import JobError, Reason
from ..model.isolation import Isolation
from ..model.spec import JobSpec, same_request
from .catalogue import Catalogue
from .live_jobs import LiveJobs
from .lookup import Lookup, found_job
from .policy import LimitPolicy, Plan
from .quotas import Quotas
from .reservations import Reservations
from .starter import Starter
from .threads import Threads
from .users import Users

_FINISH_S: Final = 10.0
_ANSWER_S: Final = 45.0


class StartRequests:
    """Admits starts by limits, quotas, names and request ids, and has the starter make them."""

    def __init__(
        self,
        threads: Threads,
        catalogue: Catalogue,
        jobs: LiveJobs,
        lookup: Lookup,
        starter: Starter,
        *,
        users: Users,
        policy: LimitPolicy,
        quotas: Quotas,
        run_task: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._threads = threads
        self._catalogue = catalogue
        self._jobs = jobs
        self._lookup = lookup
        self._starter = starter
        self._users = users
        self._policy = policy
        self._quotas = quotas
        self._run_task = run_task
        self._reservations = Reservations()
        self._starts: set[asyncio.Future[str]] = set()
        self._closing = False

    def close(self) -> None:
        """Refuse every further start."""
        self._closing = True

    async def finish(self) -> None:
        """Wait a while for the starts that are under way."""
        if self._starts:
            await asyncio.wait(self._starts, timeout=_FINISH_S)

    async def start(self, spec: JobSpec, owner: str, terms: Terms) -> str:
        """See Worker.start."""
        self._users.check(spec.user, terms)
        if self._closing:
            raise JobError(
                Reason.SPAWNER_UNAVAILABLE,
                "cannot start a job: the server is stopping",
                "try again when it is back",
            )
        # A caller that gives up must not leave half a job: the start goes on without him.
        starting = asyncio.ensure_future(self._start(spec, owner, terms))
        self._starts.add(starting)
        starting.add_done_callback(self._forget_start)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.shield(starting)
        except TimeoutError as error:
            raise JobError(
                Reason.SPAWNER_UNAVAILABLE,
                f"cannot tell whether the job has started: no word of it for {_ANSWER_S:.0f} s",
                "try again with the same request id; the operator should look at the spawner",
            ) from error

    def _forget_start(self, starting: asyncio.Future[str]) -> None:
        self._starts.discard(starting)
        if not starting.cancelled():
            starting.exception()  # marks it as seen: the caller may be gone

    async def _start(self, spec: JobSpec, owner: str, terms: Terms) -> str:
        async with self._reservations.held(owner, spec) as earlier:
            if earlier is None:
                earlier = await self._earlier_job(owner, spec)
            if earlier is not None and await self._is_by_request(earlier, spec):
                found_job.get()(earlier)
                return earlier
            if spec.name is not None and await self._jobs.has_name(owner, spec.name):
                raise JobError(
                    Reason.NAME_IN_USE,
                    f"cannot start a second job named {spec.name!r}: the first has not ended",
                    "stop it, or choose another name",
                )
            await self._settle(owner, terms)
            limits = self._policy.at_start(spec.limits, terms)
            io = self._policy.io_at_start(spec.limits, terms)
            log = self._policy.log_at_start(spec.log, terms)
            with self._quotas.starting(owner, limits, log, terms.quota, terms.quota_rule):
                isolated = _isolated(spec, terms)
                started = await self._starter.start(isolated, limits, io, log, owner, terms)
                self._jobs.adopt(started.record, started.progress, started.keeper)
            self._starter.starting.discard(started.record.job_id)
            self._run_task(self._starter.sync(started))
            self._reservations.keep(owner, spec, started.record.job_id)
            found_job.get()(started.record.job_id)
            return started.record.job_id

    async def plan(self, spec: JobSpec, owner: str, terms: Terms) -> Plan:
        """See Worker.plan."""
        self._users.check(spec.user, terms)
        await self._settle(owner, terms)
        limits = self._policy.at_start(spec.limits, terms)
        log = self._policy.log_at_start(spec.log, terms)
        self._quotas.check(owner, limits, log, terms.quota, terms.quota_rule)
        user = self._users.known(owner, terms)
        return Plan(
            limits=limits,
            log=log,
            uid=None if user is None else user.uid,
            is_new_owner=user is None,
            isolation=_isolated(spec, terms).isolation or Isolation.NONE,
            rlimits=self._starter.rlimits_of(terms),
        )

    async def _settle(self, owner: str, terms: Terms) -> None:
        # A job that has ended counts with what its log has; while it is entered, it would count
        # with all that it might have had, or with both.
        if terms.quota.log_bytes is not None:
            await self._jobs.settled(owner)

    async def _earlier_job(self, owner: str, spec: JobSpec) -> str | None:
        request_id = spec.request_id
        if request_id is None:
            return None
        return await self._threads.in_index(lambda: self._catalogue.find_request(owner, request_id))

    async def _is_by_request(self, job_id: str, spec: JobSpec) -> bool:
        try:
            earlier = (await self._lookup.look_up(job_id))[0]
        except JobError as error:
            if error.reason is Reason.JOB_NOT_FOUND:  # it has just been removed
                return False
            raise
        # What was not asked for the policy has given, and may give another today.
        isolation = None if spec.isolation is None else earlier.spec.isolation
        if not same_request(replace(earlier.spec, isolation=isolation), spec):
            raise JobError(
                Reason.REQUEST_ID_REUSED,
                f"cannot use request id {spec.request_id!r} again: job {job_id} was started "
                "with it, and by another request",
                "use a new request id for a new job",
            )
        return True


def _isolated(spec: JobSpec, terms: Terms) -> JobSpec:
    """Return `spec` with the isolation that its terms give it."""
    if terms.isolation is None:
        return spec
    return replace(spec, isolation=terms.isolation)
