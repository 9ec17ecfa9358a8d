"""The CLI transcript of the project's design, form by form."""

import json
import re
import time

import pytest

from tests.support import Client

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


@pytest.fixture
def alice(alice: Client, isolation: str) -> Client:
    """A user whose jobs are bare, and then isolated: their course must be the same."""
    return alice.isolated(isolation)


def test_a_started_job_runs_until_it_is_stopped_and_tells_the_signal(alice: Client) -> None:
    job = alice.start("sleep", "60")  # the helper checks that the id stands alone
    assert alice.status(job) == "running"
    alice.stop(job, "--grace", "0")
    assert alice.status(job) == "stopped (signal: 9)"


def test_a_job_that_ends_by_itself_is_finished_with_its_exit_code(alice: Client) -> None:
    good, bad = alice.start("true"), alice.start("sh", "-c", "exit 42")
    alice.logs_raw(good)
    alice.logs_raw(bad)
    assert alice.status(good) == "finished (exit code: 0)"
    assert alice.status(bad) == "finished (exit code: 42)"


def test_a_log_is_lines_of_json_with_the_time_of_capture_in_nanoseconds(alice: Client) -> None:
    before = time.time()
    job = alice.start("sh", "-c", "echo 'log message here'; sleep 0.2; echo another log message")
    lines = alice.output("logs", job).decode().splitlines()
    after = time.time()
    match = re.fullmatch(
        r'\{"log": "log message here", "stream": "stdout", "time": "(\S+)"\}', lines[0]
    )
    assert match is not None, lines[0]
    assert [json.loads(line)["log"] for line in lines] == [
        "log message here",
        "another log message",
    ]
    times = [json.loads(line)["time"] for line in lines]
    assert all(map(TIME.fullmatch, times))
    assert times == sorted(times)
    first, second = (time.mktime(time.strptime(t[:19], "%Y-%m-%dT%H:%M:%S")) for t in times)
    zone = time.timezone
    assert before - 1 <= first - zone <= second - zone <= after


def test_a_log_names_the_stream_of_each_line(alice: Client) -> None:
    job = alice.start("sh", "-c", "echo out; echo err >&2")
    lines = [json.loads(line) for line in alice.output("logs", job).splitlines()]
    assert sorted((line["stream"], line["log"]) for line in lines) == [
        ("stderr", "err"),
        ("stdout", "out"),
    ]


def test_bytes_that_are_no_text_survive_in_the_json_form(alice: Client) -> None:
    job = alice.start("printf", r"\377\000caf\303\251\n")
    (line,) = (json.loads(line) for line in alice.output("logs", job).splitlines())
    assert line["log_base64"] == "/wBjYWbDqQ=="


def test_raw_logs_are_the_bytes_of_each_stream_and_nothing_else(alice: Client) -> None:
    job = alice.start("sh", "-c", r"printf 'a\0b\377'; printf 'no newline' >&2")
    assert alice.logs_raw(job) == (b"a\0b\377", b"no newline")
