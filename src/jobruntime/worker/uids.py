"""The uids that jobs may run as, looked up on the host before anybody runs as one of them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from ..model.errors import JobError, Reason

_ACCOUNT_FILES: Final = ("/etc/passwd", "/etc/group")
_SUBORDINATE_FILES: Final = ("/etc/subuid", "/etc/subgid")


def find_accounts(names: Iterable[str], uids: range) -> Mapping[str, tuple[int, int]]:
    """Return uid and primary gid of each account; raises JobError (CONFIG_INVALID).

    Refused are accounts that are not there, and the server's own where that is not root.
    """
    found = {}
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError) as error:
            raise _refused(name, "this host has no such account", "make it") from error
        if entry.pw_uid and entry.pw_uid == os.geteuid():
            raise _refused(name, "it is the server's own, whose state jobs must not reach", "")
        if entry.pw_uid in uids or entry.pw_gid in uids:
            raise _refused(name, "its uid or gid is in the range of the owners' own", "")
        found[name] = (entry.pw_uid, entry.pw_gid)
    return MappingProxyType(found)


def _refused(name: str, cause: str, remedy: str) -> JobError:
    leave = (
        f"take it out of `accounts` in [jobs] of the configuration{f', or {remedy}' * bool(remedy)}"
    )
    return JobError(Reason.CONFIG_INVALID, f"cannot run jobs as {name!r}: {cause}", leave)


def taken_uid(uids: range) -> str | None:
    """Return who has a uid or gid of the range on this host, in words; None: nobody.

    Only what stands in the host's own files: others take their time to be asked.
    """
    for path in _ACCOUNT_FILES:
        for name, *fields in _entries(path):
            if len(fields) >= 2 and fields[1].isdecimal() and int(fields[1]) in uids:
                return f"{name} has {fields[1]} ({path})"
    for path in _SUBORDINATE_FILES:
        for name, *fields in _entries(path):
            if len(fields) == 2 and all(field.isdecimal() for field in fields):
                first, count = int(fields[0]), int(fields[1])
                if first < uids.stop and uids.start < first + count:
                    return f"{name} has {first} to {first + count - 1} ({path})"
    return None


def check_free(uids: range) -> None:
    """Refuse a range of which somebody else has a uid or gid; raises JobError (CONFIG_INVALID).

    He could read, signal and trace the jobs of an owner, and they him.
    """
    if uids and (taken := taken_uid(uids)):
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot give jobs the uids {uids.start} to {uids.stop - 1}: {taken}",
            "set uid_first and uid_count in [jobs] of the configuration to uids that nobody has",
        )


def _entries(path: str) -> Iterator[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            yield from (line.rstrip("\n").split(":") for line in file)
    except FileNotFoundError:
        return  # many hosts have no subordinate ids
