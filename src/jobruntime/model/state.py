"""The states of a job and every move between them: one table, drawn in docs/states.md."""

from __future__ import annotations

import signal as _signal
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import assert_never


@unique
class State(StrEnum):
    """What a job is doing."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    TERMINATED = "terminated"


@unique
class Event(StrEnum):
    """What can happen to a job."""

    EXEC_CONFIRMED = "exec confirmed"
    STOP_REQUESTED = "stop requested"
    PAUSED = "paused"
    RESUMED = "resumed"
    ENDED = "ended"
    LOST = "lost"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.EXEC_CONFIRMED): State.RUNNING,
    (State.STARTING, Event.LOST): State.TERMINATED,
    (State.RUNNING, Event.STOP_REQUESTED): State.STOPPING,
    (State.RUNNING, Event.PAUSED): State.PAUSED,
    (State.RUNNING, Event.ENDED): State.TERMINATED,
    (State.RUNNING, Event.LOST): State.TERMINATED,
    (State.PAUSED, Event.RESUMED): State.RUNNING,
    (State.PAUSED, Event.STOP_REQUESTED): State.STOPPING,
    (State.PAUSED, Event.ENDED): State.TERMINATED,
    (State.PAUSED, Event.LOST): State.TERMINATED,
    (State.STOPPING, Event.STOP_REQUESTED): State.STOPPING,
    (State.STOPPING, Event.ENDED): State.TERMINATED,
    (State.STOPPING, Event.LOST): State.TERMINATED,
}
"""A pair that is missing here cannot happen; above all, nothing leads out of TERMINATED."""


class TransitionError(Exception):
    """An event met a state in which it cannot happen: a defect of the caller's, never a user's."""


def next_state(state: State, event: Event) -> State:
    """Return the state that `event` leads to; raise TransitionError for a pair not in the table."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise TransitionError(f"a job that is {state} cannot be told {event!r}") from None


@dataclass(frozen=True, slots=True)
class Exited:
    """The job's first process ended by itself with this exit code, 0 to 255."""

    code: int


@dataclass(frozen=True, slots=True)
class Signaled:
    """The job's first process was ended by this signal, 1 to 64."""

    signo: int


@dataclass(frozen=True, slots=True)
class Lost:
    """How the job ended is not known, for this reason; never to be shown as success."""

    reason: str


Outcome = Exited | Signaled | Lost


def format_state(state: State, outcome: Outcome | None) -> str:
    """Return the one line that `jobc status` prints, in the forms of the project's design."""
    match outcome:
        case None:
            return str(state)
        case Exited(code):
            return f"finished (exit code: {code})"
        case Signaled(signo):
            return f"stopped (signal: {signo})"
        case Lost(reason):
            return f"lost ({reason})"
        case _:
            assert_never(outcome)


def signal_name(signo: int) -> str:
    """Return `SIGTERM` for 15 and so on, `SIGRTMIN+n` or the number where there is no name."""
    try:
        return _signal.Signals(signo).name
    except ValueError:
        base = int(_signal.SIGRTMIN)
        return f"SIGRTMIN+{signo - base}" if base < signo <= int(_signal.SIGRTMAX) else str(signo)


def parse_signal(text: str) -> int:
    """Return the number of the signal named `TERM`, `SIGTERM` or `15`; raise ValueError if none."""
    word = text.strip().upper()
    if word.isascii() and word.isdigit():
        signo = int(word)
    else:
        signo = int(_signal.Signals[word if word.startswith("SIG") else f"SIG{word}"])
    if not 1 <= signo <= int(_signal.SIGRTMAX):
        raise ValueError(f"no signal {text!r}")
    return signo
