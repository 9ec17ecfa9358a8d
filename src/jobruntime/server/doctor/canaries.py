"""Canaries: a job for each limit, which proves by what happens to it that the limit holds here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jobruntime.model.cause import Cause, cause_of
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.limits import NO_LIMITS, Controller, Limits
from jobruntime.model.quantities import format_size
from jobruntime.model.state import Exited
from jobruntime.worker.host import free_swap_bytes

from .bench import Bench, Ended, describe_end
from .report import Check, failed, failed_with, good, lacking

_DEADLINE_S: Final = 40.0
_MIB: Final = 1 << 20
_MEMORY: Final = 8 * _MIB
_HOG: Final = 16 * _MIB
"""What hogs take at least, and at most four times that where nothing holds them."""
_LOOP: Final = ("sh", "-c", "while :; do :; done")
# The shell itself takes it. A read into a large buffer would do so in the kernel, and user-mode
# Linux does not survive that where the memory is refused (6.1, maybe_map).
_HOARD: Final = f"x=0123456789abcdef; while [ ${{#x}} -lt {_HOG} ]; do x=$x$x; done"
_TAKE_MEMORY: Final = ("sh", "-c", _HOARD)
_CHILD_TAKES_MEMORY: Final = ("sh", "-c", f"({_HOARD}); echo survived")
_FIT_INTO_SWAP: Final = ("dd", "if=/dev/zero", "of=/dev/null", f"bs={_HOG}", "count=1")
_REAL_PYTHON: Final = Path(sys.executable).resolve()
_UPDATE_KERNEL: Final = "update this host's kernel, and report it to the kernel's maker"
_BUSY: Final = "repeat it when the host is less busy"


@dataclass(frozen=True, slots=True)
class Canary:
    """A limit, what the host must be able to enforce for it, and the trial."""

    name: str
    needs: Limits
    run: Callable[[Bench, str], Awaitable[Check]]


async def try_canary(bench: Bench, canary: Canary) -> Check:
    """Return what the trial showed; a limit that can't be had here is a warning."""
    if lack := bench.trial.lack_of(canary.needs):
        return lacking(canary.name, f"not here: {lack.cause}", lack.remedy)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await canary.run(bench, canary.name)
    except JobError as error:
        return failed_with(canary.name, error)
    except TimeoutError:
        return failed(canary.name, f"no result within {_DEADLINE_S:.0f} s", _BUSY)


# ---------------------------------------------------------------- jobs as such


async def _try_job(bench: Bench, name: str) -> Check:
    ended = await bench.run("cat", "/proc/self/status", "/proc/self/cgroup")
    words = {line.partition(":")[0]: line.split() for line in ended.stdout.splitlines()}
    uid, privileges = words.get("Uid", ["", ""])[1], words.get("NoNewPrivs", ["", ""])[1]
    group = bench.trial.group_of(ended.status.job_id)
    uids = bench.trial.worker.instance.uids
    if privileges != "1":
        return failed(name, "it could gain privileges: no_new_privs is not set", _UPDATE_KERNEL)
    if uid != str(uids.start if uids else os.geteuid()):
        return failed(name, f"it ran as uid {uid}", "run jobd as root in the host's own namespace")
    if group is not None and not ended.stdout.rstrip().endswith(f"/{os.path.basename(group)}"):
        return failed(name, "its first act was outside its cgroup", _UPDATE_KERNEL)
    where = "tracked as subreaper" if group is None else "in a cgroup of its own"
    return good(name, f"runs as uid {uid}, with no_new_privs, {where}", uid=int(uid))


