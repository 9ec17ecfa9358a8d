"""The RPCs, thin over the worker; authentication and policy come before them (access.py)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, assert_never

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.model.policy import followers_quota
from jobruntime.model.shares import check_may_share
from jobruntime.model.state import State
from jobruntime.rpc.convert import spec_of, status_to_proto, usage_to_proto
from jobruntime.rpc.convert_limits import limits_of
from jobruntime.rpc.convert_logs import encode_log_batch, log_query_of
from jobruntime.rpc.convert_shares import shares_of
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen import service_pb2_grpc
from jobruntime.worker import LogBatch, LogEnd, Worker

from . import about
from .access import Caller, current_caller
from .admissions import Admissions
from .audit_calls import note
from .followers import Followers
from .renewals import Renewals

if TYPE_CHECKING:
    from jobruntime.rpc.tls import grpc

_logger = logging.getLogger(__name__)

_AUDITED_IDS: Final = 1000
_INTERVAL_MS: Final = 1_000
_SHARED_BYTES: Final = 128 * 1024
_SHORTEST_INTERVAL_MS: Final = 100
_LONGEST_INTERVAL_MS: Final = 3_600_000


class JobService(service_pb2_grpc.JobServiceServicer):
    """Answers the calls of proto/service.proto."""

    def __init__(
        self,
        worker: Worker,
        default_grace_ms: int,
        followers: Followers,
        admissions: Admissions,
        renewals: Renewals,
    ) -> None:
        self._worker = worker
        self._admissions = admissions
        self._default_grace_ms = default_grace_ms
        self._followers = followers
        self._renewals = renewals
        self._last_encoded: tuple[LogBatch, bytes] | None = None

    async def Start(self, request: pb.StartRequest, context: object) -> pb.StartResponse:
        """Start a job for the caller."""
        spec = spec_of(request, self._default_grace_ms)
        caller = current_caller()
        check_may_share(spec.shares, caller.verbs)
        owner = caller.principal.name
        terms = (await self._admissions.start(caller, spec)).terms
        note(rules=list(terms.rules))
        job_id = await self._worker.start(spec, owner=owner, terms=terms)
        _logger.info("%s started job %s", owner, job_id)  # never its argv: it may hold secrets
        return pb.StartResponse(job_id=job_id)

    async def Stop(self, request: pb.StopRequest, context: object) -> pb.StopResponse:
        """Stop a job and answer once nothing of it lives."""
        caller = current_caller()
        status = await self._worker.stop(
            _reference(request.job),
            by=caller.principal.name,
            owner=caller.owner,
            signo=request.signal if request.HasField("signal") else None,
            grace_ms=request.grace_ms if request.HasField("grace_ms") else None,
        )
        _logger.info("%s stopped job %s", caller.principal.name, status.job_id)
        return pb.StopResponse(status=status_to_proto(status))

    async def Status(self, request: pb.StatusRequest, context: object) -> pb.StatusResponse:
        """Tell what a job is doing, or how it ended."""
        owner = current_caller().owner
        status = await self._worker.status(_reference(request.job), owner=owner)
        return pb.StatusResponse(status=status_to_proto(status))

    async def Update(self, request: pb.UpdateRequest, context: object) -> pb.UpdateResponse:
        """Change limits of a running job, or with whom a job is shared."""
        caller = current_caller()
        if request.share or request.unshare:
            return await self._share(request, caller)
        changes = limits_of(request.limits)
        job, terms = await self._admissions.update(
            caller, self._worker, _reference(request.job), changes
        )
        note(rules=list(terms.rules))
        status = await self._worker.update(job, changes, owner=caller.owner, terms=terms)
        _logger.info("%s changed limits of job %s", caller.principal.name, status.job_id)
        return pb.UpdateResponse(status=status_to_proto(status))

    async def _share(self, request: pb.UpdateRequest, caller: Caller) -> pb.UpdateResponse:
        if request.HasField("limits"):
            raise invalid(
                "cannot change limits and shares of a job in one call", "make a call for each"
            )
        give = shares_of(request.share)
        check_may_share(give, caller.verbs)
        status = await self._worker.share(
            _reference(request.job), owner=caller.owner, give=give, take=request.unshare
        )
        _logger.info("%s changed the shares of job %s", caller.principal.name, status.job_id)
        return pb.UpdateResponse(status=status_to_proto(status))

    async def Pause(self, request: pb.PauseRequest, context: object) -> pb.PauseResponse:
        """Hold a job still."""
        caller = current_caller()
        status = await self._worker.pause(_reference(request.job), owner=caller.owner)
        _logger.info("%s paused job %s", caller.principal.name, status.job_id)
        return pb.PauseResponse(status=status_to_proto(status))

    async def Resume(self, request: pb.ResumeRequest, context: object) -> pb.ResumeResponse:
        """Let a paused job go on."""
        caller = current_caller()
        status = await self._worker.resume(_reference(request.job), owner=caller.owner)
        _logger.info("%s resumed job %s", caller.principal.name, status.job_id)
        return pb.ResumeResponse(status=status_to_proto(status))

    async def Remove(self, request: pb.RemoveRequest, context: object) -> pb.RemoveResponse:
        """Remove a job that has ended."""
        caller = current_caller()
        removed = await self._worker.remove(_reference(request.job), owner=caller.owner)
        [job_id] = removed.job_ids
        _logger.info("%s removed job %s", caller.principal.name, job_id)
        return pb.RemoveResponse(job_id=job_id, freed_bytes=removed.freed_bytes)

    async def Prune(self, request: pb.PruneRequest, context: object) -> pb.PruneResponse:
        """Remove all jobs of the caller's that have ended and fit the request."""
        caller = current_caller()
        user = caller.principal.name
        if request.all_owners and caller.owner is not None:
            raise JobError(
                Reason.PERMISSION_DENIED,
                f"cannot prune other users' jobs: no role of user {user!r} allows it",
                "leave them out, or ask an administrator",
            )
        removed = await self._worker.prune(
            owner=None if request.all_owners else user,
            ended_before_ms=request.ended_before_ms
            if request.HasField("ended_before_ms")
            else None,
            keep=request.keep,
            dry_run=request.dry_run,
        )
        if not request.dry_run:
            note(removed=len(removed.job_ids), removed_ids=removed.job_ids[:_AUDITED_IDS])
            _logger.info("%s removed %d jobs", user, len(removed.job_ids))
        return pb.PruneResponse(job_ids=removed.job_ids, freed_bytes=removed.freed_bytes)

    async def WhoAmI(
        self, request: pb.WhoAmIRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.WhoAmIResponse:
        """Tell the caller who he is."""
        return about.who_am_i(context)

    async def CanI(self, request: pb.CanIRequest, context: object) -> pb.CanIResponse:
        """Tell the caller what he may."""
        return await about.can_i(self._worker, request)

    async def Explain(self, request: pb.ExplainRequest, context: object) -> pb.ExplainResponse:
        """Tell what a start would run."""
        return await about.explain(self._worker, self._admissions, request, self._default_grace_ms)

    async def Renew(self, request: pb.RenewRequest, context: object) -> pb.RenewResponse:
        """Give the caller a new certificate for a new key."""
        caller = current_caller()
        certificate, ca = await self._renewals.renew(
            caller.principal.name, caller.certificate, request.csr_pem, request.proof
        )
        _logger.info("%s renewed certificate %s", caller.principal.name, caller.principal.serial)
        return pb.RenewResponse(certificate_pem=certificate, ca_pem=ca)

    async def Stats(
        self, request: pb.StatsRequest, context: object
    ) -> AsyncIterator[pb.StatsResponse]:
        """Tell what a job uses, on request until it has ended."""
        job, owner = _reference(request.job), current_caller().owner
        interval_ms = request.interval_ms if request.HasField("interval_ms") else _INTERVAL_MS
        if not _SHORTEST_INTERVAL_MS <= interval_ms <= _LONGEST_INTERVAL_MS:
            raise invalid(
                f"cannot tell a job's usage every {interval_ms} ms",
                f"give {_SHORTEST_INTERVAL_MS} to {_LONGEST_INTERVAL_MS} ms",
            )
        while True:
            usage, status = await self._worker.stats(job, owner=owner)
            yield pb.StatsResponse(usage=usage_to_proto(usage), status=status_to_proto(status))
            if not request.follow or status.state is State.TERMINATED:
                return
            job = status.job_id  # a name may be given anew
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_ms / 1000):
                    await self._worker.wait(job, owner=owner)

    async def Logs(
        self, request: pb.LogsRequest, context: object
    ) -> AsyncIterator[pb.LogsResponse | bytes]:
        """Stream a job's output; batches come encoded."""
        caller = current_caller()
        query = log_query_of(request)
        quota, rule = followers_quota(caller.policy, caller.principal)
        with self._followers.counted(caller.principal.name, quota, rule):
            events = self._worker.logs(_reference(request.job), query, owner=caller.owner)
            async with aclosing(events):  # type: ignore[type-var] # it is a generator
                async for event in events:
                    match event:
                        case LogBatch():
                            yield self._encoded(event)
                        case LogEnd():
                            yield pb.LogsResponse(end=_end_to_proto(event), cursor=event.cursor)
                        case _:
                            assert_never(event)

    def _encoded(self, batch: LogBatch) -> bytes:
        # Followers at one place are given the same batch, one right after the other.
        if self._last_encoded is not None and self._last_encoded[0] is batch:
            return self._last_encoded[1]
        data = encode_log_batch(batch.entries, batch.cursor)
        self._last_encoded = (batch, data) if len(data) <= _SHARED_BYTES else None
        return data


def _end_to_proto(end: LogEnd) -> pb.LogsEnd:
    return pb.LogsEnd(
        complete=end.complete,
        stdout_bytes=end.totals.stdout_bytes,
        stderr_bytes=end.totals.stderr_bytes,
        lost_bytes=end.totals.lost_bytes,
        status=status_to_proto(end.status),
        sent_stdout_bytes=end.sent_stdout_bytes,
        sent_stderr_bytes=end.sent_stderr_bytes,
    )


def _reference(job: str) -> str:
    if not job:
        raise invalid("cannot find the job: none was named", "give its id, a prefix, or its name")
    return job
