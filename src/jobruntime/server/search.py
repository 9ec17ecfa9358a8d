"""Searching a log's lines by regular expressions whose time is linear in the text (RE2)."""

from __future__ import annotations

import re2

from jobruntime.model.errors import invalid
from jobruntime.worker import LineSearch

_MAX_MEM_BYTES = 8 << 20


def compile_search(pattern: str) -> LineSearch:
    """Return the search for lines that match `pattern`; raises JobError (INVALID_ARGUMENT)."""
    options = re2.Options()
    options.never_nl = True  # a match never reaches into the next line, whatever the pattern says
    options.log_errors = False
    options.max_mem = _MAX_MEM_BYTES
    try:
        re2.compile(pattern.encode(), options)  # alone: what is wrong is told in its own words
        # (?m): ^ and $ are a line's.
        compiled = re2.compile(f"(?m){pattern}".encode(), options)
    except re2.error as error:
        text = error.args[0]
        cause = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        raise invalid(
            f"cannot search for {pattern[:200]!r}: {cause}",
            "give a regular expression of RE2 (no look-around, no back references)",
        ) from error

    def search(block: bytes) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        position, size = 0, len(block)
        while position < size and (match := compiled.search(block, position)):
            begin = block.rfind(b"\n", 0, match.start()) + 1
            end = block.find(b"\n", match.start()) + 1 or size
            # An empty match may lie behind the last newline, where there is no line.
            if begin >= size:
                break
            spans.append((begin, end))
            position = end
        return spans

    return search
