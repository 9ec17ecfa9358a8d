"""The local engine: jobs as keepers and payloads on this host."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

from ..model.access import Verb
from ..model.admission import NO_TERMS, Terms
from ..model.errors import JobError, Reason, invalid
from ..model.io_rates import encode_io_order
from ..model.limits import NO_LIMITS, Limits, check_limits, encode_limits
from ..model.log_query import WHOLE_LOG, LogQuery
from ..model.shares import Share
from ..model.spec import JobSpec, check_grace_ms
from ..model.status import JobStatus
from ..model.usage import Usage
from .api import LogEvent, Removed, Worker
from .catalogue import Catalogue
from .instance import Instance, open_instance, remove_places
from .live import ChangeFailedError, LiveJob
from .live_jobs import LiveJobs
from .log_filter import LineSearch
from .log_reader import Position
from .log_streams import LogStreams
from .logs import Found
from .lookup import Lookup, not_found
from .operator_limits import NO_DISKS, check_cpus, resolve_settings
from .owners import Owners
from .policy import LimitPolicy, Plan
from .prepared import Prepared
from .quotas import Quotas
from .removal import Remover
from .retention import RetentionLoop
from .settings import Settings
from .sharing import Sharing, while_shared
from .spawner import Spawner
from .start_errors import change_error
from .start_requests import StartRequests
from .starter import Starter
from .stats import usage_now, usage_of_keeper
from .store import status_of
from .tail import TailHub
from .tasks import Tasks
from .threads import Threads
from .tree import limit_all_jobs
from .users import Users

_T = TypeVar("_T")

_REACH_S: Final = 10.0
_OVERDUE_S: Final = 5.0
_STATS_TRIES: Final = 3


class LocalWorker(Worker):
    """Runs jobs on this host; an async context manager. One per state directory.

    Leaving the context leaves the jobs alone: the next worker on the same state directory finds
    them, those that ended meanwhile too.
    """

    def __init__(
        self,
        settings: Settings,
        compile_search: Callable[[str], LineSearch] | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        """Take the settings; nothing happens before the context is entered.

        `compile_search` makes of a pattern what finds a log's lines; it raises JobError
        (INVALID_ARGUMENT). Without it no log can be searched. `prepared` is an instance that root
        has made for this process, and holds for it.
        """
        self._prepared = prepared
        self._settings = settings
        self._compile_search = compile_search
        self._tasks = Tasks()

    async def __aenter__(self) -> Self:
        """Open the instance and recover its jobs.

        Raises JobError: INSTANCE_IN_USE, CONFIG_INVALID, SPAWNER_UNAVAILABLE.
        """
        async with contextlib.AsyncExitStack() as stack:
            self._instance: Instance = self._open_instance(stack)
            tree = self._instance.tree
            disks = NO_DISKS if self._prepared is None else self._prepared.disks
            settings = resolve_settings(self._settings, disks)
            self._policy = LimitPolicy(settings, tree.offer)
            self._policy.check()
            if self._prepared is None:
                limit_all_jobs(tree, settings.all_limits)
            check_cpus(settings, None if tree.root is None else tree.jobs)
            self._threads = stack.enter_context(Threads())
            self._owners = Owners(self._instance.state_dir, self._instance.uids)
            stack.callback(self._owners.close)
            path = f"{self._instance.state_dir}/catalogue.sqlite"
            self._catalogue = await self._threads.in_index(lambda: Catalogue(path))
            # In its own thread, behind what is still to be written there.
            stack.push_async_callback(self._threads.in_index, self._catalogue.close)
            self._quotas = Quotas(self._catalogue.kept_bytes)
            self._tail: TailHub[Position, Found] = TailHub()
            stack.callback(self._tail.close)
            places = (self._instance, self._threads, self._catalogue)
            self._jobs = LiveJobs(
                *places, quotas=self._quotas, tail=self._tail, run_task=self._tasks.run
            )
            self._live = self._jobs.by_id
            jobs_dir = self._instance.jobs_dir
            self._logs = LogStreams(jobs_dir, self._tail, self._compile_search)
            start = None if self._prepared is None else self._prepared.start_spawner
            self._spawner = Spawner(self._instance, start)
            stack.callback(self._spawner.close)
            self._users = Users(self._owners, self._instance.accounts)
            self._starter = Starter(
                *(self._instance, self._threads, self._users, self._catalogue, self._spawner),
                self._settings.rlimits,
            )
            starting = self._starter.starting
            self._lookup = Lookup(*places, self._live, starting)
            self._start_requests = StartRequests(
                *(self._threads, self._catalogue, self._jobs, self._lookup, self._starter),
                users=self._users,
                policy=self._policy,
                quotas=self._quotas,
                run_task=self._tasks.run,
            )
            self._sharing = Sharing(*places, self._live)
            by_spawner = self._starter.remove_home if self._instance.is_prepared else None
            self._remover = Remover(*places, by_spawner)
            self._retention = RetentionLoop(self._settings.retention, *places, self._remover)
            self._jobs.connect(self._starter.sweep, self._retention.wake)
            stack.push_async_callback(self._let_go)
            await self._spawner.ensure()
            await self._jobs.recover()
            self._tasks.run(self._remover.clean_up())
            self._tasks.run(self._retention.run())
            self._resources = stack.pop_all()
        return self

    def _open_instance(self, stack: contextlib.AsyncExitStack) -> Instance:
        if self._prepared is not None:
            return self._prepared.instance
        instance = open_instance(self._settings)
        stack.callback(instance.close)
        return instance

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything; jobs, keepers and the spawner go on."""
        await self._resources.aclose()

    async def _let_go(self) -> None:
        self._remover.close()
        await self._start_requests.finish()
        self._tasks.cancel()
        for job in self._live.values():
            job.detach()

    @property
    def instance(self) -> Instance:
        """The places that this worker uses."""
        return self._instance

    @property
    def running(self) -> list[JobStatus]:
        """The jobs that have not ended."""
        return [job.status for job in self._live.values()]

    async def retire(self) -> None:
        """End the spawner and, where no job is left, remove what the instance had outside."""
        await self._spawner.retire()
        if not self._live and not self._instance.is_prepared:
            await self._threads.in_files(lambda: remove_places(self._instance))

    async def stop_all(self, *, by: str) -> None:
        """Refuse every further start, and stop all jobs, each with its own signal and grace.

        Raises JobError (KEEPER_UNREACHABLE) where one could not be stopped.
        """
        self._start_requests.close()
        while jobs := list(self._live):
            await asyncio.gather(*(self.stop(job_id, by=by) for job_id in jobs))
            await asyncio.sleep(0)
        if silent := sorted(self._jobs.unreachable):
            raise JobError(
                Reason.KEEPER_UNREACHABLE,
                f"cannot stop {len(silent)} jobs whose keepers live and do not answer: "
                + ", ".join(silent),
                "the operator should look at these keepers (processes named jobd-keeper)",
            )

    # -- start

    async def start(self, spec: JobSpec, *, owner: str, terms: Terms = NO_TERMS) -> str:
        """See Worker.start."""
        return await self._start_requests.start(spec, owner, terms)

    async def plan(self, spec: JobSpec, *, owner: str, terms: Terms = NO_TERMS) -> Plan:
        """See Worker.plan."""
        return await self._start_requests.plan(spec, owner, terms)

    async def remove(self, job: str, *, owner: str | None = None) -> Removed:
        """See Worker.remove."""
        job_id = await self._lookup.resolve(job, owner)
        if live := self._live.get(job_id):
            await live.check_ended(f"remove job {job_id}")
        elif not (await self._lookup.match(job_id, owner)).ended:
            await self._lookup.look_up(job_id)  # refuses where the files tell of no end either
        freed = await self._remover.remove(job_id)
        if freed is None:
            raise not_found(job)  # somebody else was quicker
        return Removed((job_id,), freed)

    async def prune(
        self,
        *,
        owner: str | None = None,
        ended_before_ms: int | None = None,
        keep: int = 0,
        dry_run: bool = False,
    ) -> Removed:
        """See Worker.prune."""
        await self._jobs.settled(owner)
        return await self._remover.prune(owner, ended_before_ms, keep, dry_run=dry_run)

    # -- queries

    async def status(
        self, job: str, *, owner: str | None = None, verb: Verb = Verb.STATUS
    ) -> JobStatus:
        """See Worker.status."""
        job_id = await self._lookup.resolve(job, owner, verb)
        return status_of(*await self._lookup.look_up(job_id))

    async def wait(self, job: str, *, owner: str | None = None) -> JobStatus:
        """See Worker.wait."""
        job_id = await self._lookup.resolve(job, owner, Verb.STATUS)
        if live := self._live.get(job_id):
            await asyncio.shield(live.ended)
            return live.status
        return status_of(*await self._lookup.look_up(job_id))

    async def stop(
        self,
        job: str,
        *,
        by: str,
        owner: str | None = None,
        signo: int | None = None,
        grace_ms: int | None = None,
    ) -> JobStatus:
        """See Worker.stop."""
        if grace_ms is not None:
            check_grace_ms(grace_ms)
        if signo is not None and not 1 <= signo <= 64:
            raise invalid(f"cannot stop a job with signal {signo}", "give 1 to 64")
        job_id = await self._lookup.resolve(job, owner, Verb.STOP)
        if live := self._live.get(job_id):
            if await live.is_reachable(_REACH_S):
                await live.request_stop(by, signo, grace_ms, _REACH_S)
            await self._wait_stopped(live, grace_ms)
            return live.status
        return status_of(*await self._lookup.look_up(job_id))

    async def _wait_stopped(self, live: LiveJob, grace_ms: int | None) -> None:
        job_id = live.record.job_id
        grace_s = (live.record.spec.grace_ms if grace_ms is None else grace_ms) / 1000
        if await live.ends_within(grace_s + _OVERDUE_S):
            return
        # Its keeper should have killed it by now; whatever keeps it from that, the job ends.
        await self._starter.kill(job_id)
        if not await live.ends_within(_OVERDUE_S):
            raise JobError(
                Reason.KEEPER_UNREACHABLE,
                f"cannot tell the end of job {job_id}: it was killed, and its keeper says nothing",
                "the operator should look at the host: its processes hang in the kernel, or its "
                "keeper is stopped (killing the keeper gives the job up as lost)",
            )

    # -- changes of a running job

    async def update(
        self, job: str, changes: Limits, *, owner: str | None = None, terms: Terms = NO_TERMS
    ) -> JobStatus:
        """See Worker.update."""
        if changes == NO_LIMITS:
            raise invalid("cannot update the job: no limit was named", "name one, e.g. --memory")
        check_limits(changes)
        job_id = await self._lookup.resolve(job, owner)
        live = self._live_one(job_id, "update")
        async with live.changing:  # each starts from what the one before has left
            limits = self._policy.at_update(live.status.limits, changes, terms)
            io = encode_io_order(self._policy.io_at_update(changes, terms))
            with self._quotas.updating(live, limits, terms.quota, terms.quota_rule):
                await self._ask(live, {"op": "update", "limits": encode_limits(limits), "io": io})
        return live.status

    async def share(
        self,
        job: str,
        *,
        owner: str | None = None,
        give: Iterable[Share] = (),
        take: Iterable[str] = (),
    ) -> JobStatus:
        """See Worker.share."""
        job_id = await self._lookup.resolve(job, owner)
        await self._sharing.change(job_id, give, take)
        return status_of(*await self._lookup.look_up(job_id))

    async def pause(self, job: str, *, owner: str | None = None) -> JobStatus:
        """See Worker.pause."""
        live = self._live_one(await self._lookup.resolve(job, owner, Verb.PAUSE), "pause")
        await self._ask(live, {"op": "pause"})
        return live.status

    async def resume(self, job: str, *, owner: str | None = None) -> JobStatus:
        """See Worker.resume."""
        live = self._live_one(await self._lookup.resolve(job, owner, Verb.RESUME), "resume")
        await self._ask(live, {"op": "resume"})
        return live.status

    def _live_one(self, job_id: str, what: str) -> LiveJob:
        live = self._live.get(job_id)
        if live is None or live.ended.done():
            raise JobError(Reason.WRONG_STATE, f"cannot {what} job {job_id}: it has ended")
        return live

    async def _ask(self, live: LiveJob, message: dict[str, object]) -> None:
        what = f"{message['op']} job {live.record.job_id}"
        await live.is_reachable(_REACH_S)
        try:
            await live.ask(message, _REACH_S)
        except ChangeFailedError as error:
            raise change_error(error.failure, what) from error

    async def stats(self, job: str, *, owner: str | None = None) -> tuple[Usage, JobStatus]:
        """See Worker.stats."""
        job_id = await self._lookup.resolve(job, owner, Verb.STATS)
        for _ in range(_STATS_TRIES):
            status = status_of(*await self._lookup.look_up(job_id))
            try:
                return await self._usage(job_id, status), status
            except FileNotFoundError:
                # It has ended, and its keeper is about to say so.
                if live := self._live.get(job_id):
                    await live.ends_within(_OVERDUE_S)
        raise JobError(
            Reason.KEEPER_UNREACHABLE,
            f"cannot tell what job {job_id} uses: its cgroup is gone, and its end is not known",
            "try again in a moment",
        )

    async def _usage(self, job_id: str, status: JobStatus) -> Usage:
        tree = self._instance.tree
        group = None if tree.root is None else f"{tree.jobs}/{job_id}"
        live = self._live.get(job_id)
        if self._instance.is_prepared and group and live and not live.ended.done():
            await live.is_reachable(_REACH_S)
            return await usage_of_keeper(live, _REACH_S)  # the group is root's and the job's alone
        return await self._threads.in_files(partial(usage_now, group, status))

    async def logs(
        self, job: str, query: LogQuery = WHOLE_LOG, *, owner: str | None = None
    ) -> AsyncIterator[LogEvent]:
        """See Worker.logs."""
        job_id = await self._lookup.resolve(job, owner, Verb.LOGS)
        live = self._live.get(job_id)
        with self._sharing.reading(job_id, owner) as over:
            record, course = await self._lookup.look_up(job_id)
            async with (
                contextlib.aclosing(self._logs.read(record, course, live, query)) as events,  # type: ignore[type-var] # it is a generator
                contextlib.aclosing(while_shared(events, record, owner, over)) as given,  # type: ignore[type-var] # as this is
            ):
                async for event in given:
                    yield event
