"""The most that one owner may have at once, of all his jobs together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds for one owner; None: no bound."""

    jobs: int | None = None
    """Jobs that have not ended."""
    cpu_millis: int | None = None
    """Thousandths of a CPU, the limits of those jobs added up."""
    memory_bytes: int | None = None
    """The same of their limits of memory."""
    log_bytes: int | None = None
    """Room on disk of the logs of all his jobs, those that have ended too."""
    followers: int | None = None
    """Logs that he reads at once."""
    starts_per_second: float | None = None


NO_QUOTA: Final = Quota()
