"""Quotas: what is counted, and what a refusal says."""

import asyncio
from collections.abc import Iterator

import pytest

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.limits import UNLIMITED, Limits
from jobruntime.model.log_policy import LogPolicy
from jobruntime.model.quota import (
    NO_QUOTA,
    Claim,
    Quota,
    check_followers,
    check_start,
    check_update,
)
from jobruntime.model.record import Progress
from jobruntime.model.spec import JobSpec
from jobruntime.model.state import Exited, State
from jobruntime.server.followers import Followers
from jobruntime.worker.live import LiveJob
from jobruntime.worker.quotas import Quotas
from jobruntime.worker.store import JobRecord

MIB = 1 << 20
RULE = "role user's quota"
MEMORY = Quota(memory_bytes=64 * MIB)


def refusal(quota: Quota, *claims: Claim, kept: int = 0, asked: Claim | None = None) -> JobError:
    with pytest.raises(JobError) as refused:
        check_start(quota, RULE, claims, kept, asked or Claim(""))
    return refused.value


def test_without_a_quota_everything_goes() -> None:
    check_start(Quota(), RULE, [Claim("a"), Claim("b", 10**9, 10**15, 10**15)], 10**15, Claim(""))


def test_jobs_are_counted_but_not_those_that_have_ended() -> None:
    live, ended = Claim("a"), Claim("b", is_live=False)
    check_start(Quota(jobs=2), RULE, [live, ended, ended], 0, Claim(""))
    error = refusal(Quota(jobs=2), live, live, ended)
    assert error.reason is Reason.RESOURCE_EXHAUSTED
    assert str(error) == (
        "cannot start a job: role user's quota jobs = 2 is used up, 2 run or start; "
        "stop one, or ask the operator for a larger quota"
    )
    assert refusal(Quota(jobs=0)).reason is Reason.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("field", "flag", "told"),
    [
        ("cpu_millis", "--cpus", "cpus = 0.003 has 0.001 left, 0.002 are taken"),
        ("memory_bytes", "--memory", "memory = 3 B has 1 B left, 2 B are taken"),
        ("log_bytes", "--log-max", "log = 3 B has 1 B left, 2 B are taken"),
    ],
)
def test_a_sum_may_reach_its_quota_and_not_pass_it(field: str, flag: str, told: str) -> None:
    quota = Quota(**{field: 3})
    one, two = Claim("a", 1, 1, 1), Claim("a", 2, 2, 2)
    check_start(quota, RULE, [one], 0, two)
    error = refusal(quota, one, one, asked=two)
    assert error.reason is Reason.RESOURCE_EXHAUSTED
    assert f"{RULE} {told}" in error.message
    assert flag in error.remedy


def test_logs_of_jobs_that_have_ended_count_and_their_memory_does_not() -> None:
    ended, asked = Claim("a", 9, 9, 9, is_live=False), Claim("", 3, 3, 3)
    check_start(Quota(cpu_millis=3, memory_bytes=3), RULE, [ended], 0, asked)
    error = refusal(Quota(log_bytes=11), ended, asked=asked)
    assert "jobc prune" in error.remedy
    refusal(Quota(log_bytes=11), kept=9, asked=asked)
    check_start(Quota(log_bytes=12), RULE, [], 9, asked)


@pytest.mark.parametrize("value", [None, UNLIMITED])
@pytest.mark.parametrize(
    ("field", "flag"),
    [("cpu_millis", "--cpus"), ("memory_bytes", "--memory"), ("log_bytes", "--log-max")],
)
def test_a_sum_needs_a_limit_of_every_job(field: str, flag: str, value: int | None) -> None:
    quota, endless = Quota(**{field: 3}), Claim("one", value, value, value)
    error = refusal(quota, asked=endless)
    assert (error.reason, error.remedy) == (Reason.LIMIT_ABOVE_CEILING, f"give {flag}")
    # One from before there was the quota is no less endless.
    error = refusal(quota, endless, asked=Claim("", 1, 1, 1))
    assert error.reason is Reason.RESOURCE_EXHAUSTED
    assert "job one has none" in error.message


