"""Servers side by side, servers in each other's way, and how a server ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import MakeInstance
from tests.support import (
    BIN,
    DEADLINE_S,
    Instance,
    all_pids,
    eventually,
    is_alive,
    jobd,
    processes_of,
)


def kill_all(instance: Instance) -> None:
    for pid in instance.processes():
        with suppress(ProcessLookupError):  # a keeper may have ended with its job
            os.kill(pid, signal.SIGKILL)
    instance.kill()


ENDS: dict[str, Callable[[Instance], None]] = {
    "stop": lambda instance: instance.stop(),
    "kill": lambda instance: instance.kill(),
    "kill all": kill_all,
    "stop with jobs": lambda instance: instance.stop(jobs=True),
}


def test_what_happens_to_one_instance_leaves_the_other_alone(make_instance: MakeInstance) -> None:
    one, other = make_instance("one"), make_instance("other")
    theirs = other.admin.start("sleep", "600")
    before = other.processes() | {other.pid}

    def assert_untouched() -> None:
        assert other.processes() | {other.pid} == before
        assert other.admin.status(theirs) == "running"

    for end in ENDS.values():
        ours = one.admin.start("sleep", "600")
        end(one)
        assert_untouched()
        one.start()  # what it recovers is its own
        assert_untouched()
        assert one.admin.run("status", theirs).returncode == 1
        assert other.admin.run("status", ours).returncode == 1
    assert one.job_ids().isdisjoint(other.job_ids())
    assert other.admin.start("true")


def serve(config: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a server that is expected to end by itself."""
    return jobd("serve", "--config", config, home=config.parent, timeout=DEADLINE_S)


def assert_one_sentence(done: subprocess.CompletedProcess[bytes], *words: str) -> None:
    """Prove that it was refused with one line, which says all of `words`."""
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.startswith("jobd: cannot "), text
    assert text.count("\n") == 1, text
    for word in words:
        assert word in text


def test_a_second_server_of_one_state_directory_is_refused(instance: Instance) -> None:
    job = instance.admin.start("sleep", "600")
    pid = instance.monitor_pid

    assert_one_sentence(serve(instance.config_path), "state", str(pid))

    assert instance.admin.status(job) == "running"
    assert instance.admin.start("true")


def test_a_second_server_of_one_port_is_refused(make_instance: MakeInstance) -> None:
    first = make_instance("first")
    job = first.admin.start("sleep", "600")

    def at_the_first_ones_port(config: str) -> str:
        return config.replace(f":{second_port}", f":{first.port}")

    with Instance(first.directory.with_name("second"), serve=False) as second:
        second_port = second.port
        config = second.config_path
        config.write_text(at_the_first_ones_port(config.read_text()))

        assert_one_sentence(serve(config), f"127.0.0.1:{first.port}", "in use")

        assert second.spawner_pid() is None
    assert first.admin.status(job) == "running"
    assert first.admin.start("true")


def test_jobs_live_on_when_the_server_is_stopped(instance: Instance) -> None:
    client = instance.admin
    job = client.start("sleep", "600")
    payload = processes_of(job)

    instance.stop()

    assert instance.spawner_pid() is None
    assert processes_of(job) == payload
    refused = client.run("status", job)
    assert refused.returncode == 125
    instance.start()
    assert client.status(job) == "running"
    assert processes_of(job) == payload
    client.stop(job, "--grace", "0s")


def test_a_terminated_server_ends_with_0_and_its_jobs_live_on(instance: Instance) -> None:
    job = instance.admin.start("sleep", "600")

    assert instance.terminate() == 0

    assert processes_of(job)
    instance.start()
    assert instance.admin.status(job) == "running"


# Says so when it is asked to end, so that a stop with its signal and one without can be told apart.
POLITE = "trap 'echo ending; exit 3' TERM; echo ready; while :; do sleep 0.05; done"


def start_polite(instance: Instance) -> str:
    job = instance.admin.start("--", "sh", "-c", POLITE)
    eventually(lambda: instance.admin.logs_raw(job, "--no-follow")[0] == b"ready\n")
    return job


def assert_ended_politely(instance: Instance, job: str) -> None:
    assert processes_of(job) == set()
    instance.start()
    assert instance.admin.status(job) == "finished (exit code: 3)"
    assert instance.admin.logs_raw(job)[0] == b"ready\nending\n"


def test_stop_with_jobs_ends_them_and_the_server(instance: Instance) -> None:
    job = start_polite(instance)
    stubborn = instance.admin.start(
        *("--grace", "100ms", "--", "sh", "-c", "trap '' TERM; sleep 600 & wait; sleep 600")
    )

    instance.stop(jobs=True)

    assert instance.processes() == set()
    assert_ended_politely(instance, job)
    assert instance.admin.status(stubborn) == "stopped (signal: 9)"


def test_stop_with_jobs_ends_those_that_a_dead_server_left(instance: Instance) -> None:
    job = start_polite(instance)
    instance.kill()

    instance.stop(jobs=True)

    assert instance.processes() == set()
    assert_ended_politely(instance, job)


def test_stop_ends_the_spawner_that_a_dead_server_left(instance: Instance) -> None:
    job = instance.admin.start("sleep", "600")
    instance.kill()

    instance.stop()

    assert instance.spawner_pid() is None
    assert processes_of(job)


@pytest.mark.parametrize("flags", [[], ["--jobs"]])
def test_stop_where_nothing_runs_is_no_error(instance: Instance, flags: list[str]) -> None:
    instance.stop(jobs=True)

    done = jobd("stop", "--config", instance.config_path, *flags, home=instance.directory)

    assert (done.returncode, done.stdout) == (0, b"")
    assert instance.processes() == set()


def test_stop_before_the_first_serve_is_no_error(make_instance: MakeInstance) -> None:
    instance = make_instance(serve=False)

    done = jobd("stop", "--config", instance.config_path, home=instance.directory)

    assert done.returncode == 0, done.stderr


def test_nothing_holds_the_pipe_that_a_stopped_server_wrote_to(make_instance: MakeInstance) -> None:
    # As in `make demo | cat`, which must end though a job goes on.
    instance = make_instance(serve=False)
    reader, writer = os.pipe()
    server = subprocess.Popen(
        [BIN / "jobd", "serve", "--config", instance.config_path],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
    )
    os.close(writer)
    with open(reader, "rb", buffering=0) as output:
        seen = b""
        while b"serving on" not in seen:
            data = output.read(65536)
            assert data, seen
            seen += data
        job = instance.admin.start("sleep", "600")

        begin = time.monotonic()
        server.terminate()
        while output.read(65536):
            pass

    assert time.monotonic() - begin < 20
    assert server.wait(DEADLINE_S) == 0
    payload = processes_of(job)
    assert payload
    assert all(is_alive(pid) for pid in payload)
    done = jobd("stop", "--jobs", "--config", instance.config_path, home=instance.directory)
    assert done.returncode == 0
    assert payload.isdisjoint(all_pids())
