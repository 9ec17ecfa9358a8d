"""What whoever decides about a start gives the job beside what it asks for itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .rlimits import NO_RLIMITS, Rlimits


@dataclass(frozen=True, slots=True)
class Grant:
    """The user that a job is given, and its resource limits. Without one, nothing is granted."""

    account: str | None = None
    """The account of the host as which it runs, whether it has asked for it or not; None: the
    owner's own uid. A job that asks for another one is refused."""
    rlimits: Rlimits = field(default_factory=lambda: NO_RLIMITS)
    """Before those of the worker's settings."""


NO_GRANT: Final = Grant()
