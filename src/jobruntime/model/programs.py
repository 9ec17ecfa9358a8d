"""Where a job's program is looked for."""

from __future__ import annotations

import os
from typing import Final

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""A job's PATH, unless its own environment has another."""


def program_candidates(program: str, path: str) -> tuple[bytes, ...]:
    """Return where `program` may be: itself if it has a slash, else in each directory of `path`."""
    if "/" in program:
        return (os.fsencode(program),)
    # An empty entry means the working directory (environ(7)).
    return tuple(os.fsencode(os.path.join(entry or ".", program)) for entry in path.split(":"))
