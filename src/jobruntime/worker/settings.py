"""What a local worker is told at its start."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.limits import NO_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class Settings:
    """Where one instance keeps its jobs, and as whom they run.

    An instance is its state directory: two workers never share one.
    """

    state_dir: str
    runtime_dir: str | None = None
    """For sockets; None: below /run/jobd as root, else inside the state directory."""
    work_dir: str | None = None
    """Where each job gets a writable directory of its own; None: inside the state directory, or
    for jobs with a uid of their own below /var/lib/jobd, because they must be able to reach it."""
    cgroup_root: str = "auto"
    """`auto`, `none` (track jobs as subreaper), or the path of a cgroup v2 directory."""
    uid_first: int | None = None
    """First uid of the range from which each owner gets one (as root); None: all jobs run as the
    worker's own user, which as root means as root."""
    uid_count: int = 65536
    default_limits: Limits = NO_LIMITS
    """For what a job's own limits do not say."""
    ceiling: Limits = NO_LIMITS
    """The most that a job may ask for, and what it gets where nothing is said."""
    all_limits: Limits = NO_LIMITS
    """For all jobs together."""
