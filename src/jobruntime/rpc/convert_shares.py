"""Between protobuf and the model: shares of jobs."""

from __future__ import annotations

from collections.abc import Iterable

from jobruntime.model.errors import invalid
from jobruntime.model.shares import MAX_SHARES, Share, join_shares, make_share

from .gen import service_pb2 as pb


def shares_of(messages: Iterable[pb.Share]) -> tuple[Share, ...]:
    """Return the shares that a request asks for; raises JobError (INVALID_ARGUMENT)."""
    given = list(messages)
    if len(given) > MAX_SHARES:  # before each of them is looked at
        raise invalid(f"cannot take {len(given)} shares", f"give at most {MAX_SHARES}")
    return join_shares(make_share(message.user, message.verbs) for message in given)


def shares_to_proto(shares: Iterable[Share]) -> list[pb.Share]:
    """Return the messages for `shares`."""
    return [pb.Share(user=share.user, verbs=map(str, share.verbs)) for share in shares]
