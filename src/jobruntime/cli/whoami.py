"""`jobc whoami`: who the caller is to the server."""

from __future__ import annotations

import json
from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .failure import Exit, printable
from .output import write_line
from .times import time_text

if TYPE_CHECKING:
    from jobruntime.rpc.gen import service_pb2 as pb

    from .settings import Settings

USAGE = "[FLAGS]"
DESCRIPTION = """\
Print who you are to the server: what your certificate says, when it ends, and where the server sees
you come from.
"""
EPILOG = """\
examples:
  jobc whoami
  jobc whoami -o json | jq -r .not_after
"""
DEADLINE_SECONDS = 30
_NS = 1_000_000_000


def add_arguments(parser: ArgumentParser) -> list[Action]:
    """Add the flags of this verb."""
    return [
        parser.add_argument(
            "-o",
            "--output",
            choices=("text", "json"),
            default="text",
            metavar="FORM",
            help="json: one object (default: text)",
        )
    ]


def run(args: Namespace, settings: Settings) -> Exit:
    """Print who the caller is; raises Failure."""
    from jobruntime.rpc.gen import service_pb2 as pb

    from .connection import call

    response = call(
        settings,
        lambda stub: stub.WhoAmI(
            pb.WhoAmIRequest(), timeout=DEADLINE_SECONDS + settings.connect_timeout_ms / 1000
        ),
        if_lost="try again",
    )
    write_line(_json(response) if args.output == "json" else _text(response))
    return Exit.OK


def _text(response: pb.WhoAmIResponse) -> str:
    lines = {
        "name": response.name,
        "roles": ", ".join(response.roles),
        "serial": response.serial,
        "valid until": time_text(response.not_after.seconds * _NS),
        "address": response.address,
        "server": f"jobd {response.server_version}",
    }
    return "\n".join(f"{name:<12} {printable(value)}" for name, value in lines.items())


def _json(response: pb.WhoAmIResponse) -> str:
    return json.dumps(
        {
            "name": response.name,
            "roles": list(response.roles),
            "serial": response.serial,
            "not_after": time_text(response.not_after.seconds * _NS),
            "address": response.address,
            "server_version": response.server_version,
        }
    )
