"""Resource limits (setrlimit(2)) that the operator gives to jobs; no caller can ask for any."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .errors import invalid
from .quantities import parse_size

Rlimits = Mapping[str, tuple[int, int]]
"""Soft and hard limit by the name of setrlimit(2) in lower case (`nofile`); -1 is none."""

NO_RLIMITS: Final[Rlimits] = MappingProxyType({})
DEFAULT_RLIMITS: Final[Rlimits] = MappingProxyType({"core": (0, 0)})
"""No core files: they hold what was in memory, and can be as large."""

RLIMIT_NONE: Final = -1
RLIMIT_NAMES: Final = (
    *("as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)
_SIZES: Final = ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack")
_MOST: Final = (1 << 63) - 1


def parse_rlimits(raw: Mapping[str, object]) -> Rlimits:
    """Return the limits as a configuration has them; raises JobError (INVALID_ARGUMENT).

    A value is a number, "unlimited" or "max", for bytes also a size as "1G", or a list of two:
    soft, hard.
    """
    return MappingProxyType({name: _parse(name, value) for name, value in raw.items()})


def check_rlimit(name: str, soft: int, hard: int) -> None:
    """Refuse a limit that setrlimit(2) has not, or of a wrong form; raises JobError."""
    if name not in RLIMIT_NAMES:
        raise invalid(
            f"cannot use the resource limit {name[:64]!r}", f"known are {', '.join(RLIMIT_NAMES)}"
        )
    if not all(RLIMIT_NONE <= value <= _MOST for value in (soft, hard)):
        raise invalid(
            f"cannot use the resource limit {name}: it is below 0 or too large",
            'give 0 or more, or "unlimited"',
        )
    if hard != RLIMIT_NONE and (soft == RLIMIT_NONE or soft > hard):
        raise invalid(
            f"cannot use the resource limit {name}: its soft limit is above its hard one",
            "give the lower one first",
        )


def _parse(name: str, value: object) -> tuple[int, int]:
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2:
        raise _bad(name)
    soft, hard = (_number(name, part) for part in pair)
    check_rlimit(name, soft, hard)
    return soft, hard


def _number(name: str, value: object) -> int:
    if value in ("unlimited", "max"):
        return RLIMIT_NONE
    if isinstance(value, str) and name in _SIZES:
        return parse_size(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(name)
    if value < 0:
        raise invalid(f"cannot use the resource limit {name}: it is below 0", "give 0 or more")
    return value


def _bad(name: str) -> Exception:
    return invalid(
        f"cannot use the resource limit {name[:64]!r}: it is no such value",
        'give a number, "unlimited", for bytes a size as "1G", or [soft, hard] of these',
    )
