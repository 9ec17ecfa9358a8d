"""The operator's limits: what is refused at the server's start, and what meets a job's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from jobruntime.linux.controllers import Offer
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.io_rates import IoCeiling, IoOrder
from jobruntime.model.limits import NO_LIMITS, IoLimit, Limits
from jobruntime.worker.operator_limits import check_cpus, resolve_settings
from jobruntime.worker.policy import LimitPolicy
from jobruntime.worker.settings import Settings
from jobruntime.worker.tree import check_all_jobs

MIB = 1 << 20
FILES = ("cpu.max", "io.max", "memory.max", "memory.high", "memory.swap.max", "pids.max")
ALL = Offer(frozenset([*FILES, "cpu.weight", "cpuset.cpus"]), MappingProxyType({}))


def policy_of(default: Limits = NO_LIMITS, ceiling: Limits = NO_LIMITS) -> LimitPolicy:
    settings = Settings("/state", default_limits=default, ceiling=ceiling)
    return LimitPolicy(settings, ALL)


def refused(call: Callable[[], object]) -> JobError:
    with pytest.raises(JobError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("table", ["default", "ceiling", "all"])
@pytest.mark.parametrize(
    ("path", "cause"),
    [("/no/such/disk", "No such file or directory"), ("/dev/null", "a character device")],
)
def test_a_path_of_the_operators_without_a_disk_is_refused_by_its_key(
    table: str, path: str, cause: str
) -> None:
    field = {"default": "default_limits", "ceiling": "ceiling", "all": "all_limits"}[table]
    limits = Limits(io=(IoLimit(path, write_iops=9),))
    settings = Settings("/state", **{field: limits})  # type: ignore[arg-type] # these are limits
    error = refused(lambda: resolve_settings(settings))
    assert error.reason is Reason.CONFIG_INVALID
    assert error.message.startswith(f"cannot use the key limits.{table}.io_write_iops of ")
    assert f"no disk can be named for {path}: " in error.message
    assert cause in error.message
    assert error.remedy


def test_what_has_its_disk_is_not_looked_up_again() -> None:
    limits = Limits(io=(IoLimit("/no/such/disk", write_iops=9, device="8:0"),))
    settings = Settings("/state", default_limits=limits)
    assert resolve_settings(settings) == settings


@pytest.mark.parametrize("table", ["default", "ceiling"])
def test_cpus_that_jobs_cannot_have_are_refused_by_their_key(tmp_path: Path, table: str) -> None:
    (tmp_path / "cpuset.cpus.effective").write_text("0-3\n")
    jobs = str(tmp_path)

    def settings(cpuset: str, whole: str | None = None) -> Settings:
        field = {"default": "default_limits", "ceiling": "ceiling"}[table]
        values = {field: Limits(cpuset=cpuset), "all_limits": Limits(cpuset=whole)}
        return Settings("/state", **values)  # type: ignore[arg-type] # these are limits

    check_cpus(settings("1-3"), jobs)
    check_cpus(settings("", "0"), jobs)
    check_cpus(settings("9"), None)
    error = refused(lambda: check_cpus(settings("2-5"), jobs))
    assert error.reason is Reason.CONFIG_INVALID
    assert error.message == (
        f"cannot use the key limits.{table}.cpuset of the configuration: "
        "jobs cannot have the CPUs 4-5 here"
    )
    error = refused(lambda: check_cpus(settings("2-3", "0-2"), jobs))
    assert "CPUs 3 here" in error.message


@pytest.mark.parametrize(
    "limits", [Limits(memory_swap_bytes=MIB), Limits(memory_bytes=MIB, memory_high_bytes=MIB)]
)
def test_limits_of_all_jobs_that_contradict_each_other_are_no_configuration(
    limits: Limits,
) -> None:
    error = refused(lambda: check_all_jobs(limits, ALL))
    assert error.reason is Reason.CONFIG_INVALID
    assert error.message.startswith("cannot use [limits.all] of the configuration: cannot ")


def test_a_default_above_the_ceiling_of_its_disk_is_no_configuration() -> None:
    ceiling = Limits(io=(IoLimit("/srv", write_bps=5, device="8:0"),))
    policy_of(Limits(io=(IoLimit("/srv/x", write_bps=5, device="8:0"),)), ceiling).check()
    default = Limits(io=(IoLimit("/srv/x", write_bps=6, device="8:0"),))
    error = refused(policy_of(default, ceiling).check)
    assert error.reason is Reason.CONFIG_INVALID
    assert "--io-write-bps /srv/x:6: this server allows at most 5" in error.message


@pytest.mark.parametrize("ceiling", [Limits(memory_high_bytes=2 * MIB), NO_LIMITS])
def test_memory_below_an_inherited_memory_high_is_had(ceiling: Limits) -> None:
    policy = policy_of(Limits(memory_high_bytes=2 * MIB), ceiling)
    policy.check()
    limits = policy.at_start(Limits(memory_bytes=MIB))
    assert limits.memory_bytes == MIB
    assert policy.at_update(limits, Limits(memory_bytes=MIB // 2)).memory_bytes == MIB // 2
    # It is still there for the day on which the job may have more.
    raised = policy.at_update(limits, Limits(memory_bytes=4 * MIB))
    assert raised.memory_high_bytes == 2 * MIB
    error = refused(lambda: policy.at_start(Limits(memory_bytes=MIB, memory_high_bytes=MIB)))
    assert error.reason is Reason.INVALID_ARGUMENT


def test_an_update_is_judged_by_what_it_names() -> None:
    older = Limits(memory_bytes=64 * MIB, cpu_millis=4000, cpuset="0-7")
    policy = policy_of(ceiling=Limits(memory_bytes=MIB, cpu_millis=1000, cpuset="0", pids=9))
    changed = policy.at_update(older, Limits(pids=9))
    assert changed == Limits(memory_bytes=64 * MIB, cpu_millis=4000, cpuset="0-7", pids=9)
    for changes, told in (
        (Limits(memory_bytes=2 * MIB), "--memory 2 MiB: this server allows at most 1 MiB"),
        (Limits(cpuset="1"), "--cpuset 1: this server allows at most 0"),
        (Limits(pids=10), "--pids 10: this server allows at most 9"),
    ):
        error = refused(lambda changes=changes: policy.at_update(older, changes))  # type: ignore[misc]
        assert error.reason is Reason.LIMIT_ABOVE_CEILING
        assert error.message == f"cannot update a job to {told}"


def test_a_keeper_gets_defaults_and_ceilings_apart_from_what_was_asked_for() -> None:
    default, ceiling = (IoLimit(path, write_bps=5, device="8:0") for path in ("/a", "/b"))
    policy = policy_of(Limits(io=(default,)), Limits(io=(ceiling,)))
    asked = Limits(io=(IoLimit("/c", write_bps=9),))
    above = (IoCeiling("this server", (ceiling,)),)
    assert policy.io_at_start(asked) == IoOrder((default,), asked.io, above)
    assert policy.io_at_update(asked) == IoOrder((), asked.io, above)
    assert policy_of().io_at_start(NO_LIMITS) == IoOrder()
