"""jobc as a shell sees it: exit codes, pipes, Ctrl-C, help, and a server that is not there."""

import os
import signal
import socket
import subprocess
import time

import pytest

from tests.support import BIN, Client, Instance, free_port

VERBS = ("start", "stop", "status", "logs")
ENDLESS = "while :; do echo line; sleep 0.05; done"


@pytest.mark.parametrize("verb", ["stop", "status", "logs"])
def test_a_job_that_does_not_exist_is_refused_with_exit_code_1(alice: Client, verb: str) -> None:
    done = alice.run(verb, "00000000-0000-4000-8000-000000000000")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"jobc: cannot ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "words", [(), ("frobnicate",), ("status",), ("status", "a", "b"), ("--nope",), ("stop", "-x")]
)
def test_a_wrong_command_line_exits_with_2(alice: Client, words: tuple[str, ...]) -> None:
    done = alice.run(*words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


def test_the_help_tells_every_verb_and_the_exit_codes(alice: Client) -> None:
    text = alice.output("--help").decode()
    assert "exit codes:" in text
    for word in (*VERBS, "125", "126", "127", "JOBC_ADDR", "JOBC_CA", "JOBC_CERT", "JOBC_KEY"):
        assert word in text
    for verb in VERBS:
        told = alice.output(verb, "--help").decode()
        assert told.startswith(f"usage: jobc {verb}")
        assert "examples:" in told
    assert "exit codes" in alice.output("start", "--help").decode()


def test_jobc_needs_no_server_for_its_help_and_version(alice: Client) -> None:
    done = subprocess.run([BIN / "jobc", "--version"], env={}, capture_output=True, check=True)
    assert done.stdout.startswith(b"jobc ")


def test_options_of_the_command_are_the_commands_own(alice: Client) -> None:
    job = alice.start("echo", "--name", "x", "--", "-n")
    assert alice.logs_raw(job)[0] == b"--name x -- -n\n"
    job = alice.start("--", "echo", "-n", "--help")
    assert alice.logs_raw(job)[0] == b"--help"


def test_a_closed_pipe_ends_jobc_quietly_while_the_job_goes_on(alice: Client) -> None:
    job = alice.start("sh", "-c", ENDLESS)
    shell = f"'{BIN}/jobc' logs --raw {job} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], env=alice.env, capture_output=True, timeout=30, check=True
    )
    assert done.stdout == b"line\n141\n"
    assert done.stderr == b""
    assert alice.status(job) == "running"
    alice.stop(job, "--grace", "0")


def test_a_closed_pipe_is_noticed_while_the_job_is_silent(alice: Client) -> None:
    job = alice.start("sh", "-c", "echo only; exec sleep 600")
    with alice.popen("logs", "--raw", job) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        assert reader.stdout.readline() == b"only\n"
        reader.stdout.close()
        assert reader.wait(20) == 141
        assert reader.stderr.read() == b""
    assert alice.status(job) == "running"
    alice.stop(job, "--grace", "0")


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_a_reader_leaves_the_job_alone(alice: Client, signo: signal.Signals) -> None:
    job = alice.start("sh", "-c", ENDLESS)
    with alice.popen("logs", "--raw", job) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"line\n"
        reader.send_signal(signo)
        code = reader.wait(20)
    assert code == (130 if signo is signal.SIGINT else -signo)
    assert alice.status(job) == "running"
    alice.stop(job, "--grace", "0")


def test_ctrl_c_is_quiet(alice: Client) -> None:
    job = alice.start("sh", "-c", "echo only; exec sleep 600")
    with alice.popen("logs", "--raw", job) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        assert reader.stdout.readline() == b"only\n"
        reader.send_signal(signal.SIGINT)
        assert reader.wait(20) == 130
        assert reader.stderr.read() == b""
    alice.stop(job, "--grace", "0")


@pytest.mark.parametrize("verb", VERBS)
def test_a_server_that_does_not_run_is_told_at_once(alice: Client, verb: str) -> None:
    began_at = time.monotonic()
    done = alice.run("--addr", f"127.0.0.1:{free_port()}", verb, "x")
    assert time.monotonic() - began_at < 5 + 2
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"jobc: cannot reach the server 127.0.0.1:")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("verb", ["start", "logs"])
def test_a_server_that_does_not_answer_is_given_up_in_time(alice: Client, verb: str) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        port = deaf.getsockname()[1]
        began_at = time.monotonic()
        alice.run("--addr", f"127.0.0.1:{free_port()}", verb, "x")
        own_s = time.monotonic() - began_at  # what jobc takes without any waiting
        began_at = time.monotonic()
        done = alice.run("--addr", f"127.0.0.1:{port}", "--connect-timeout", "1s", verb, "x")
        assert time.monotonic() - began_at < own_s + 1 + 2
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"jobc: cannot ")


def test_a_missing_certificate_is_jobcs_own_failure_with_the_remedy(alice: Client) -> None:
    done = alice.run("--cert", "/no/such/file.crt", "status", "x")
    assert done.returncode == 125
    assert b"/no/such/file.crt" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_without_any_settings_jobc_says_how_to_give_them(shared: Instance) -> None:
    done = subprocess.run(
        [BIN / "jobc", "status", "x"],
        env={"HOME": str(shared.directory), "PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 125
    assert b"JOBC_ADDR" in done.stderr


def test_flags_come_before_the_environment_and_that_before_the_file(
    alice: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "jobc").mkdir()
    (home / "jobc/config.toml").write_text(
        f'addr = "{alice.env["JOBC_ADDR"]}"\nca = "{alice.instance.ca}"\n'
        f'cert = "{alice.cert}"\nkey = "{alice.key}"\n'
    )
    base = {"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(home), "HOME": str(home)}
    nowhere = f"127.0.0.1:{free_port()}"

    def run(*words: str, **env: str) -> int:
        done = subprocess.run(
            [BIN / "jobc", *words], env=base | env, capture_output=True, timeout=30, check=False
        )
        return done.returncode

    assert run("start", "true") == 0
    assert run("start", "true", JOBC_ADDR=nowhere) == 125
    assert run("--addr", alice.env["JOBC_ADDR"], "start", "true", JOBC_ADDR=nowhere) == 0


def test_a_reader_comes_back_to_the_same_byte_after_the_server_was_gone(
    instance: Instance,
) -> None:
    alice = instance.issue("alice", "user")
    job = alice.start("sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.7; done")
    with alice.popen("logs", "--raw", job) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        assert reader.stdout.readline() == b"1\n"
        instance.kill()
        instance.start()
        # Not communicate(), which passes over what readline has read ahead.
        assert reader.stdout.read() == b"2\n3\n"
        errors = reader.stderr.read()
    assert reader.returncode == 0, errors
    assert b"lost the connection" in errors


def test_a_name_of_the_jobs_that_no_terminal_should_see_is_escaped(alice: Client) -> None:
    done = alice.run("status", "\x1b[2J")
    assert done.returncode == 1
    assert b"\x1b" not in done.stderr
