"""Every way in which a job can lose a process, or its life: each is told as what it was."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.limits.payloads import SLEEP, hoard, hog_limit, limits, taking, wait_output
from tests.support import MIB, RUN_S, Api, Client, Instance, eventually, processes_of

ALL_MIB = 96
HOG = hoard(32 * MIB)
WAIT = "until [ -e {name} ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def capped(disk: Path) -> Iterator[Instance]:
    """An instance whose jobs have so much memory together."""

    def edit(text: str) -> str:
        return f'{text}\n[limits.all]\nmemory = "{ALL_MIB}M"\n'

    with Instance(disk / "capped", edit=edit) as instance:
        yield instance


@pytest.fixture
def carol(capped: Instance, isolation: str) -> Client:
    return capped.issue("carol", "user").isolated(isolation)


@pytest.fixture
def api(carol: Client) -> Iterator[Api]:
    with carol.api() as api:
        yield api


def touch(api_user: Client, job: str, name: str) -> None:
    """Make the file for which the job waits."""
    Path(api_user.instance.work_dir, job, name).touch()


def oom(scope: int, kills: int, *, leader: bool) -> pb.Oom:
    return pb.Oom(scope=scope, kills=kills, leader=leader)  # type: ignore[arg-type]


def test_a_leader_out_of_memory_ends_its_job(api: Api) -> None:
    for as_group in (True, False):
        bounds = limits(memory_bytes=16 * MIB, oom_group=as_group)
        status = api.wait(api.start("sh", "-c", HOG, limits=bounds))
        assert status.outcome == pb.Outcome(signal=9)
        assert status.cause == pb.END_CAUSE_OOM
        assert (status.oom.scope, status.oom.leader) == (pb.OOM_SCOPE_JOB, True)
        assert not status.killed


def test_a_child_out_of_memory_takes_the_whole_job_with_it_unless_told_otherwise(api: Api) -> None:
    job = api.start("sh", "-c", f"({HOG}); echo survived", limits=hog_limit())
    log = api.logs(job)
    assert log.stdout == b""
    assert log.end is not None
    assert log.end.status.outcome == pb.Outcome(signal=9)
    assert log.end.status.cause == pb.END_CAUSE_OOM
    assert log.end.status.oom.leader


def test_children_out_of_memory_are_told_each_while_their_leader_lives(
    carol: Client, api: Api
) -> None:
    # A child of the leader's child: the leader learns nothing of its end but an exit code.
    script = f"""
    ({HOG}); echo one $?; {WAIT.format(name="again")}
    ({HOG}); echo two $?; {WAIT.format(name="end")}; exit 3
    """
    job = api.start("sh", "-c", script, limits=limits(memory_bytes=16 * MIB, oom_group=False))
    wait_output(api, job, b"one 137\n")
    once = eventually(lambda: (now := api.status(job)).HasField("oom") and now, what="the first")
    assert once.state == pb.JOB_STATE_RUNNING
    assert once.cause == pb.END_CAUSE_UNSPECIFIED
    assert once.oom == oom(pb.OOM_SCOPE_JOB, 1, leader=False)
    told = carol.output("status", "-o", "wide", job).decode()
    assert "killed a child of it (oom_kill: 1); the job goes on" in told
    touch(carol, job, "again")
    wait_output(api, job, b"two 137\n")
    eventually(lambda: api.status(job).oom.kills == 2, what="the second")
    touch(carol, job, "end")
    status = api.wait(job)
    assert status.outcome == pb.Outcome(exit_code=3)
    assert status.cause == pb.END_CAUSE_EXITED
    assert status.oom == oom(pb.OOM_SCOPE_JOB, 2, leader=False)


def test_a_foreign_kill_after_a_childs_oom_is_no_oom(carol: Client, api: Api) -> None:
    script = f"({HOG}); echo one; {WAIT.format(name='end')}; sleep 1.5; kill -9 $$"
    job = api.start("sh", "-c", script, limits=limits(memory_bytes=16 * MIB, oom_group=False))
    wait_output(api, job, b"one\n")
    touch(carol, job, "end")
    status = api.wait(job)
    assert (status.outcome, status.cause) == (pb.Outcome(signal=9), pb.END_CAUSE_SIGNAL)
    assert status.oom == oom(pb.OOM_SCOPE_JOB, 1, leader=False)


def test_a_job_killed_at_the_limit_of_all_jobs_is_told_apart_from_one_at_its_own(
    capped: Instance, api: Api
) -> None:
    neighbours = [api.start(*SLEEP, limits=hog_limit(4)), api.start(*SLEEP)]
    alive = [processes_of(job) for job in neighbours]
    for bounds in (pb.Limits(), hog_limit(4 * ALL_MIB)):
        status = api.wait(api.start(*taking(2 * ALL_MIB * MIB), limits=bounds))
        assert status.outcome == pb.Outcome(signal=9)
        assert status.cause == pb.END_CAUSE_OOM_ABOVE
        assert status.oom.scope == pb.OOM_SCOPE_ABOVE
        assert status.oom.leader
    status = api.wait(api.start("sh", "-c", HOG, limits=hog_limit()))
    assert status.cause == pb.END_CAUSE_OOM
    assert [processes_of(job) for job in neighbours] == alive
    for job in neighbours:
        assert not api.stop(job, grace_ms=0).HasField("oom")


JOBC_AGAIN_AND_AGAIN = """
import sys
from jobruntime.cli.main import run
for job in sys.argv[1:]:
    for form in "json", "wide":
        assert run(["status", "-o", form, job]) == 0
        print("\\0", end="", flush=True)
