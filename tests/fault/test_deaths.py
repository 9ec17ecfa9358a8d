"""SIGKILL to each process of an instance: what it costs, and what it must not cost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobruntime.model.frames import segment_name
from tests.support import Client, Instance, eventually, is_alive, processes_of

# Counts until there is a file named "end" in its directory, then ends with the code $0.
COUNT = "i=0; until [ -e end ]; do i=$((i + 1)); echo $i; sleep 0.002; done; exit $0"
LOST = "lost (its keeper died)"


@pytest.fixture
def alice(instance: Instance) -> Client:
    return instance.issue("alice", "user")


def start_counting(client: Client, exit_code: int = 0) -> str:
    """Start a job that counts, and return once it does."""
    job = client.start("--", "sh", "-c", COUNT, str(exit_code))
    wait_for_more(client.instance, job)
    return job


def wait_for_more(instance: Instance, job: str) -> None:
    """Return once the job's log has grown."""
    log = instance.jobs_dir / job / segment_name(0)
    size = log.stat().st_size
    eventually(lambda: log.stat().st_size > size, what="more output")


def let_end(instance: Instance, job: str) -> None:
    Path(instance.work_dir, job, "end").touch()


def assert_is_sequence(data: bytes) -> None:
    """Prove that nothing is missing, doubled, or out of order."""
    numbers = [int(word) for word in data.split()]
    assert numbers
    assert numbers == list(range(1, len(numbers) + 1))
    assert data.endswith(b"\n")


