"""What a caller is told of himself: who he is, what he may, and what a start would run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from jobruntime import __version__
from jobruntime.model.access import ABOUT_ONESELF, Scope, Verb
from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.model.policy import decide
from jobruntime.model.quota import Quota
from jobruntime.model.shares import check_may_share
from jobruntime.model.spec import JobSpec
from jobruntime.rpc.convert import NS, spec_of, timestamp_of
from jobruntime.rpc.convert_limits import limits_to_proto
from jobruntime.rpc.convert_logs import log_policy_to_proto
from jobruntime.rpc.convert_shares import shares_to_proto
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.worker import Plan, Worker

from .access import current_caller, peer_of
from .admissions import Admission, Admissions
from .identity import expiry_of

if TYPE_CHECKING:
    from jobruntime.rpc.tls import grpc

_WITHOUT_JOB: Final = ABOUT_ONESELF | {Verb.START, Verb.PRUNE, Verb.RENEW}


def who_am_i(context: grpc.aio.ServicerContext[object, object]) -> pb.WhoAmIResponse:
    """Return what the certificate of this call says, and where the call came from."""
    principal = current_caller().principal
    ends = expiry_of(peer_of(context))
    _, _, address = unquote(context.peer()).partition(":")
    return pb.WhoAmIResponse(
        name=principal.name,
        roles=sorted(principal.roles),
        serial=principal.serial,
        not_after=timestamp_of(int(ends.timestamp()) * NS),
        address=address,
        server_version=__version__,
    )


async def can_i(worker: Worker, request: pb.CanIRequest) -> pb.CanIResponse:
    """Return whether the caller may do it; of a foreign job the same as of an absent one."""
    caller = current_caller()
    verb = _verb(request.verb)
    decision = decide(caller.policy, caller.principal, verb)
    if request.job and verb in _WITHOUT_JOB:
        raise invalid(f"cannot tell about {verb} with a job: it names none", "leave the job out")
    if not decision.allowed:
        why = f"no role of user {caller.principal.name!r} allows {verb}"
        return pb.CanIResponse(allowed=False, rule=decision.rule, why=why)
    if request.job:
        owner = None if decision.scope is Scope.ANY else caller.principal.name
        try:
            status = await worker.status(request.job, owner=owner, verb=verb)
        except JobError as error:
            if error.reason is not Reason.JOB_NOT_FOUND:
                raise
            return pb.CanIResponse(allowed=False, rule=decision.rule, why=error.message)
        if owner not in (None, status.owner):
            why = f"{status.owner} shares this job with you for {verb}"
            return pb.CanIResponse(allowed=True, rule=decision.rule, why=why)
    return pb.CanIResponse(allowed=True, rule=decision.rule, why=_why(verb, decision.scope))


def _verb(word: str) -> Verb:
    try:
        return Verb(word)
    except ValueError as error:
        raise invalid(
            f"cannot tell about {word[:64]!r}: there is no such verb",
            f"name one of {', '.join(Verb)}",
        ) from error


def _why(verb: Verb, scope: Scope | None) -> str:
    if verb in _WITHOUT_JOB - {Verb.PRUNE}:
        return f"{verb} is allowed"
    return f"{verb} is allowed with {'every job' if scope is Scope.ANY else 'jobs of your own'}"


async def explain(
    worker: Worker, admissions: Admissions, request: pb.ExplainRequest, default_grace_ms: int
) -> pb.ExplainResponse:
    """Return what a start would run, or how it would be refused; nothing is started."""
    caller = current_caller()
    try:
        spec = spec_of(request.start, default_grace_ms)
        check_may_share(spec.shares, caller.verbs)
        admission = await admissions.start(caller, spec, tell_program=True)
        plan = await worker.plan(spec, owner=caller.principal.name, terms=admission.terms)
    except JobError as error:
        refusal = pb.StartRefusal(reason=error.reason, message=error.message, remedy=error.remedy)
        return pb.ExplainResponse(allowed=False, refusal=refusal)
    return _explanation(spec, admission, plan)


def _explanation(spec: JobSpec, admission: Admission, plan: Plan) -> pb.ExplainResponse:
    terms = admission.terms
    return pb.ExplainResponse(
        allowed=True,
        role=terms.role,
        rules=terms.rules,
        program=_utf8(admission.program or ""),
        account=terms.account or "",
        uid=plan.uid,
        limits=limits_to_proto(plan.limits),
        log=log_policy_to_proto(plan.log),
        isolation=plan.isolation,
        resource_limits=[
            pb.ResourceLimit(
                name=name,
                soft=None if soft < 0 else soft,
                hard=None if hard < 0 else hard,
            )
            for name, (soft, hard) in plan.rlimits.items()
        ],
        working_directory=_utf8(spec.working_directory or ""),
        stop_signal=spec.stop_signal,
        grace_ms=spec.grace_ms,
        timeout_ms=spec.timeout_ms,
        notes=list(_notes(admission, plan)),
        shares=shares_to_proto(spec.shares),
        quota=_quota(terms.quota),
    )


def _notes(admission: Admission, plan: Plan) -> Iterator[str]:
    if admission.program is None:
        yield "the program is not to be found where everybody can reach it; the start may fail"
    if plan.is_new_owner:
        yield "your uid is chosen at your first start"


def _quota(quota: Quota) -> pb.Quota:
    return pb.Quota(**{item.name: getattr(quota, item.name) for item in fields(Quota)})


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
