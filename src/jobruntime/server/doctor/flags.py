"""The flags of `jobd doctor` and what its help says; cheap to load."""

from __future__ import annotations

import argparse
from typing import Final

DESCRIPTION: Final = """\
Look at what this host offers to jobs and at what an instance needs, and say of each lack what
mends it. Then run a small job for every limit, which shows by what happens to it whether the
limit really holds here: one that may use 0.2 CPUs and tries to use a whole one, one that takes
more memory than it may, and so on. What cannot be had is a warning; what is offered and does not
hold is a failure.
"""

EPILOG: Final = """\
It should take some 15 seconds, on a slow host a minute, and less than 200 MiB of memory. A server
that runs on the same configuration is left alone, and so are its jobs: the trial jobs have their
own state, cgroup and uid. Nothing of them remains. Run it as the user whom the server runs as.

examples:
  jobd doctor                              this host, before anything is set up
  jobd doctor --config ~/jobs/jobd.toml    and an instance: disk, certificates, uids, limits
  jobd doctor -o json | jq '.checks[] | select(.level != "ok")'

-o json prints {"ok": BOOL, "checks": [{"name", "level", "found", "remedy", "measured"}]};
a level is "ok", "warning" or "failed".

exit codes: 0 nothing failed (there may be warnings), 1 something failed, 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `jobd doctor`."""
    parser.add_argument(
        "--config", metavar="FILE", help="also check this instance, and try limits as it has them"
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="how to print what was found (default: %(default)s)",
    )