async def _try_kill(bench: Bench, name: str) -> Check:
    stubborn = 'trap "" TERM; for n in 1 2 3; do (sleep 60) & done; echo ready; wait; sleep 60'
    async with bench.running("sh", "-c", stubborn) as job_id:
        await bench.wait_word(job_id)
        began_s = asyncio.get_running_loop().time()
        status = await bench.stop(job_id, grace_ms=200)
        took_s = asyncio.get_running_loop().time() - began_s
        has_group = bench.has_group(job_id)
    if cause_of(status) is not Cause.STOP_KILL or has_group:
        text = f"a job that ignores its stop signal: {describe_end(status)}"
        return failed(name, f"{text}, its cgroup still there: {has_group}", _UPDATE_KERNEL)
    text = f"processes that ignore TERM were killed when their grace was over, in {took_s:.1f} s"
    return good(name, text, seconds=round(took_s, 3))


async def _try_pause(bench: Bench, name: str) -> Check:
    if bench.trial.worker.instance.cgroup_root is None:
        lack = bench.trial.offer.lacks[Controller.PIDS]  # there it is the same for all of them
        return lacking(name, f"not here: {lack.cause}", lack.remedy)
    if "cgroup.freeze" not in bench.trial.offer.files:
        return lacking(name, "not here: this kernel has no cgroup.freeze", "use Linux 5.2 or newer")
    async with bench.running(*_LOOP) as job_id:
        await bench.pause(job_id)
        before = (await bench.sample(job_id)).usage.cpu_us or 0
        await asyncio.sleep(0.4)
        paused = ((await bench.sample(job_id)).usage.cpu_us or 0) - before
        await bench.resume(job_id)
        mark = before + paused + 20_000
        after = await bench.wait_until(job_id, lambda usage: (usage.cpu_us or 0) > mark, 5.0)
        await bench.pause(job_id)
        status = await bench.stop(job_id, grace_ms=0)
    if paused > 20_000 or (after.cpu_us or 0) <= mark or status.outcome is None:
        text = f"it used {paused / 1000:.0f} ms of CPU in 400 ms of pause"
        return failed(name, text, _UPDATE_KERNEL, paused_cpu_us=paused)
    return good(name, "held still, went on, and ended while paused", paused_cpu_us=paused)


# ---------------------------------------------------------------- CPU


async def _try_cpus(bench: Bench, name: str) -> Check:
    async with bench.running(*_LOOP, limits=Limits(cpu_millis=200)) as job_id:
        await asyncio.sleep(0.3)
        one = await bench.sample(job_id)
        await asyncio.sleep(2.2)
        two = await bench.sample(job_id)
    used = ((two.usage.cpu_us or 0) - (one.usage.cpu_us or 0)) / (two.at_s - one.at_s) / 1e6
    throttled = two.usage.cpu_throttled_periods or 0
    text = f"of 0.2 CPUs a busy loop got {used:.3f}, throttled {throttled} times"
    measured = {"cpus": round(used, 4), "throttled_periods": throttled}
    if used > 0.25:
        return failed(name, text, _UPDATE_KERNEL, **measured)
    if not throttled:
        return lacking(name, f"not proven: {text}", _BUSY, **measured)
    return good(name, text, **measured)


async def _try_cpu_weight(bench: Bench, name: str) -> Check:
    loop = await _loop_on_one_cpu(bench)
    if isinstance(loop, JobError):
        return lacking(name, f"not tried: {loop.message}", loop.remedy)
    argv, cpuset = loop
    light, heavy = (Limits(cpu_weight=weight, cpuset=cpuset) for weight in (100, 900))
    async with (
        bench.running(*argv, limits=light) as one,
        bench.running(*argv, limits=heavy) as other,
    ):
        await asyncio.sleep(0.3)
        before = [(await bench.sample(job)).usage.cpu_us or 0 for job in (one, other)]
        await asyncio.sleep(2.0)
        after = [(await bench.sample(job)).usage.cpu_us or 0 for job in (one, other)]
    used = [late - early for early, late in zip(before, after, strict=True)]
    if min(used) < 0 or sum(used) < 200_000:
        return lacking(name, "not proven: both together got hardly any CPU time", _BUSY)
    share = used[0] / sum(used)
    text = f"100 against 900 shared one CPU {share:.0%} to {1 - share:.0%}"
    if not 0.05 <= share <= 0.2:
        return failed(name, text, _UPDATE_KERNEL, light_share=round(share, 4))
    return good(name, text, light_share=round(share, 4))


