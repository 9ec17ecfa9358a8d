"""The worker library: jobs on this host, started, stopped, followed and told of truthfully.

    async with LocalWorker(Settings(state_dir="/var/lib/myapp/jobs")) as worker:
        job_id = await worker.start(JobSpec(argv=("make", "-j2")), owner="ci")
        async for event in worker.logs(job_id):
            ...

It needs no gRPC, and nothing but the standard library.
"""

from typing import TYPE_CHECKING

from ..model.admission import NO_TERMS, Terms
from ..model.errors import JobError, Reason
from ..model.isolation import Isolation
from ..model.log_policy import LogFull, LogPolicy
from ..model.log_query import LogQuery
from ..model.quota import Quota
from ..model.retention import Retention
from ..model.shares import Share
from ..model.spec import JobSpec
from ..model.state import Exited, Lost, Outcome, Signaled, State
from ..model.status import JobStatus
from .api import LogBatch, LogEnd, LogEvent, Removed, Worker
from .policy import Plan
from .settings import Settings

if TYPE_CHECKING:
    from .engine import LocalWorker
    from .log_filter import LineSearch

__all__ = [
    "NO_TERMS",
    "Exited",
    "Isolation",
    "JobError",
    "JobSpec",
    "JobStatus",
    "LineSearch",
    "LocalWorker",
    "LogBatch",
    "LogEnd",
    "LogEvent",
    "LogFull",
    "LogPolicy",
    "LogQuery",
    "Lost",
    "Outcome",
    "Plan",
    "Quota",
    "Reason",
    "Removed",
    "Retention",
    "Settings",
    "Share",
    "Signaled",
    "State",
    "Terms",
    "Worker",
]


def __getattr__(name: str) -> object:
    # On demand: the privileged monitor needs neither asyncio nor what else the engine is made of.
    if name == "LocalWorker":
        from .engine import LocalWorker

        return LocalWorker
    if name == "LineSearch":
        from .log_filter import LineSearch

        return LineSearch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
