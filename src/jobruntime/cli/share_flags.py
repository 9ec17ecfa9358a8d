"""Shares of a job on the command line: the flag that gives one, and how they are told."""

from __future__ import annotations

from argparse import Action, ArgumentTypeError, _ActionsContainer
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .values import exact

if TYPE_CHECKING:
    from jobruntime.model.shares import Share
    from jobruntime.rpc.gen import service_pb2 as pb


def add_share_flag(parser: _ActionsContainer, what: str) -> Action:
    """Add the flag; `what` ends its help."""
    return parser.add_argument(
        "--share",
        action="append",
        default=[],
        type=_share,
        metavar="USER:VERBS",
        help="let another user do this with the job: some of status, logs, stats, stop, pause, "
        f"resume, with commas; status is part of each. May be given often. {what}",
    )


def _share(text: str) -> Share:
    from jobruntime.model.errors import JobError
    from jobruntime.model.shares import parse_share

    try:
        return parse_share(exact(text))
    except JobError as error:
        raise ArgumentTypeError(str(error)) from error


def format_shares(shares: Iterable[pb.Share]) -> str:
    """Return the shares as the flag takes them, a space between."""
    return " ".join(f"{share.user}:{','.join(share.verbs)}" for share in shares)


def shares_json(shares: Iterable[pb.Share]) -> list[dict[str, object]]:
    """Return every field of the API's Share."""
    return [{"user": share.user, "verbs": list(share.verbs)} for share in shares]