async def _loop_on_one_cpu(bench: Bench) -> tuple[tuple[str, ...], str | None] | JobError:
    """Return a busy loop that stays on one CPU, the same for all jobs, and the cpuset for it."""
    cpus = os.sched_getaffinity(0)
    if len(cpus) == 1:
        return _LOOP, None
    if bench.trial.lack_of(Limits(cpuset=str(max(cpus)))) is None:
        return _LOOP, str(max(cpus))
    choose = "import os\nos.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
    for python in (sys.executable, "/usr/bin/python3"):
        words = (python, "-I", "-S", "-c")
        with contextlib.suppress(JobError):  # jobs cannot execute it
            if (await bench.run(*words, choose)).status.outcome == Exited(0):
                return (*words, f"{choose}while True: pass"), None
    return JobError(
        Reason.INTERNAL,
        f"jobs cannot execute {sys.executable}, which would keep two of them on one CPU",
        f"let everybody pass the directories above it: chmod o+x {_REAL_PYTHON.parent}",
    )


async def _try_cpuset(bench: Bench, name: str) -> Check:
    cpus = os.sched_getaffinity(0)
    cpu = str(max(cpus))
    ended = await bench.run("cat", "/proc/self/status", limits=Limits(cpuset=cpu))
    found = next(
        (line.split()[1] for line in ended.stdout.splitlines() if "Cpus_allowed_list" in line), ""
    )
    if found != cpu:
        return failed(name, f"bound to CPU {cpu}, it may run on {found}", _UPDATE_KERNEL)
    if len(cpus) == 1:
        return good(name, "this host has one CPU only, so there is nothing to tell apart")
    return good(name, f"bound to CPU {cpu}, it may run there only")


# ---------------------------------------------------------------- memory


async def _try_memory(bench: Bench, name: str) -> Check:
    ended = await bench.run(*_TAKE_MEMORY, limits=Limits(memory_bytes=_MEMORY))
    return _judge_oom(name, ended, Cause.OOM)


def _judge_oom(name: str, ended: Ended, cause: Cause) -> Check:
    size, limit = format_size(_HOG), format_size(_MEMORY)
    swapped = ended.usage.swap_peak_bytes or 0
    if cause_of(ended.status) is not cause:
        text = f"what took {size} under {limit} was not killed and told as {cause}: {ended.end}"
        return failed(name, text, _UPDATE_KERNEL)
    if swapped:
        return failed(name, f"{format_size(swapped)} of it were swapped", "run: swapoff -a")
    peak = ended.usage.memory_peak_bytes
    measured = {} if peak is None else {"peak_bytes": peak}
    return good(name, f"what took {size} under {limit} was killed, told as {cause}", **measured)


async def _try_oom_group(bench: Bench, name: str) -> Check:
    own = Limits(memory_bytes=_MEMORY)
    whole = await bench.run(*_CHILD_TAKES_MEMORY, limits=replace(own, oom_group=True))
    one = await bench.run(*_CHILD_TAKES_MEMORY, limits=replace(own, oom_group=False))
    if cause_of(whole.status) is not Cause.OOM:
        return failed(name, f"with it a child's end left the job: {whole.end}", _UPDATE_KERNEL)
    if one.stdout != "survived\n" or one.status.oom is None or one.status.oom.leader:
        return failed(name, f"without it the job did not survive: {one.end}", _UPDATE_KERNEL)
    return good(name, "a child out of memory ended the whole job, without it only itself")


