"""What root gives to the server's own user, so that this one can work without privileges."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator

from ..linux import sockets
from ..linux.confine import closed_ways, is_roots_way
from ..linux.ownership import (
    give_key,
    give_tree,
    is_roots_own,
    let_pass,
    let_read,
    make_directory_of,
)
from ..model.errors import JobError, Reason
from ..model.protocol import KEEPER_SOCKETS
from .instance import instance_tag, lock_holder
from .settings import Account, Settings

_logger = logging.getLogger(__name__)


def belongs_to_root(state_dir: str) -> bool:
    """Return whether it is as earlier versions made it, which worked in it as root."""
    return is_roots_own(os.path.realpath(state_dir))


def take_state_over(settings: Settings, account: Account) -> None:
    """Give a state directory of root's, as earlier versions made it, to the server's user.

    Raises JobError: INSTANCE_IN_USE, CONFIG_INVALID, and WRONG_STATE while jobs of such a version
    run, for their keepers answer to root alone.
    """
    state_dir = os.path.realpath(settings.state_dir)
    if not belongs_to_root(state_dir):
        return
    if (holder := lock_holder(state_dir)) is not None:
        raise JobError(
            Reason.INSTANCE_IN_USE,
            f"cannot use the state directory {state_dir}: process {holder} serves it already",
            "stop that one first (jobd stop)",
        )
    runtime_dir = settings.runtime_dir or f"/run/jobd/{instance_tag(state_dir)}"
    if any(_living_keepers(f"{runtime_dir}/{KEEPER_SOCKETS}")):
        raise JobError(
            Reason.WRONG_STATE,
            f"cannot take over {state_dir}: jobs run that an earlier version has started, as root",
            "wait for their end, or end them: jobd stop --jobs",
        )
    _logger.info("giving %s, which was root's, to uid %d", state_dir, account.uid)
    try:
        give_tree(state_dir, account.uid, account.gid)
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot give {state_dir} to uid {account.uid}: {error.strerror}",
            "see that its file system knows owners, and this user namespace that uid",
        ) from error


def make_directory(path: str, account: Account) -> None:
    """Make a directory that is the server's user's alone; raises OSError."""
    make_directory_of(path, account.uid, account.gid)


def _living_keepers(directory: str) -> Iterator[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        try:
            sockets.connect(directory, name).close()
        except OSError:
            continue
        yield name


def give_files(top: str, key: str, certificates: Iterable[str], account: Account) -> list[str]:
    """Let the server's user read these files, and pass the directories to them below `top`.

    Files that belong to somebody else than root, or where somebody else could put links, are left
    as they are. Returns what was changed, in words.
    """
    files = [file for file in (key, *certificates) if _is_roots_way(file)]
    changed = [
        f"the server's group {account.gid} may look into {directory} now"
        for file in files
        for directory in _ways_below(top, file)
        if os.path.isdir(directory) and let_pass(directory, account.gid)
    ]
    # The key first: where it lies in one file with its certificate, it must stay one user's.
    for file in files:
        with contextlib.suppress(OSError):  # the server says what is wrong with it
            if file == key and give_key(file, account.uid):
                changed.append(f"{file} belongs to the server's uid {account.uid} now")
            elif file != key and let_read(file, account.gid):
                changed.append(f"the server's group {account.gid} may read {file} now")
    return changed


def closed_directory(path: str, account: Account) -> str | None:
    """Return the directory in which the file lies, where that is closed to this user."""
    places = {os.path.dirname(path), os.path.dirname(os.path.realpath(path))}
    try:
        closed = closed_ways([path], account.uid, account.gid)
    except OSError:
        return None  # whoever reads it says what is missing
    return next((place for place in closed if place in places), None)


def _is_roots_way(path: str) -> bool:
    with contextlib.suppress(OSError):
        return is_roots_way(path)
    return False


def _ways_below(top: str, place: str) -> list[str]:
    found = []
    directory = os.path.dirname(place)
    while os.path.commonpath([directory, top]) == top:
        found.append(directory)
        if directory == top:
            break
        directory = os.path.dirname(directory)
    return found[::-1]
