"""A uid for each owner, his alone and for ever."""

from __future__ import annotations

import os
from typing import Final

from ..linux.files import open_directory, read_json, replace_json
from ..model.errors import JobError, Reason

_FILE: Final = "owners.json"


class Owners:
    """The remembered table of owners' uids, in the state directory. Not for use by two threads."""

    def __init__(self, state_dir: str, uids: range) -> None:
        """Read the table; raises JobError (CONFIG_INVALID) where it is damaged."""
        self._uids = uids
        self._directory = open_directory(state_dir)
        try:
            raw = read_json(_FILE, self._directory) or {}
        except ValueError as error:
            raise JobError(
                Reason.CONFIG_INVALID,
                f"cannot read {state_dir}/{_FILE}: it is damaged",
                "restore it from a backup; it says which uid belongs to which owner",
            ) from error
        self._table = {owner: int(str(uid)) for owner, uid in raw.items()}

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._directory)

    @property
    def has_uids(self) -> bool:
        """Whether owners get uids at all; else their jobs share one user."""
        return bool(self._uids)

    def known_uid(self, owner: str) -> int | None:
        """Return the uid that the owner has already, None if `uid_of` must see to it."""
        uid = self._table.get(owner)
        return uid if uid in self._uids else None

    def uid_of(self, owner: str) -> int | None:
        """Return the owner's uid, giving him one if he has none; None where jobs share one user.

        Raises JobError (RESOURCE_EXHAUSTED) when the range is used up. A new uid is on disk
        before it is returned: it must never be given to a second owner.
        """
        if not self._uids:
            return None
        if (uid := self.known_uid(owner)) is not None:
            return uid
        used = set(self._table.values())
        free = next((uid for uid in self._uids if uid not in used), None)
        if free is None:
            raise JobError(
                Reason.RESOURCE_EXHAUSTED,
                "cannot start a job: every uid of the range is another owner's",
                "ask the operator to enlarge uid_count in jobd.toml",
            )
        table = self._table | {owner: free}
        try:
            replace_json(_FILE, dict(table), self._directory, sync=True)
        except OSError as error:
            raise JobError(
                Reason.RESOURCE_EXHAUSTED,
                f"cannot start a job: its owner's new uid can't be recorded: {error.strerror}",
                "free disk space on the server's host",
            ) from error
        self._table = table
        return free