async def _try_memory_high(bench: Bench, name: str) -> Check:
    # With a limit above it, so that it can't evade into swap.
    limits = Limits(memory_bytes=8 * _MEMORY, memory_high_bytes=_MEMORY)
    async with bench.running(*_TAKE_MEMORY, limits=limits) as job_id:
        await bench.wait_until(job_id, lambda usage: bool(usage.memory_high_events), 20.0)
        await asyncio.sleep(1.0)
        usage = (await bench.sample(job_id)).usage
    events, present = usage.memory_high_events or 0, usage.memory_bytes or 0
    text = (
        f"above {format_size(_MEMORY)} it was slowed {events} times, and had "
        f"{format_size(present)} a second later"
    )
    measured = {"events": events, "memory_bytes": present}
    if not events or not 0 < present <= 1.5 * _MEMORY:
        return failed(name, text, _UPDATE_KERNEL, **measured)
    return good(name, text, **measured)


async def _try_memory_swap(bench: Bench, name: str) -> Check:
    free = free_swap_bytes()
    if free is None:
        return good(name, "this host has no swap: there is nothing to forbid or to allow")
    if free < 3 * _HOG:
        return lacking(name, "not tried: hardly any swap is free", "add swap: swapon FILE")
    limits = Limits(memory_bytes=_MEMORY, memory_swap_bytes=2 * _HOG)
    allowed = await bench.run(*_FIT_INTO_SWAP, limits=limits)
    if allowed.status.outcome != Exited(0):
        return failed(
            name, f"what may swap did not live with its swap: {allowed.end}", _UPDATE_KERNEL
        )
    text = f"{format_size(_HOG)} fit into {format_size(_MEMORY)} and swap"
    return good(name, f"{text}; --memory alone forbids it")


# ---------------------------------------------------------------- processes, and all jobs


async def _try_pids(bench: Bench, name: str) -> Check:
    most = 6
    forks = "n=0; while [ $n -lt 12 ]; do sleep 60 & n=$((n + 1)); done; wait"
    async with bench.running("sh", "-c", forks, limits=Limits(pids=most)) as job_id:
        usage = await bench.wait_until(
            job_id, lambda usage: bool(usage.pids_refused) or (usage.pids or 0) > most, 5.0
        )
        refused, present = usage.pids_refused or 0, usage.pids or 0
        if not refused or present > most:
            text = f"of {most} allowed it has {present} processes, and {refused} forks were refused"
            return failed(name, text, _UPDATE_KERNEL, pids=present, refused=refused)
    return good(name, f"a fork beyond {most} processes was refused", refused=refused)


async def _try_all_jobs(bench: Bench, name: str) -> Check:
    bench.trial.limit_all(Limits(memory_bytes=_MEMORY))
    try:
        return _judge_oom(name, await bench.run(*_TAKE_MEMORY), Cause.OOM_ABOVE)
    finally:
        bench.trial.limit_all(NO_LIMITS)


_ONE_MEMORY: Final = Limits(memory_bytes=_MEMORY)

GROUPS: Final = (
    (Canary("a job", NO_LIMITS, _try_job),),
    (
        Canary("stop and kill", NO_LIMITS, _try_kill),
        Canary("pause and resume", NO_LIMITS, _try_pause),
    ),
    (
        Canary("--cpus", Limits(cpu_millis=200), _try_cpus),
        Canary("--cpuset", Limits(cpuset="0"), _try_cpuset),
        Canary("--pids", Limits(pids=8), _try_pids),
    ),
    (Canary("--cpu-weight", Limits(cpu_weight=100), _try_cpu_weight),),
    (
        Canary("--memory", _ONE_MEMORY, _try_memory),
        Canary("--oom-group", replace(_ONE_MEMORY, oom_group=True), _try_oom_group),
        Canary("--memory-high", Limits(memory_high_bytes=_MEMORY), _try_memory_high),
        Canary(
            "--memory-swap", replace(_ONE_MEMORY, memory_swap_bytes=2 * _MEMORY), _try_memory_swap
        ),
    ),
)
"""Those of a group run beside each other; they take too little to falsify each other's result."""

LAST: Final = (Canary("all jobs together", _ONE_MEMORY, _try_all_jobs),)