def test_an_update_counts_what_it_adds_and_may_always_take_away() -> None:
    quota, others = Quota(cpu_millis=100, memory_bytes=10), [Claim("b", 50, 5)]
    before = Claim("a", 50, 5)
    check_update(quota, RULE, others, before, before)
    for asked in (Claim("a", 51, 5), Claim("a", 50, 6), Claim("a", 50, None)):
        with pytest.raises(JobError, match=r"^cannot update job a with"):
            check_update(quota, RULE, others, before, asked)
    # Above the quota already, because it has become smaller: down is the way.
    check_update(Quota(cpu_millis=1, memory_bytes=1), RULE, others, before, Claim("a", 40, 5))
    check_update(quota, RULE, others, Claim("a"), Claim("a", None, 5))


def test_followers_are_held_to_the_quota_in_the_place_of_the_servers_number() -> None:
    followers = Followers(1)
    quota = Quota(followers=2)
    with followers.counted("ann", quota, RULE), followers.counted("ann", quota, RULE):
        with pytest.raises(JobError, match="quota followers = 2 is used up, 2 are read") as no:
            followers.counted("ann", quota, RULE).__enter__()
        assert no.value.reason is Reason.RESOURCE_EXHAUSTED
        one = followers.counted("bob", Quota(jobs=1), RULE)
        with one, pytest.raises(JobError, match="followers_per_user"):
            followers.counted("bob", Quota(jobs=1), RULE).__enter__()
    with followers.counted("ann", Quota(followers=1), RULE):
        pass
    with pytest.raises(JobError, match="followers = 0"):
        check_followers(Quota(followers=0), "", 0)


# -- the count over many jobs


