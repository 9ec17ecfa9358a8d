"""How many descriptors a process of jobd's may have."""

from __future__ import annotations

import contextlib
import resource


def raise_open_files() -> None:
    """Raise the soft limit to the hard one; where that is refused, it stays as it is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