def kill(pid: int | None) -> None:
    """SIGKILL the process and wait until it is gone."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))


def assert_nothing_lives(instance: Instance, *jobs: str) -> None:
    for job in jobs:
        assert processes_of(job) == set()
    assert instance.job_cgroups().isdisjoint(jobs)
    assert not any((instance.runtime_dir / "keepers" / job).exists() for job in jobs)


def test_a_killed_server_costs_no_job_anything(instance: Instance, alice: Client) -> None:
    ended, went_on, stopped = (start_counting(alice, exit_code) for exit_code in (7, 3, 0))
    payloads = {job: processes_of(job) for job in (went_on, stopped)}

    instance.kill()
    for job in (ended, went_on, stopped):
        wait_for_more(instance, job)
    let_end(instance, ended)
    eventually((instance.jobs_dir / ended / "outcome.json").exists)
    instance.start()

    assert alice.status(ended) == "finished (exit code: 7)"
    assert alice.status(went_on) == alice.status(stopped) == "running"
    for job in (ended, went_on, stopped):
        assert alice.status_json(job)["owner"] == "alice"
    for job, payload in payloads.items():
        assert payload & processes_of(job), "not the process that was there before"
    alice.stop(stopped)
    assert alice.status(stopped) == "stopped (signal: 15)"
    wait_for_more(instance, went_on)
    let_end(instance, went_on)
    for job in (ended, went_on, stopped):
        stdout, stderr = alice.logs_raw(job)
        assert_is_sequence(stdout)
        assert stderr == b""
    assert alice.status(went_on) == "finished (exit code: 3)"


def test_a_follower_lives_through_the_servers_death(instance: Instance, alice: Client) -> None:
    job = start_counting(alice)
    with alice.popen("logs", "--raw", job) as follower:
        assert follower.stdout is not None
        first = os.read(follower.stdout.fileno(), 64)

        for _ in range(2):
            instance.kill()
            wait_for_more(instance, job)
            instance.start()
            wait_for_more(instance, job)
        let_end(instance, job)
        rest, stderr = follower.communicate(timeout=60)

    assert follower.returncode == 0, stderr
    assert first + rest == alice.logs_raw(job)[0]
    assert_is_sequence(first + rest)


def test_names_and_request_ids_outlive_the_server(instance: Instance, alice: Client) -> None:
    words = ("--name", "nightly", "--request-id", "once", "sleep", "600")
    job = alice.start(*words)

    instance.kill()
    instance.start()

    assert alice.start(*words) == job
    assert alice.status("nightly") == "running"
    assert alice.run("start", "--name", "nightly", "true").returncode == 1
    alice.stop("nightly", "--grace", "0s")


def test_a_killed_spawner_costs_nothing(instance: Instance, alice: Client) -> None:
    before = start_counting(alice)
    spawner = instance.spawner_pid()

    kill(spawner)
    after = start_counting(alice)

    assert instance.spawner_pid() not in (None, spawner)
    wait_for_more(instance, before)
    for job in (before, after):
        assert alice.status(job) == "running"
        let_end(instance, job)
        assert_is_sequence(alice.logs_raw(job)[0])
        assert alice.status(job) == "finished (exit code: 0)"


def test_a_spawner_that_died_with_the_server_is_replaced(instance: Instance, alice: Client) -> None:
    job = start_counting(alice)
    spawner = instance.spawner_pid()

    instance.kill()
    kill(spawner)
    instance.start()

    assert instance.spawner_pid() not in (None, spawner)
    assert alice.start("true")
    let_end(instance, job)
    assert_is_sequence(alice.logs_raw(job)[0])


def test_a_spawner_outlives_the_server_and_serves_the_next(
    instance: Instance, alice: Client
) -> None:
    spawner = instance.spawner_pid()

    instance.kill()
    instance.start()

    assert alice.start("true")
    assert instance.spawner_pid() == spawner


def test_a_killed_keeper_costs_its_own_job_alone(instance: Instance, alice: Client) -> None:
    neighbour = start_counting(alice)
    # With a process that left the session, as a daemon does.
    job = alice.start("--", "sh", "-c", "echo before; setsid sleep 600 & exec sleep 600")
    eventually(lambda: len(processes_of(job)) == 2)
    wait_for_output(alice, job, b"before\n")

    kill(instance.keeper_of(job))
    eventually(lambda: alice.status(job) == LOST, what=LOST)

    assert_nothing_lives(instance, job)
    done = alice.run("logs", "--raw", job)
    assert (done.returncode, done.stdout) == (1, b"before\n")
    assert b"may be incomplete" in done.stderr
    alice.stop(job)  # it has ended: no error
    assert alice.status(job) == LOST
    let_end(instance, neighbour)
    assert_is_sequence(alice.logs_raw(neighbour)[0])
    assert alice.status(neighbour) == "finished (exit code: 0)"


def wait_for_output(client: Client, job: str, data: bytes) -> None:
    eventually(lambda: client.logs_raw(job, "--no-follow")[0] == data)


def test_a_follower_is_told_that_the_keeper_died(instance: Instance, alice: Client) -> None:
    job = alice.start("--", "sh", "-c", "echo before; exec sleep 600")
    with alice.popen("logs", "--raw", job) as follower:
        assert follower.stdout is not None
        assert os.read(follower.stdout.fileno(), 64) == b"before\n"

        kill(instance.keeper_of(job))
        rest, stderr = follower.communicate(timeout=60)

    assert (follower.returncode, rest) == (1, b"")
    assert b"may be incomplete" in stderr


def test_a_stop_that_waits_is_answered_when_the_keeper_dies(
    instance: Instance, alice: Client
) -> None:
    job = alice.start("--grace", "1h", "--", "sh", "-c", "trap '' TERM; echo set; sleep 600")
    wait_for_output(alice, job, b"set\n")
    with alice.popen("stop", job) as stop:
        eventually(lambda: alice.status(job) == "stopping")

        kill(instance.keeper_of(job))
        _, stderr = stop.communicate(timeout=60)

    assert (stop.returncode, stderr) == (0, b"")
    assert alice.status(job) == LOST
    assert_nothing_lives(instance, job)


def test_a_keeper_that_died_without_a_server_is_noticed_by_the_next(
    instance: Instance, alice: Client
) -> None:
    job, neighbour = start_counting(alice), start_counting(alice)
    keeper = instance.keeper_of(job)

    instance.kill()
    kill(keeper)
    instance.start()

    assert alice.status(job) == LOST
    assert_nothing_lives(instance, job)
    assert alice.status(neighbour) == "running"
    assert alice.run("logs", "--raw", job).returncode == 1
    alice.stop(neighbour, "--grace", "0s")


def test_all_killed_at_once_leaves_nothing_behind(instance: Instance, alice: Client) -> None:
    jobs = [alice.start("--", "sh", "-c", "setsid sleep 600 & exec sleep 600") for _ in range(3)]
    jobs.append(start_counting(alice))
    done = alice.start("sh", "-c", "exit 5")
    eventually(lambda: alice.status(done) == "finished (exit code: 5)")
    own = [instance.spawner_pid(), *(instance.keeper_of(job) for job in jobs)]

    for pid in (instance.pid, *own):
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    instance.kill()
    instance.start()

    for job in jobs:
        assert alice.status(job) == LOST
    assert alice.status(done) == "finished (exit code: 5)"
    assert_nothing_lives(instance, *jobs)
    assert alice.start("true")


def test_a_job_whose_keeper_hangs_is_killed_all_the_same(instance: Instance, alice: Client) -> None:
    job = alice.start("sleep", "600")
    keeper = instance.keeper_of(job)
    assert keeper is not None
    os.kill(keeper, signal.SIGSTOP)
    refused = alice.run("stop", "--grace", "0", job)
    assert refused.returncode == 1
    assert b"its keeper says nothing" in refused.stderr
    # The payload is dead, if not reaped: that its keeper still has to do.
    assert all(not Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(job))
    os.kill(keeper, signal.SIGCONT)
    alice.stop(job)
    assert alice.status(job) == "stopped (signal: 9)"
