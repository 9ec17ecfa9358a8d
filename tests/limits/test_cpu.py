"""CPU time: a quota that holds, shares by weight, and a choice of CPUs."""

from __future__ import annotations

import os

from jobruntime.rpc.tls import grpc
from tests.limits.payloads import BUSY, cpus, limits, measured, over
from tests.support import Api, Instance


def test_a_busy_loop_gets_the_fifth_of_a_cpu_that_it_may_have_and_its_waiting_is_counted(
    api: Api,
) -> None:
    job = api.start(*BUSY, limits=limits(cpu_millis=200))
    measured("--cpus 0.2 over 5 s", 0.17, 0.23, lambda: cpus(over(api, [job], 5.0)[0]))
    usage = api.usage(job)
    # Only where the host itself was short of CPU time did it not use up a period's quota.
    assert 0.5 * usage.cpu_periods <= usage.cpu_throttled_periods <= usage.cpu_periods
    assert usage.cpu_throttled_us > 0
    receipt = api.stop(job, grace_ms=0).usage
    assert receipt.cpu_throttled_periods >= usage.cpu_throttled_periods
    assert receipt.cpu_throttled_us >= usage.cpu_throttled_us
    assert receipt.cpu_us >= usage.cpu_us


def test_the_quota_is_for_all_processes_of_a_job_together(api: Api) -> None:
    four = "for n in 1 2 3; do (while :; do :; done) & done; while :; do :; done"
    job = api.start("sh", "-c", four, limits=limits(cpu_millis=200))
    measured("--cpus 0.2, four loops", 0.17, 0.23, lambda: cpus(over(api, [job], 3.0)[0]))
    api.stop(job, grace_ms=0)


def test_two_busy_loops_on_one_cpu_share_it_as_their_weights_say(api: Api) -> None:
    on_one = ("taskset", "-c", str(max(os.sched_getaffinity(0))), *BUSY)
    light, heavy = (api.start(*on_one, limits=limits(cpu_weight=weight)) for weight in (100, 900))

    def ratio() -> float:
        one, other = over(api, [light, heavy], 5.0)
        return other.cpu_us / max(one.cpu_us, 1)

    measured("CPU time of weight 900 to that of 100", 9 * 0.8, 9 * 1.2, ratio)
    for job in (light, heavy):
        api.stop(job, grace_ms=0)


def test_a_choice_of_cpus_binds_a_job_or_is_refused_where_the_kernel_cannot(
    shared: Instance, api: Api
) -> None:
    cpu = str(max(os.sched_getaffinity(0)))
    jobs = shared.job_ids()

    def start() -> str:
        return api.start("cat", "/proc/self/status", limits=limits(cpuset=cpu))

    if "cpuset" in shared.controllers:
        assert f"Cpus_allowed_list:\t{cpu}\n".encode() in api.logs(start()).stdout
        return
    refusal = api.refused(start)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "LIMIT_NOT_ENFORCEABLE",
    )
    assert "--cpuset" in refusal.message
    assert "'cpuset'" in refusal.message
    assert shared.job_ids() == jobs
