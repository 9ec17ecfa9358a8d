"""How a command of `jobd` tells that it failed: one sentence on stderr and exit code 1."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

from jobruntime.model.errors import JobError

EXIT_FAILED: Final = 1
EXIT_CLOSED_PIPE: Final = 141
"""As of a process that SIGPIPE has ended, and as jobc has it."""


def print_error(error: JobError, program: str = "jobd") -> None:
    """Print the sentence and its remedy as one line, whatever a path in it contains."""
    text = str(error)
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(f"{program}: {line}", file=sys.stderr)


def run_reporting(action: Callable[[], int], program: str = "jobd") -> int:
    """Return the exit code of `action`, or print its JobError and return `EXIT_FAILED`."""
    try:
        code = action()
        sys.stdout.flush()
        return code
    except JobError as error:
        print_error(error, program)
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read has seen enough (| head); what is left in the buffer must not fail later.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_CLOSED_PIPE
