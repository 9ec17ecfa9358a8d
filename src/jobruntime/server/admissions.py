"""Asks the policy about one start or update of a caller's."""

from __future__ import annotations

from dataclasses import dataclass

from jobruntime.model.access import Verb
from jobruntime.model.admission import (
    NO_TERMS,
    StartAsked,
    Terms,
    admit_start,
    admit_update,
    denied,
)
from jobruntime.model.limits import NO_LIMITS, Limits
from jobruntime.model.policy import decide
from jobruntime.model.quota import NO_QUOTA
from jobruntime.model.spec import JobSpec
from jobruntime.worker import Worker

from .access import Caller
from .programs import Programs


@dataclass(frozen=True, slots=True)
class Admission:
    """A start that is admitted, on these terms."""

    terms: Terms
    program: str | None
    """The file that will be executed; None where the server has not looked, or can't tell."""


class Admissions:
    """The policy, with what has to be known of the host and the jobs for it."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    async def start(
        self,
        caller: Caller,
        spec: JobSpec,
        *,
        tell_program: bool = False,
    ) -> Admission:
        """Return on which terms `spec` may be started; raises JobError as `admit_start` does.

        `tell_program` has the program looked for even where no rule asks for it.
        """
        policy, principal = caller.policy, caller.principal
        if not decide(policy, principal, Verb.START).allowed:
            raise denied(principal, Verb.START)
        roles = [rules for rules in policy.rules_of(principal) if Verb.START in rules.verbs]
        found, places = None, dict[str, str]()
        if tell_program or any(rules.commands is not None for rules in roles):
            entries = [entry for rules in roles for entry in rules.commands or ()]
            found, places = await self._programs.look(spec, entries)
        asked = StartAsked(
            program=spec.argv[0],
            found=found,
            places=places,
            variables=tuple(name for name, _ in spec.env),
            limits=spec.limits,
            log=spec.log,
            user=spec.user,
            isolation=spec.isolation,
        )
        return Admission(admit_start(policy, principal, asked), found)

    async def update(
        self, caller: Caller, worker: Worker, job: str, changes: Limits
    ) -> tuple[str, Terms]:
        """Return the job and the terms of a change of its limits.

        Raises JobError: those of `admit_update`, and of `Worker.status` for the job.
        """
        roles = caller.policy.rules_of(caller.principal)
        if changes == NO_LIMITS or all(
            rules.ceiling == NO_LIMITS and rules.quota == NO_QUOTA for rules in roles
        ):
            return job, NO_TERMS
        # Whose job it is decides which roles reach it.
        status = await worker.status(job, owner=caller.owner, verb=Verb.UPDATE)
        terms = admit_update(
            caller.policy,
            caller.principal,
            changes=changes,
            is_own=status.owner == caller.principal.name,
        )
        return status.job_id, terms
