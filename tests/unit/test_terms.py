"""A role's defaults and ceilings with those of jobd.toml: what is in force for a job."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from jobruntime.linux.controllers import Offer
from jobruntime.model.admission import NO_TERMS, Terms
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.limits import KINDS, NO_LIMITS, UNLIMITED, Limits
from jobruntime.model.log_policy import LogFull, LogPolicy
from jobruntime.worker import Settings
from jobruntime.worker.policy import LimitPolicy

GIB = 1 << 30
OFFER = Offer(frozenset(kind.file for kind in KINDS.values()), MappingProxyType({}))


def policy(default: Limits, ceiling: Limits, log_ceiling: int | None = None) -> LimitPolicy:
    settings = Settings(
        "/state", default_limits=default, ceiling=ceiling, log_ceiling_bytes=log_ceiling
    )
    return LimitPolicy(settings, OFFER)


def terms(default: Limits = NO_LIMITS, ceiling: Limits = NO_LIMITS, **more: object) -> Terms:
    return Terms(
        "user",
        "policy.toml",
        default_limits=default,
        ceiling=ceiling,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("own", "role", "most"),
    [(4, 8, 4), (8, 4, 4), (None, 4, 4), (4, None, 4), (None, None, None)],
)
def test_of_two_ceilings_the_lower_one_holds(
    own: int | None, role: int | None, most: int | None
) -> None:
    limits = policy(NO_LIMITS, Limits(pids=own))
    assert limits.at_start(NO_LIMITS, terms(ceiling=Limits(pids=role))).pids == most
    for asked in (5, UNLIMITED):
        if most is None:
            assert limits.at_start(Limits(pids=asked), terms()).pids == asked
            continue
        with pytest.raises(JobError) as caught:
            limits.at_start(Limits(pids=asked), terms(ceiling=Limits(pids=role)))
        assert caught.value.reason is Reason.LIMIT_ABOVE_CEILING
        if asked == 5:  # above the lower one alone, which is then the one that is named
            rule = "role user's ceiling pids in policy.toml" if most == role else "this server"
            assert f"{rule} allows at most 4" in caught.value.message


def test_a_roles_default_comes_before_the_configurations_and_what_is_asked_before_both() -> None:
    limits = policy(Limits(pids=10, memory_bytes=GIB), NO_LIMITS)
    role = terms(Limits(pids=20))
    assert limits.at_start(NO_LIMITS, role) == Limits(pids=20, memory_bytes=GIB)
    assert limits.at_start(Limits(pids=30), role).pids == 30
    assert limits.at_start(NO_LIMITS, NO_TERMS).pids == 10


def test_a_default_above_the_other_ones_ceiling_is_cut_and_not_refused() -> None:
    limits = policy(Limits(memory_bytes=8 * GIB, memory_high_bytes=6 * GIB), NO_LIMITS)
    role = terms(ceiling=Limits(memory_bytes=4 * GIB))
    assert limits.at_start(NO_LIMITS, role) == Limits(memory_bytes=4 * GIB)
    limits = policy(NO_LIMITS, Limits(memory_bytes=4 * GIB))
    assert limits.at_start(NO_LIMITS, terms(Limits(memory_bytes=8 * GIB))).memory_bytes == 4 * GIB


def test_the_roles_ceiling_bounds_the_changes_and_leaves_the_rest_of_a_job_alone() -> None:
    limits = policy(NO_LIMITS, NO_LIMITS)
    role = terms(ceiling=Limits(pids=5, memory_bytes=GIB))
    present = Limits(pids=100)  # an administrator has given it more
    assert limits.at_update(present, Limits(memory_bytes=GIB), role) == Limits(
        pids=100, memory_bytes=GIB
    )
    for changes in (Limits(pids=6), Limits(memory_bytes=UNLIMITED)):
        with pytest.raises(JobError, match="role user's ceiling"):
            limits.at_update(present, changes, role)


def test_a_ceiling_is_told_before_what_the_host_cannot_hold() -> None:
    limits = LimitPolicy(Settings("/state"), Offer())
    role = terms(ceiling=Limits(memory_bytes=GIB))
    with pytest.raises(JobError, match="role user's ceiling memory"):
        limits.at_start(Limits(memory_bytes=2 * GIB), role)
    with pytest.raises(JobError) as caught:
        limits.at_start(NO_LIMITS, role)
    assert caught.value.reason is Reason.LIMIT_NOT_ENFORCEABLE


@pytest.mark.parametrize(("own", "role"), [(8, 4), (4, 8), (None, 4), (4, None)])
def test_the_lower_ceiling_of_a_log_holds(own: int | None, role: int | None) -> None:
    mib = 1 << 20
    limits = policy(NO_LIMITS, NO_LIMITS, None if own is None else own * mib)
    given = terms(
        log_ceiling_bytes=None if role is None else role * mib,
        default_log=LogPolicy(None, LogFull.BLOCK),
    )
    assert limits.log_at_start(LogPolicy(), given) == LogPolicy(4 * mib, LogFull.BLOCK)
    assert limits.log_at_start(LogPolicy(mib), given).max_bytes == mib
    with pytest.raises(JobError) as caught:
        limits.log_at_start(LogPolicy(5 * mib), given)
    assert caught.value.reason is Reason.LIMIT_ABOVE_CEILING
