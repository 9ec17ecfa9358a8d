"""Write docs/states.md from the transition table; with --check, fail if it is not up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from jobruntime.model.state import (
    TRANSITIONS,
    Event,
    Exited,
    Lost,
    Outcome,
    Signaled,
    State,
    format_state,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"

MEANINGS = {
    State.STARTING: "The job has its id and keeper; its command has not been executed yet.",
    State.RUNNING: "The command was executed and its process lives.",
    State.PAUSED: "Every process of the job is frozen.",
    State.STOPPING: "Somebody asked for its end, or its timeout passed, and it still lives.",
}

CAUSES = {
    Event.EXEC_CONFIRMED: "the command was executed",
    Event.STOP_REQUESTED: "a stop was asked for, or the timeout passed",
    Event.PAUSED: "the job was frozen",
    Event.RESUMED: "the job was thawed",
    Event.ENDED: "its first process ended",
    Event.LOST: "its keeper died, or the host was restarted, and the end cannot be known",
}

OUTCOMES: list[tuple[Outcome, str]] = [
    (Exited(0), "Its first process ended by itself, with this exit code."),
    (Signaled(9), "Its first process was ended by this signal, whoever sent it."),
    (Lost("keeper died"), "How it ended is not known, and why not. Never success."),
]

HEAD = """\
<!-- Written by scripts/gen_states.py from src/jobruntime/model/state.py; not edited by hand. -->
# The states of a job

A job is in one of five states. Only a terminated job has an outcome, and an outcome never changes.
"""

STATUS_HEAD = """
## What `jobc status` prints

One line, and nothing else. Who asked for a stop, whether a timeout passed and when all of it was
are facts beside the state, not states of their own.
"""


def draw_diagram() -> list[str]:
    """Return the table as a Mermaid state diagram, one arrow for each pair of states."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), target in TRANSITIONS.items():
        arrows.setdefault((state, target), []).append(event)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.STARTING}"]
    lines += [f"    {a} --> {b}: {' or '.join(events)}" for (a, b), events in arrows.items()]
    return [*lines, f"    {State.TERMINATED} --> [*]", "```"]


def draw_transitions() -> list[str]:
    """Return the table as a Markdown table: a row for each state, a column for each event."""
    lines = [
        "| state | " + " | ".join(Event) + " |",
        "| --- |" + " --- |" * len(Event),
    ]
    for state in State:
        targets = [TRANSITIONS.get((state, event), "") for event in Event]
        lines.append(f"| {state} | " + " | ".join(targets) + " |")
    return [line.replace("|  |", "| |").replace("|  |", "| |") for line in lines]


def draw_status() -> list[str]:
    """Return what `jobc status` prints as a Markdown table, the forms from the code itself."""
    lines = ["| printed | state | meaning |", "| --- | --- | --- |"]
    for state, meaning in MEANINGS.items():
        lines.append(f"| `{format_state(state, None)}` | {state} | {meaning} |")
    for outcome, meaning in OUTCOMES:
        printed = format_state(State.TERMINATED, outcome)
        lines.append(f"| `{printed}` | {State.TERMINATED} | {meaning} |")
    return lines


def render_page() -> str:
    """Return the whole page."""
    events = [f"- **{event}**: {CAUSES[event]}." for event in Event]
    table_head = "Where an event meets a state; an empty field is a pair that cannot happen."
    lines = [
        HEAD,
        *draw_diagram(),
        "",
        *events,
        "",
        table_head,
        "",
        *draw_transitions(),
        STATUS_HEAD,
        *draw_status(),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it; return the exit code."""
    page = render_page()
    if arguments == ["--check"]:
        if PAGE.is_file() and PAGE.read_text() == page:
            return 0
        print(f"{PAGE.name} is not what {Path(__file__).name} writes", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
