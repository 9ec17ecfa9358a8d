"""A start that fails says exactly why, and leaves nothing at all behind."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from jobruntime.rpc.tls import grpc
from tests.support import Api, Client, Instance, eventually, public_directory

CODE = grpc.StatusCode


@dataclass(frozen=True)
class Case:
    """A command that cannot be started: what jobc exits with, and what the server answers."""

    name: str
    argv: tuple[str, ...]
    exit_code: int
    code: grpc.StatusCode
    reason: str
    sentence: str
    directory: str = ""


NOT_FOUND, REFUSED = CODE.NOT_FOUND, CODE.FAILED_PRECONDITION
CASES = [
    Case(
        *("missing", ("no-such-program",), 127, NOT_FOUND, "PROGRAM_NOT_FOUND"),
        "cannot execute 'no-such-program': not found in the job's PATH",
    ),
    Case(
        *("missing path", ("{dir}/absent",), 127, NOT_FOUND, "PROGRAM_NOT_FOUND"),
        "cannot execute '{dir}/absent': no such file on the server's host",
    ),
    Case(
        *("directory", ("{dir}",), 126, REFUSED, "PROGRAM_IS_DIRECTORY"),
        "cannot execute '{dir}': it is a directory",
    ),
    Case(
        *("no permission", ("{dir}/not-executable",), 126, REFUSED, "PROGRAM_NOT_EXECUTABLE"),
        "cannot execute '{dir}/not-executable': Permission denied",
    ),
    Case(
        *("no program", ("{dir}/no-program",), 126, REFUSED, "PROGRAM_BAD_FORMAT"),
        "cannot execute '{dir}/no-program': it is no program of this machine and has no #! line",
    ),
    Case(
        *("no interpreter", ("{dir}/no-interpreter",), 127, NOT_FOUND, "PROGRAM_NOT_FOUND"),
        "cannot execute '{dir}/no-interpreter': the interpreter or loader that it names does not "
        "exist",
    ),
    Case(
        *("bad working directory", ("true",), 1, REFUSED, "WORKING_DIRECTORY"),
        "cannot start the job in {dir}/absent: No such file or directory",
        "{dir}/absent",
    ),
    Case(
        *("file as working directory", ("true",), 1, REFUSED, "WORKING_DIRECTORY"),
        "cannot start the job in {dir}/not-executable: Not a directory",
        "{dir}/not-executable",
    ),
    Case(
        *("closed working directory", ("true",), 1, REFUSED, "WORKING_DIRECTORY"),
        "cannot start the job in {dir}/closed: Permission denied",
        "{dir}/closed",
    ),
]


@pytest.fixture
def alice(alice: Client, isolation: str) -> Client:
    """A user whose jobs are bare, and then isolated: their course must be the same."""
    return alice.isolated(isolation)


@pytest.fixture(scope="module")
def bad_programs() -> Iterator[str]:
    """Give a directory that every job can reach, with files that cannot be executed."""
    with public_directory() as directory:
        contents = {
            "not-executable": (b"#!/bin/sh\n", 0o644),
            "no-program": (b"neither a header nor a line\n", 0o755),
            "no-interpreter": (b"#!/no/such/interpreter\n", 0o755),
        }
        for file, (content, mode) in contents.items():
            path = directory / file
            path.write_bytes(content)
            path.chmod(mode)
        (directory / "closed").mkdir(mode=0o700)
        yield str(directory)


def start(api: Api, case: Case, directory: str) -> str:
    argv = [word.format(dir=directory) for word in case.argv]
    return api.start(*argv, working_directory=case.directory.format(dir=directory))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_start_that_fails_has_its_own_code_and_sentence(
    alice: Client, bad_programs: str, case: Case
) -> None:
    if case.name == "closed working directory" and os.geteuid() != 0:
        pytest.skip("without root the job is the owner of that directory")
    with alice.api() as api:
        refusal = api.refused(lambda: start(api, case, bad_programs))
    assert (refusal.code, refusal.reason) == (case.code, case.reason)
    assert refusal.message == case.sentence.format(dir=bad_programs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_jobc_exits_as_a_shell_would_and_says_what_to_do(
    alice: Client, bad_programs: str, case: Case
) -> None:
    flags = ["-w", case.directory.format(dir=bad_programs)] if case.directory else []
    if case.name == "closed working directory" and os.geteuid() != 0:
        pytest.skip("without root the job is the owner of that directory")
    done = alice.run("start", *flags, "--", *(w.format(dir=bad_programs) for w in case.argv))
    assert done.returncode == case.exit_code
    assert done.stdout == b""
    told = done.stderr.decode()
    assert told.startswith("jobc: " + case.sentence.format(dir=bad_programs) + "; ")
    assert told.count("\n") == 1


def test_what_no_job_can_have_is_refused_before_anything_is_made(alice: Client) -> None:
    with alice.api() as api:
        cases = {
            "no program was named": lambda: api.start(),
            "no program was named; ": lambda: api.start(""),
            "an argument contains a NUL byte": lambda: api.start("echo", "a\0b"),
            "an argument contains a NUL byte; ": lambda: api.start("echo", b"a\0b"),
            "cannot set the environment variable 'A=B'": lambda: api.start("env", env={"A=B": ""}),
            "cannot set the environment variable ''": lambda: api.start("env", env={"": "x"}),
            "cannot use the working directory 'tmp'": lambda: api.start(
                "pwd", working_directory="tmp"
            ),
            "cannot name a job 'a b'": lambda: api.start("true", name="a b"),
            "cannot stop a job with signal 65": lambda: api.start("true", stop_signal=65),
            "cannot use a grace of -1 ms": lambda: api.start("true", grace_ms=-1),
            "cannot use a timeout of 0 ms": lambda: api.start("true", timeout_ms=0),
        }
        for sentence, call in cases.items():
            refusal = api.refused(call)
            assert refusal.code is CODE.INVALID_ARGUMENT, sentence
            assert refusal.reason == "INVALID_ARGUMENT"
            assert sentence.removesuffix("; ") in refusal.message


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("",),
        ("--", ""),
        ("-w", "relative", "true"),
        ("--grace", "soon", "true"),
        ("--signal", "NONE", "true"),
        ("--name", "a b", "true"),
        ("-e", "=x", "true"),
        ("--no-such-flag", "true"),
    ],
)
def test_a_command_line_that_breaks_a_rule_is_a_usage_error(
    alice: Client, words: tuple[str, ...]
) -> None:
    done = alice.run("start", *words)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"jobc")
    assert b"Traceback" not in done.stderr


def test_failed_starts_leave_no_job_process_cgroup_descriptor_or_file(
    instance: Instance, bad_programs: str, isolation: str
) -> None:
    alice = instance.issue("alice", "user").isolated(isolation)
    with alice.api() as api:

        def fail_in_every_way() -> None:
            for case in CASES:
                api.refused(lambda case=case: start(api, case, bad_programs))  # type: ignore[misc]
            api.refused(lambda: api.start("echo", "a\0b"))

        fail_in_every_way()
        before = instance.traces()
        for _ in range(3):
            fail_in_every_way()
        eventually(lambda: instance.traces() == before, 10, f"{before} after the failures")
        assert before["cgroups"] == set()
        assert instance.job_ids() == set()
        # The request id and name of a failed start are free again.
        for _ in range(2):
            api.refused(lambda: api.start("absent", name="free", request_id="free"))
        job = api.start("true", name="free", request_id="free")
        assert api.wait(job).outcome.exit_code == 0
