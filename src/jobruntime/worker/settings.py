"""What a local worker is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model.limits import NO_LIMITS, Limits
from ..model.log_policy import NO_POLICY, LogPolicy
from ..model.retention import KEEP_ALL, Retention
from ..model.rlimits import DEFAULT_RLIMITS, Rlimits


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a process runs as, without any further group."""

    uid: int
    gid: int


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
    accounts: tuple[str, ...] = ()
    """Accounts of the host as which jobs may run where that is granted; needs `uid_first`. Root
    only where it is named here."""
    rlimits: Rlimits = field(default_factory=lambda: DEFAULT_RLIMITS)
    """Resource limits of every job; what a grant says comes before them."""
    server: Account | None = None
    """Who works in the state directory, which is his, where root prepares the instance for a
    process without privileges; None: the worker's own process."""
    default_limits: Limits = NO_LIMITS
    """For what a job's own limits do not say."""
    ceiling: Limits = NO_LIMITS
    """The most that a job may ask for, and what it gets where nothing is said."""
    all_limits: Limits = NO_LIMITS
    """For all jobs together."""
    default_log: LogPolicy = NO_POLICY
    """For what a job's own bounds of its log do not say."""
    log_ceiling_bytes: int | None = None
    """The most that one job's log may have."""
    log_reserve_bytes: int | None = None
    """Free room on the disk of the state directory. Where it is touched, jobs that ended longest
    ago are removed; at half of it, running jobs record no more. None: see below."""
    log_reserve_percent: float | None = None
    """The same in hundredths of the disk. None: 5, and at most 1 GiB."""
    retention: Retention = KEEP_ALL
    """What else is removed of the jobs that have ended."""
    hidden: tuple[str, ...] = ()
    """Directories and files that isolated jobs do not see, beside the instance's own and those that
    docs/isolation.md names: where the server has its keys, for one."""
