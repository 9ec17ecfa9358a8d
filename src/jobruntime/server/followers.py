"""How many logs each user follows at this moment, and how many he may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.quota import NO_QUOTA, Quota, check_followers


class Followers:
    """Counts by user who reads or follows a log: each may hold some megabytes on their way."""

    def __init__(self, most_per_user: int) -> None:
        self._most = most_per_user
        self._counts: Counter[str] = Counter()

    @contextmanager
    def counted(self, user: str, quota: Quota = NO_QUOTA, quota_rule: str = "") -> Iterator[None]:
        """Count one of the user's while this lasts; raises JobError (RESOURCE_EXHAUSTED).

        A quota of followers takes the place of what holds for every user.
        """
        if quota.followers is not None:
            check_followers(quota, quota_rule, self._counts.get(user, 0))
        elif self._counts.get(user, 0) >= self._most:
            raise JobError(
                Reason.RESOURCE_EXHAUSTED,
                f"cannot read one more log: user {user!r} reads {self._counts[user]} at once "
                "already, which is the most here",
                "end some, or ask the operator for more `followers_per_user` in [logs]",
            )
        self._counts[user] += 1
        try:
            yield
        finally:
            self._counts[user] -= 1
            if not self._counts[user]:
                del self._counts[user]
