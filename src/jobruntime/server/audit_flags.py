"""The flags of `jobd audit`; cheap to load."""

from __future__ import annotations

import argparse
from typing import Final

_EPILOG: Final = """\
examples:
  jobd audit head --config ~/jobs/jobd.toml            keep what it prints on another host
  jobd audit verify --config ~/jobs/jobd.toml --head 812:9f2c...
  jobd audit verify audit.jsonl.000000000001 audit.jsonl     copies, the oldest first

verify names each fault with its file and line. Without --head it cannot know of lines cut from
the end. exit codes: 0 all is as it was written, 1 it is not (or cannot be read), 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `jobd audit`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Verify the record of calls (docs/audit.md), or print its head."
    parser.epilog = _EPILOG
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser(
        "verify",
        help="find what was changed, removed or reordered",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("--config", metavar="FILE", help="the instance's jobd.toml")
    verify.add_argument("files", nargs="*", metavar="FILE", help="or the files, the oldest first")
    verify.add_argument("--head", metavar="HASH", help="a head that was kept: SEQ:HASH or HASH")
    verify.add_argument("-o", "--output", choices=("table", "json"), default="table")
    verify.set_defaults(action="verify")
    head = commands.add_parser("head", help="print SEQ:HASH of the last line")
    head.add_argument("--config", required=True, metavar="FILE", help="the instance's jobd.toml")
    head.set_defaults(action="head")
