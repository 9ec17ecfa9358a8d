"""What the command line asks of a bench."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured. `size_bytes` is the output of the throughput benches."""

    size_bytes: int
    rounds: int
    scale: float

    def scaled(self, count: int) -> int:
        """Return `count` as `--scale` has it, at least 10."""
        return max(10, round(count * self.scale))
