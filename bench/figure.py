"""What a bench gives: a figure, its baseline, the goal, and how they are printed."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path


@unique
class Rule(StrEnum):
    """What a goal is about."""

    RATIO_AT_MOST = "ratio <="
    RATIO_AT_LEAST = "ratio >="
    VALUE_AT_MOST = "figure <="


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a figure or for its ratio to the baseline."""

    rule: Rule
    bound: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and its baseline, both in `unit` and from the same run."""

    name: str
    value: float
    baseline_name: str
    baseline: float
    unit: str
    goal: Goal | None = None

    @property
    def ratio(self) -> float:
        """The figure divided by its baseline."""
        return self.value / self.baseline

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None without one."""
        if self.goal is None:
            return None
        match self.goal.rule:
            case Rule.RATIO_AT_MOST:
                return self.ratio <= self.goal.bound
            case Rule.RATIO_AT_LEAST:
                return self.ratio >= self.goal.bound
            case Rule.VALUE_AT_MOST:
                return self.value <= self.goal.bound


def median(samples: Sequence[float]) -> float:
    """Return the middle one of `samples`."""
    return percentile(samples, 50)


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return the smallest sample that `percent` of all do not exceed (nearest rank)."""
    rank = max(1, -(-len(samples) * percent // 100))
    return sorted(samples)[rank - 1]


def describe_machine() -> dict[str, str]:
    """Return what absolute numbers depend on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "not root",
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def as_json(figure: Figure) -> dict[str, object]:
    """Return the figure as `-o json` gives it."""
    goal = figure.goal
    return {
        "name": figure.name,
        "unit": figure.unit,
        "value": round(figure.value, 4),
        "baseline_name": figure.baseline_name,
        "baseline": round(figure.baseline, 4),
        "ratio": round(figure.ratio, 4),
        "goal": None if goal is None else {"rule": str(goal.rule), "bound": goal.bound},
        "met": figure.met,
    }


def format_table(figures: Sequence[Figure]) -> str:
    """Return the figures as lines of aligned columns."""
    heads = ("figure", "", "baseline", "", "ratio", "goal", "met")
    rows = [heads, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in (1, 3, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    goal = ""
    if figure.goal is not None:
        unit = f" {figure.unit}" if figure.goal.rule is Rule.VALUE_AT_MOST else ""
        goal = f"{figure.goal.rule} {figure.goal.bound:g}{unit}"
    return (
        figure.name,
        f"{_short(figure.value)} {figure.unit}",
        figure.baseline_name,
        f"{_short(figure.baseline)} {figure.unit}",
        f"{figure.ratio:.2f}",
        goal,
        {True: "yes", False: "NO", None: ""}[figure.met],
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