"""


def told_by_jobc(client: Client, jobs: list[str]) -> dict[str, tuple[str, str]]:
    """Return what `jobc status` prints of each job, as JSON and to read.

    In one process: loading gRPC two dozen times costs a guest a minute.
    """
    done = subprocess.run(
        [sys.executable, "-c", JOBC_AGAIN_AND_AGAIN, *jobs],
        env=client.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.split("\0")
    return dict(zip(jobs, zip(told[::2], told[1::2], strict=False), strict=True))


def facts_of(told: str) -> str:
    """Return what a status in JSON tells of a job's end."""
    status = json.loads(told)
    stop = status["stop_requested"] or {"grace_ms": None}
    return str([status[key] for key in ("outcome", "cause", "oom", "killed")] + [stop["grace_ms"]])


def lines_of(told: str) -> str:
    """Return what a status to read tells of a job's end, without the time."""
    lines = re.findall(r"^(?:Status|Cause): +(.*)$", told, re.MULTILINE)
    return re.sub(r" at \S+ with", " with", "; ".join(lines))


def test_no_two_ends_are_told_alike(carol: Client, api: Api) -> None:
    """Every end beside every other, as `jobc status` prints them."""
    alone = limits(memory_bytes=16 * MIB, oom_group=False)
    deaf = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    ends = {
        "oom": api.start("sh", "-c", HOG, limits=hog_limit()),
        "oom_above": api.start(*taking(2 * ALL_MIB * MIB)),
        "oom of a child": api.start("sh", "-c", f"({HOG}); exit 0", limits=alone),
        "oom of two children": api.start("sh", "-c", f"({HOG}); ({HOG}); exit 0", limits=alone),
        "exit code 137": api.start("sh", "-c", "exit 137"),
        "exit code 0": api.start("true"),
        "killed from outside": api.start(*SLEEP),
        "stopped": api.start(*SLEEP),
        "killed by a stop": api.start(*deaf),
        "killed at once": api.start(*SLEEP),
        "timeout": api.start(*SLEEP, timeout_ms=100),
        "timeout, killed": api.start(*deaf, timeout_ms=1000, grace_ms=100),
    }
    [pid] = processes_of(ends["killed from outside"])
    os.kill(pid, signal.SIGKILL)
    wait_output(api, ends["killed by a stop"], b"ready\n")
    api.stop(ends["stopped"])
    api.stop(ends["killed by a stop"], grace_ms=100)
    api.stop(ends["killed at once"], grace_ms=0)
    causes = {name: api.wait(job).cause for name, job in ends.items()}
    assert causes == {
        "oom": pb.END_CAUSE_OOM,
        "oom_above": pb.END_CAUSE_OOM_ABOVE,
        "oom of a child": pb.END_CAUSE_EXITED,
        "oom of two children": pb.END_CAUSE_EXITED,
        "exit code 137": pb.END_CAUSE_EXITED,
        "exit code 0": pb.END_CAUSE_EXITED,
        "killed from outside": pb.END_CAUSE_SIGNAL,
        "stopped": pb.END_CAUSE_STOP,
        "killed by a stop": pb.END_CAUSE_STOP_KILL,
        "killed at once": pb.END_CAUSE_STOP_KILL,
        "timeout": pb.END_CAUSE_TIMEOUT,
        "timeout, killed": pb.END_CAUSE_TIMEOUT_KILL,
    }
    told = told_by_jobc(carol, list(ends.values()))
    as_json = {name: facts_of(told[job][0]) for name, job in ends.items()}
    as_text = {name: lines_of(told[job][1]) for name, job in ends.items()}
    assert len(set(as_json.values())) == len(ends), as_json
    assert len(set(as_text.values())) == len(ends), as_text
    foreign = "stopped (signal: 9); killed by SIGKILL, and not by a stop or a limit of this server"
    assert as_text["killed from outside"] == foreign
    assert "stop requested by carol" in as_text["killed by a stop"]
    assert as_text["exit code 137"] == "finished (exit code: 137); it ended by itself"
