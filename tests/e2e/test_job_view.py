"""What a job finds itself in: nothing of the server's, and the same wherever that was started."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruntime.rpc.tls import grpc
from tests.support import (
    IS_ROOT,
    Api,
    Client,
    Instance,
    MakeInstance,
    eventually,
    processes_of,
    public_directory,
    status_fields,
)

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def alice(alice: Client, isolation: str) -> Client:
    """A user whose jobs are bare, and then isolated: their course must be the same."""
    return alice.isolated(isolation)


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """Give a directory that every job can reach, with a program that is nowhere else."""
    with public_directory() as directory:
        (directory / "greet").write_text('#!/bin/sh\necho "hello from $0"\n')
        (directory / "greet").chmod(0o755)
        yield directory


def output(client: Client, *argv: str, **fields: object) -> str:
    """Run a job that must succeed and return what it wrote."""
    with client.api() as api:
        log = api.logs(api.start(*argv, **fields))
    assert log.end is not None
    assert log.end.status.outcome.WhichOneof("kind") == "exit_code"
    assert (log.end.status.outcome.exit_code, log.stderr) == (0, b"")
    return log.stdout.decode()


def test_a_job_has_no_descriptor_but_its_standard_three(alice: Client) -> None:
    # Seen by another process, because whoever looks at its own opens one for that.
    assert output(alice, "sh", "-c", "ls /proc/$$/fd; :").split() == ["0", "1", "2"]
    with alice.api() as api:
        job = api.start("sleep", "600")
        (pid,) = processes_of(job)
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        api.stop(job, grace_ms=0)


def test_a_job_has_the_environment_that_was_asked_for_and_nothing_of_the_servers(
    alice: Client,
) -> None:
    with alice.api() as api:
        job = api.start("env", env={"LEVEL": "3", "EMPTY": "", "WORDS": "a b=c\nd"})
        stdout = api.logs(job).stdout.decode()
        status = api.status(job)
    home = f"{alice.instance.work_dir}/{job}"
    assert sorted(stdout.splitlines()) == sorted(
        [
            *(f"PATH={DEFAULT_PATH}", f"HOME={home}", f"TMPDIR={home}", f"JOB_ID={job}"),
            *(f"USER={status.user}", f"LOGNAME={status.user}"),
            *("LEVEL=3", "EMPTY=", "WORDS=a b=c", "d"),
        ]
    )


def test_jobc_passes_variables_of_its_own_only_when_told(alice: Client) -> None:
    job = alice.start("-e", "LANG", "--env", "A=1", "-e", "A=2", "-e", "NOT_SET_HERE", "env")
    names = dict(line.split("=", 1) for line in alice.logs_raw(job)[0].decode().splitlines())
    assert set(names) == {*("PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "JOB_ID"), "LANG", "A"}
    assert (names["LANG"], names["A"]) == (alice.env["LANG"], "2")


def test_a_given_variable_takes_the_place_of_a_default(alice: Client) -> None:
    given = {"PATH": "/nowhere", "HOME": "/", "JOB_ID": "mine", "USER": "me", "LOGNAME": "i"}
    given["TMPDIR"] = "/var/tmp"
    text = output(alice, "/usr/bin/env", env=given)
    assert dict(line.split("=", 1) for line in text.splitlines()) == given


def view(api: Api) -> dict[str, str]:
    """Return what /proc/self/status tells a job."""
    text = api.logs(api.start("cat", "/proc/self/status")).stdout.decode()
    return {name: value.strip() for name, _, value in (s.partition(":") for s in text.splitlines())}


def assert_clean(fields: dict[str, str]) -> None:
    for key in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(fields[key], 16) == 0, key
    assert fields["NoNewPrivs"] == "1"


def test_a_job_begins_with_default_signals_and_can_gain_no_privileges(alice: Client) -> None:
    with alice.api() as api:
        assert_clean(view(api))


@pytest.mark.parametrize(
    "wrap",
    [
        ("nohup",),
        ("env", "--ignore-signal=TERM,HUP,USR1,QUIT", "--block-signal=USR1,ALRM"),
        ("setsid", "env", "--ignore-signal"),
    ],
    ids=["nohup", "ignored and blocked", "all ignored"],
)
def test_what_the_server_was_started_with_does_not_reach_its_jobs(
    make_instance: MakeInstance, wrap: tuple[str, ...]
) -> None:
    alice = make_instance(wrap=wrap).issue("alice", "user")
    with alice.api() as api:
        assert_clean(view(api))
        job = api.start("sleep", "600")
        assert api.stop(job).outcome.signal == 15


@pytest.mark.skipif(not IS_ROOT, reason="only root gives jobs a user of their own")
def test_a_job_runs_as_its_owners_user_with_no_other_group(alice: Client) -> None:
    with alice.api() as api:
        fields = view(api)
    uids = set(fields["Uid"].split())
    assert len(uids) == 1
    assert uids == set(fields["Gid"].split())
    config = alice.instance.config
    assert int(uids.pop()) in range(config.uid_first, config.uid_first + config.uid_count)
    assert fields["Groups"] == ""
    for key in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(fields[key], 16) == 0, key


def test_a_job_reads_the_end_of_its_input_at_once(alice: Client) -> None:
    assert output(alice, "sh", "-c", "cat; echo done") == "done\n"


def test_a_job_begins_in_a_writable_home_that_nobody_else_sees(alice: Client) -> None:
    script = 'umask; pwd; [ "$PWD" = "$HOME" ]; stat -c %a .; >file; stat -c %a file'
    with alice.api() as api:
        job = api.start("sh", "-ec", script)
        lines = api.logs(job).stdout.decode().split()
    assert lines == ["0077", f"{alice.instance.work_dir}/{job}", "700", "600"]


def test_a_job_has_no_terminal_and_leads_its_own_session(alice: Client) -> None:
    assert output(alice, "sh", "-c", "(: </dev/tty) 2>/dev/null || echo none") == "none\n"
    with alice.api() as api:
        job = api.start("sleep", "600")
        (pid,) = processes_of(job)
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        group, session, terminal = int(stat[2]), int(stat[3]), int(stat[4])
        assert (group, session, terminal) == (pid, pid, 0)
        api.stop(job, grace_ms=0)


def test_a_job_may_begin_in_a_given_directory(alice: Client, programs: Path) -> None:
    job = alice.start("-w", programs, "pwd")
    assert alice.logs_raw(job) == (f"{programs}\n".encode(), b"")


def test_a_program_without_slash_is_looked_up_in_the_jobs_own_path(
    alice: Client, programs: Path
) -> None:
    path = f"/nowhere:{programs}:/usr/bin:/bin"
    assert output(alice, "greet", env={"PATH": path}) == f"hello from {programs}/greet\n"
    with alice.api() as api:
        refusal = api.refused(lambda: api.start("true", env={"PATH": "/nowhere"}))
    assert refusal.reason == "PROGRAM_NOT_FOUND"


def test_a_program_with_a_slash_is_found_from_the_jobs_directory(
    alice: Client, programs: Path
) -> None:
    job = alice.start("-w", programs, "./greet")
    assert alice.logs_raw(job)[0] == b"hello from ./greet\n"


def test_a_job_that_writes_to_a_closed_pipe_dies_of_it_as_it_should(alice: Client) -> None:
    text = output(alice, "bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}")
    assert text == "y\n141\n"


def argument_room(instance: Instance, job_env: dict[str, str]) -> int:
    """Return how many bytes of arguments fit beside the environment (execve(2)).

    A quarter of the stack limit, less a pointer for each string, which the caller subtracts.
    """
    limits = Path(f"/proc/{instance.pid}/limits").read_text()
    stack = next(line for line in limits.splitlines() if line.startswith("Max stack size"))
    soft = stack.split()[3]
    room = 6 * 1024 * 1024 if soft == "unlimited" else min(int(soft) // 4, 6 * 1024 * 1024)
    return room - sum(len(f"{k}={v}") + 1 + 8 for k, v in job_env.items())


def arguments(total: int) -> list[str]:
    """Return arguments that take `total` bytes: their text, a NUL and a pointer for each."""
    size = 100_000
    whole, rest = divmod(total, size + 9)
    return ["x" * size] * whole + ["y" * (rest - 9)] * (rest >= 9)


def test_arguments_up_to_the_kernels_limit_are_taken_and_more_are_refused(
    alice: Client,
) -> None:
    instance = alice.instance
    job_env = {
        "PATH": DEFAULT_PATH,
        "HOME": f"{instance.work_dir}/{'0' * 36}",
        "TMPDIR": f"{instance.work_dir}/{'0' * 36}",
        "USER": "1234567890",
        "LOGNAME": "1234567890",
        "JOB_ID": "0" * 36,
    }
    program = "/bin/echo"
    room = argument_room(instance, job_env) - 2 * (len(program) + 1) - 8
    with alice.api() as api:
        fitting = arguments(room - 512)
        log = api.logs(api.start(program, *fitting))
        assert log.stdout == " ".join(fitting).encode() + b"\n"

        jobs, groups = instance.job_ids(), instance.job_cgroups()
        refusal = api.refused(lambda: api.start(program, *arguments(room + 4096)))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.reason == "SPEC_TOO_LARGE"
        assert refusal.message == (
            "cannot start the job: its arguments and environment are larger than Linux takes"
        )
        # Environment and arguments share the room.
        env = {f"V{n}": "z" * 100_000 for n in range(room // 200_000)}
        words = arguments(room // 2 + 200_000)
        assert api.refused(lambda: api.start(program, *words, env=env)).reason == "SPEC_TOO_LARGE"
        # Beyond what any Linux takes the server need not even try.
        refusal = api.refused(lambda: api.start(program, *arguments(6_400_000)))
        assert refusal.reason == "SPEC_TOO_LARGE"
        eventually(lambda: instance.job_cgroups() <= groups)
        assert instance.job_ids() == jobs


def test_jobc_takes_arguments_near_the_limit(alice: Client) -> None:
    words = arguments(1_900_000)
    job = alice.start("echo", *words)
    assert alice.logs_raw(job)[0] == " ".join(words).encode() + b"\n"


def test_one_argument_may_be_as_long_as_linux_takes_and_no_longer(alice: Client) -> None:
    longest = "x" * (128 * 1024 - 1)
    assert output(alice, "echo", longest) == longest + "\n"
    with alice.api() as api:
        refusal = api.refused(lambda: api.start("echo", "x" * (130 * 1024)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SPEC_TOO_LARGE")
    assert "one argument or variable has 133120 bytes, and Linux takes 131071" in refusal.message


def test_an_argument_that_is_no_text_reaches_the_job_unchanged(alice: Client) -> None:
    word = bytes(range(1, 256))
    job = alice.start("printf", "%s", word)
    assert alice.logs_raw(job)[0] == word
    with alice.api() as api:
        assert list(api.status(job).argv) == [b"printf", b"%s", word]


def test_a_job_has_a_modest_number_of_descriptors_as_any_program_expects(alice: Client) -> None:
    soft, hard = output(alice, "sh", "-c", "ulimit -Sn; ulimit -Hn").split()
    assert int(soft) == 1024 <= int(hard)


def test_the_spawner_shows_none_of_the_servers_environment(alice: Client) -> None:
    spawner = alice.instance.spawner_pid()
    assert spawner is not None
    environment = Path(f"/proc/{spawner}/environ").read_bytes()
    assert set(environment.rstrip(b"\0").split(b"\0")) == {
        b"LANG=C.UTF-8",
        b"PATH=" + os.defpath.encode(),
    }
    assert status_fields(spawner)["NoNewPrivs"] == "1"


def test_a_job_may_open_its_own_output_by_name(alice: Client) -> None:
    job = alice.start("sh", "-c", "echo one > /dev/stdout; echo two > /dev/stderr; echo three")
    done = alice.run("logs", "--raw", job)
    assert (done.stdout, done.stderr) == (b"one\nthree\n", b"two\n")
    assert alice.status(job) == "finished (exit code: 0)"


def test_a_job_that_reads_its_own_output_does_not_hang_its_keeper(alice: Client) -> None:
    script = (
        "timeout 1 cat /proc/self/fd/1 >/dev/null & for i in $(seq 500); do echo $i; done; wait"
    )
    job = alice.start("sh", "-c", f"{script}; exit 0")
    alice.logs_raw(job)
    assert alice.status(job) == "finished (exit code: 0)"
