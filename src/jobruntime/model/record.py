"""What a keeper writes of its job's course, and what is read back: JSON-ready values and types."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Final, assert_never

from .frames import Gap, Stream, Totals
from .limits import Limits, encode_limits, parse_limits
from .state import Exited, Lost, Outcome, Signaled, State
from .status import StopRequested
from .usage import Oom, OomScope, Usage, encode_usage, parse_usage

RECORD_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """A job's course as its keeper knows it: the part of the status that changes."""

    state: State
    started_at_ns: int | None = None
    ended_at_ns: int | None = None
    outcome: Outcome | None = None
    stop_requested: StopRequested | None = None
    timed_out: bool = False
    log_size: int | None = None
    """Where the finished log ends, what was dropped from its start included; None while it grows,
    or where nobody finished it."""
    totals: Totals = field(default_factory=Totals)
    gaps: tuple[Gap, ...] = ()
    """Gaps that found no room in the log itself; they belong to its end."""
    killed: bool = False
    """The keeper has sent SIGKILL for a stop or the timeout."""
    oom: Oom | None = None
    limits: Limits | None = None
    """The limits in force once they were changed; None: those of the order."""
    usage: Usage | None = None
    """The receipt, at the end only."""


def encode_progress(progress: Progress) -> dict[str, object]:
    """Return `progress` as JSON-ready values; `parse_progress` is the inverse."""
    stop = progress.stop_requested
    totals, oom = progress.totals, progress.oom
    return {
        "version": RECORD_VERSION,
        "state": progress.state.value,
        "started_at_ns": progress.started_at_ns,
        "ended_at_ns": progress.ended_at_ns,
        "outcome": None if progress.outcome is None else encode_outcome(progress.outcome),
        "stop_requested": stop and [stop.by, stop.at_ns, stop.signo, stop.grace_ms],
        "timed_out": progress.timed_out,
        "log_size": progress.log_size,
        "totals": list(astuple(totals)),
        "gaps": [[g.stream, g.lost_bytes, g.first_ns, g.last_ns, g.cause] for g in progress.gaps],
        "killed": progress.killed,
        "oom": oom and [oom.scope.value, oom.kills, oom.leader],
        "limits": None if progress.limits is None else encode_limits(progress.limits),
        "usage": None if progress.usage is None else encode_usage(progress.usage),
    }


def parse_progress(raw: dict[str, object]) -> Progress:
    """Return the progress that `encode_progress` wrote; raises ValueError for anything else."""
    try:
        if raw["version"] != RECORD_VERSION:
            raise ValueError(f"a record of version {raw['version']}")
        stop, outcome, totals = raw["stop_requested"], raw["outcome"], raw["totals"]
        gaps = raw["gaps"]
        # A keeper of an older version does not write these.
        oom, limits, usage = (raw.get(key) for key in ("oom", "limits", "usage"))
        return Progress(
            state=State(str(raw["state"])),
            started_at_ns=_optional_int(raw["started_at_ns"]),
            ended_at_ns=_optional_int(raw["ended_at_ns"]),
            outcome=None if outcome is None else parse_outcome(outcome),
            stop_requested=StopRequested(*stop) if isinstance(stop, list) else None,
            timed_out=raw["timed_out"] is True,
            log_size=_optional_int(raw["log_size"]),
            totals=Totals(*totals) if isinstance(totals, list) else Totals(),
            gaps=tuple(Gap(Stream(g[0]), *g[1:]) for g in gaps) if isinstance(gaps, list) else (),
            killed=raw.get("killed") is True,
            oom=Oom(OomScope(oom[0]), *oom[1:]) if isinstance(oom, list) else None,
            limits=None if limits is None else parse_limits(limits),
            usage=None if usage is None else parse_usage(usage),
        )
    except (LookupError, TypeError) as error:
        raise ValueError("not a record of a job's progress") from error


def encode_outcome(outcome: Outcome) -> list[object]:
    """Return `outcome` as JSON-ready values; `parse_outcome` is the inverse."""
    match outcome:
        case Exited(code):
            return ["exited", code]
        case Signaled(signo):
            return ["signaled", signo]
        case Lost(reason):
            return ["lost", reason]
        case _:
            assert_never(outcome)


def parse_outcome(raw: object) -> Outcome:
    """Return the outcome that `encode_outcome` wrote; raises ValueError for anything else."""
    match raw:
        case ["exited", int(code)]:
            return Exited(code)
        case ["signaled", int(signo)]:
            return Signaled(signo)
        case ["lost", str(reason)]:
            return Lost(reason)
        case _:
            raise ValueError(f"not an outcome: {raw!r}")


def _optional_int(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"not a number: {value!r}")
    return value
