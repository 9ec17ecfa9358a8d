"""What is told of a job."""

from __future__ import annotations

from dataclasses import dataclass

from .limits import NO_LIMITS, Limits
from .log_policy import NO_POLICY, LogPolicy
from .shares import Share
from .spec import JobSpec
from .state import Outcome, State
from .usage import Oom, Usage


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The first request to end a job: who asked, when (UTC ns), with which signal and grace."""

    by: str
    at_ns: int
    signo: int
    grace_ms: int


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job at one moment. `outcome` is set when, and only when, `state` is TERMINATED.

    Times are UTC nanoseconds since 1970, from the host's wall clock.
    """

    job_id: str
    owner: str
    spec: JobSpec
    state: State
    outcome: Outcome | None
    created_at_ns: int
    started_at_ns: int | None = None
    ended_at_ns: int | None = None
    stop_requested: StopRequested | None = None
    timed_out: bool = False
    killed: bool = False
    """Its keeper sent SIGKILL: the grace of a stop or timeout was over, or there was none."""
    oom: Oom | None = None
    limits: Limits = NO_LIMITS
    """What is in force, the server's defaults included; at the end what was then."""
    log: LogPolicy = NO_POLICY
    """The bounds of its log, the server's defaults included."""
    usage: Usage | None = None
    """The receipt of a job that has ended; None before, and where nobody could write one."""
    shares: tuple[Share, ...] = ()
    """With whom it is shared now."""
    user: str = ""
    """As whom it runs: an account of the host or a uid; empty where an older version started it."""

    def __post_init__(self) -> None:
        if (self.state is State.TERMINATED) != (self.outcome is not None):
            raise ValueError(f"job {self.job_id}: {self.state} with outcome {self.outcome}")
