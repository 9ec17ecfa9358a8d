"""What of a request is written: all that tells what was asked for, and nothing that is a secret.

Fields are named one by one: what is not named here is not written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from jobruntime.rpc.gen import service_pb2 as pb

from .config_audit import Argv

MAX_TEXT_CHARS: Final = 512
_MAX_ARGV_CHARS: Final = 16 * 1024
_MAX_LIST: Final = 100

_OF_REFERENCES: Final = ("job",)
_FIELDS: Final[Mapping[type[Message], tuple[str, ...]]] = MappingProxyType(
    {
        pb.StartRequest: (
            *("name", "working_directory", "request_id", "stop_signal", "grace_ms", "timeout_ms"),
            *("limits", "log", "user", "isolate", "share"),
        ),
        pb.StopRequest: ("signal", "grace_ms"),
        pb.UpdateRequest: ("limits", "share", "unshare"),
        pb.CanIRequest: ("verb",),
        pb.PruneRequest: ("ended_before_ms", "keep", "all_owners", "dry_run"),
        pb.LogsRequest: ("follow", "tail_lines", "since", "until", "streams"),
        pb.StatsRequest: ("follow", "interval_ms"),
    }
)


def details_of(request: Message, argv: Argv) -> dict[str, object]:
    """Return what is written of the request, ready for JSON and bounded in size."""
    wanted = (*_OF_REFERENCES, *_FIELDS.get(type(request), ()))
    details = {
        field.name: _named(field, value)
        for field, value in request.ListFields()
        if field.name in wanted
    }
    if isinstance(request, pb.StartRequest):
        details |= _command_of(request, argv)
        details["env_names"] = [name[:MAX_TEXT_CHARS] for name in sorted(request.env)[:_MAX_LIST]]
    return details


def is_long(request: Message) -> bool:
    """Return whether the call may go on for long, so that its begin is written as well."""
    return isinstance(request, pb.LogsRequest) or (
        isinstance(request, pb.StatsRequest) and request.follow
    )


def _command_of(request: pb.StartRequest, argv: Argv) -> dict[str, object]:
    words = [os.fsdecode(word) for word in request.argv_bytes] or list(request.argv)
    match argv:
        case Argv.NONE:
            return {}
        case Argv.PROGRAM:
            program = words[0][:MAX_TEXT_CHARS] if words else None
            return {"program": program, "arguments": max(0, len(words) - 1)}
        case Argv.FULL:
            return {"argv": _cut_words(words), "arguments": max(0, len(words) - 1)}


def _cut_words(words: list[str]) -> list[str]:
    """Return the words as far as they go into a line; the last one may be cut, then."""
    kept: list[str] = []
    room = _MAX_ARGV_CHARS
    for word in words:
        if room <= 0:
            break
        kept.append(word[:room])
        room -= len(word) + 3
    return kept


def _plain(value: object) -> object:
    match value:
        case Message():
            return {field.name: _named(field, part) for field, part in value.ListFields()}
        case str():
            return value[:MAX_TEXT_CHARS]
        case bool() | int() | float():
            return value
        case bytes():
            return os.fsdecode(value)[:MAX_TEXT_CHARS]
        case _:
            return [_plain(part) for part in list(value)[:_MAX_LIST]]  # type: ignore[call-overload]


def _named(field: FieldDescriptor, value: object) -> object:
    plain = _plain(value)
    if field.enum_type is None:
        return plain
    names = {number: enum.name for number, enum in field.enum_type.values_by_number.items()}
    if isinstance(plain, list):
        return [names.get(number, number) for number in plain]
    return names.get(cast("int", plain), plain)
