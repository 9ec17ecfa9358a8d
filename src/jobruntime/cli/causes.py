"""Why a job ended, or is about to, as a sentence to read."""

from __future__ import annotations

from typing import Final

from jobruntime.model.cause import Cause
from jobruntime.model.durations import format_duration
from jobruntime.model.limits import NO_LIMITS, UNLIMITED, Limits
from jobruntime.model.quantities import format_size
from jobruntime.model.state import Exited, Outcome, Signaled, signal_name
from jobruntime.model.usage import Oom, OomScope

from .facts import Facts
from .times import time_text

_SIGKILL: Final = 9


def format_cause(facts: Facts) -> str:
    """Return who and what ended the job, and how it went; empty where there is nothing to tell."""
    parts = [*_requests(facts), _ending(facts), _oom_on_the_way(facts)]
    return "; ".join(part for part in parts if part)


def _requests(facts: Facts) -> list[str]:
    requests = ["its timeout passed"] if facts.timed_out else []
    if facts.stop is not None:
        stop = facts.stop
        requests.append(
            f"stop requested by {stop.by} at {time_text(stop.at_ns)} with "
            f"{signal_name(stop.signo)}, grace {format_duration(max(0, stop.grace_ms))}"
        )
    return requests


def _ending(facts: Facts) -> str:
    outcome = facts.outcome
    match facts.cause:
        case Cause.EXITED:
            return "it ended by itself"
        case Cause.SIGNAL:
            return _foreign_signal(outcome)
        case Cause.STOP | Cause.TIMEOUT:
            return f"it ended {_how(outcome)}"
        case Cause.STOP_KILL | Cause.TIMEOUT_KILL if isinstance(outcome, Exited):
            return f"its grace was over, and it ended {_how(outcome)} as it was being killed"
        case Cause.STOP_KILL if facts.stop is not None and facts.stop.grace_ms <= 0:
            return "it was killed at once"
        case Cause.STOP_KILL | Cause.TIMEOUT_KILL:
            return "it had not ended within its grace and was killed"
        case Cause.OOM | Cause.OOM_ABOVE if facts.oom is not None:
            return f"{_whose_memory(facts.oom, facts.limits)}, and the kernel killed it"
        case Cause.LOST:
            return "how it ended is not known"
        case _:  # it goes on, or ended of a cause that only newer versions know
            return ""


def _oom_on_the_way(facts: Facts) -> str:
    if facts.oom is None or facts.cause in (Cause.OOM, Cause.OOM_ABOVE):
        return ""
    # Without a size: the limit may have been another one then.
    text = (
        f"{_whose_memory(facts.oom, NO_LIMITS)}, and the kernel killed a child of it "
        f"(oom_kill: {facts.oom.kills})"
    )
    return f"before that, {text}" if facts.outcome is not None else f"{text}; the job goes on"


def _whose_memory(oom: Oom, limits: Limits) -> str:
    if oom.scope is OomScope.ABOVE:
        return "out of memory above it: the limit of all jobs together or the host's memory"
    memory = limits.memory_bytes
    size = "memory" if memory in (None, UNLIMITED) else format_size(memory or 0)
    return f"out of memory: it reached its limit of {size}"


def _foreign_signal(outcome: Outcome | None) -> str:
    if outcome == Signaled(_SIGKILL):
        return "killed by SIGKILL, and not by a stop or a limit of this server"
    return f"it ended {_how(outcome)}, which is not this server's doing"


def _how(outcome: Outcome | None) -> str:
    match outcome:
        case Exited(code):
            return f"with exit code {code}"
        case Signaled(signo):
            return f"by {signal_name(signo)}"
        case _:
            return "in a way that is not known"