class MakeLive:
    """Makes jobs that run, as the engine has them: they belong to a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, job: str, owner: str = "ann", **limits: int) -> LiveJob:
        spec, log = JobSpec(argv=("true",)), LogPolicy(MIB)
        record = JobRecord(job, owner, spec, 0, "", Limits(**limits), log)  # type: ignore[arg-type]

        async def make() -> LiveJob:
            return LiveJob(record, Progress(State.RUNNING), lambda _: None)

        return self._loop.run_until_complete(make())


@pytest.fixture
def live() -> Iterator[MakeLive]:
    loop = asyncio.new_event_loop()
    yield MakeLive(loop)
    loop.close()


def starts(quotas: Quotas, quota: Quota, owner: str = "ann", **limits: int) -> None:
    with quotas.starting(owner, Limits(**limits), LogPolicy(MIB), quota, RULE):  # type: ignore[arg-type]
        pass


def test_starts_under_way_running_jobs_and_logs_count_for_their_owner(live: MakeLive) -> None:
    quotas = Quotas({"ann": 5 * MIB}.get)  # type: ignore[arg-type]
    job = live("a", memory_bytes=32 * MIB)
    quotas.add(job)
    quotas.add(live("b", owner="bob", memory_bytes=64 * MIB))
    starts(quotas, MEMORY, memory_bytes=32 * MIB)
    one = quotas.starting("ann", Limits(memory_bytes=MIB), LogPolicy(), NO_QUOTA, "")
    with one, pytest.raises(JobError, match="has 31 MiB left, 33 MiB are taken"):
        starts(quotas, MEMORY, memory_bytes=32 * MIB)
    starts(quotas, MEMORY, memory_bytes=32 * MIB)  # a start that came to nothing gives it back
    starts(quotas, Quota(log_bytes=7 * MIB))
    with pytest.raises(JobError, match="log = 6 MiB has 0 B left"):
        starts(quotas, Quota(log_bytes=6 * MIB))
    job.finish(Progress(State.TERMINATED, outcome=Exited(0)))
    starts(quotas, Quota(jobs=1, memory_bytes=64 * MIB), memory_bytes=64 * MIB)
    with pytest.raises(JobError):  # its log is still there
        starts(quotas, Quota(log_bytes=6 * MIB))
    quotas.forget(job)
    starts(quotas, Quota(log_bytes=6 * MIB))


def test_an_update_holds_the_larger_while_it_goes_on(live: MakeLive) -> None:
    quotas = Quotas(lambda _: 0)
    job = live("a", memory_bytes=32 * MIB)
    quotas.add(job)
    small = Limits(memory_bytes=16 * MIB)
    with quotas.updating(job, small, MEMORY, RULE), pytest.raises(JobError, match="has 32 MiB"):
        starts(quotas, MEMORY, memory_bytes=48 * MIB)
    job.progress = Progress(State.RUNNING, limits=small)
    starts(quotas, MEMORY, memory_bytes=48 * MIB)
    large = quotas.updating(job, Limits(memory_bytes=64 * MIB), MEMORY, RULE)
    with large, pytest.raises(JobError, match="has 0 B left"):
        starts(quotas, MEMORY, memory_bytes=MIB)
    starts(quotas, MEMORY, memory_bytes=48 * MIB)
    with pytest.raises(JobError, match="update job a with --memory 65 MiB"):
        quotas.updating(job, Limits(memory_bytes=65 * MIB), MEMORY, RULE).__enter__()
    starts(quotas, MEMORY, memory_bytes=48 * MIB)


def test_an_update_whose_outcome_is_not_known_counts_as_if_it_were_made(live: MakeLive) -> None:
    quotas = Quotas(lambda _: 0)
    job = live("a", memory_bytes=MIB)
    quotas.add(job)

    def update(mib: int, reason: Reason | None) -> None:
        with quotas.updating(job, Limits(memory_bytes=mib * MIB), MEMORY, RULE):
            if reason is not None:
                raise JobError(reason, "cannot")

    with pytest.raises(JobError):
        update(60, Reason.LIMIT_REFUSED)
    starts(quotas, MEMORY, memory_bytes=60 * MIB)
    with pytest.raises(JobError):
        update(60, Reason.KEEPER_UNREACHABLE)
    for _ in range(2):
        with pytest.raises(JobError, match="has 4 MiB left, 60 MiB are taken"):
            starts(quotas, MEMORY, memory_bytes=60 * MIB)
        with pytest.raises(JobError):
            update(2, Reason.LIMIT_REFUSED)  # which changes nothing of that
    update(2, None)
    starts(quotas, MEMORY, memory_bytes=60 * MIB)


def test_starts_come_at_their_rate_with_a_seconds_worth_at_once() -> None:
    now = [100.0]
    quotas = Quotas(lambda _: 0, now=lambda: now[0])
    quota = Quota(starts_per_second=3)
    told: list[str] = []

    def count() -> int:
        for done in range(100):
            try:
                starts(quotas, quota)
            except JobError as refused:
                told.append(str(refused))
                return done
        raise AssertionError("never refused")

    assert count() == 3
    assert count() == 0
    assert told[1].startswith("cannot start a job: role user's quota starts per second = 3 is used")
    assert "try again in 0.3 s" in told[1]
    now[0] += 0.7
    assert count() == 2
    now[0] += 1000
    assert count() == 3
    starts(quotas, quota, owner="bob")
    starts(quotas, NO_QUOTA)


def test_a_slow_rate_lets_one_start_and_a_rate_of_nothing_none() -> None:
    now = [0.0]
    quotas = Quotas(lambda _: 0, now=lambda: now[0])
    quota = Quota(starts_per_second=0.1)
    starts(quotas, quota)
    with pytest.raises(JobError, match=r"try again in 10\.0 s|is used up") as refused:
        starts(quotas, quota)
    assert "try again in 10.0 s" in refused.value.remedy
    now[0] = 10.1
    starts(quotas, quota)
    with pytest.raises(JobError, match="starts per second = 0 is used up"):
        starts(quotas, Quota(starts_per_second=0), owner="bob")


def test_a_start_that_is_refused_takes_nothing_of_the_rate() -> None:
    quotas = Quotas(lambda _: 0, now=lambda: 0.0)
    for _ in range(9):
        with pytest.raises(JobError, match="jobs = 0"):
            starts(quotas, Quota(jobs=0, starts_per_second=1))
    starts(quotas, Quota(jobs=1, starts_per_second=1))
