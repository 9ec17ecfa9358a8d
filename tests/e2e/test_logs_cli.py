"""jobc logs: parts of a log, several jobs, text, and going on by hand or after an outage."""

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.support import Client, Instance

TRAP = "trap 'echo late; exit 0' TERM"
WAITING = f"exec 2>/dev/null; {TRAP}; echo early; while :; do sleep 0.05; done"
MIXED = "echo one; echo Two >&2; sleep 0.2; echo three; echo ERROR four >&2; printf end"


@pytest.fixture(scope="module")
def lines(alice: Client) -> str:
    """A job that has written the numbers up to 1000 and ended."""
    job = alice.start("seq", "1000")
    assert alice.logs_raw(job)[0].endswith(b"\n1000\n")
    return job


@pytest.fixture(scope="module")
def mixed(alice: Client) -> str:
    """A job that has written to both streams and ended."""
    job = alice.start("sh", "-c", MIXED)
    assert alice.logs_raw(job) == (b"one\nthree\nend", b"Two\nERROR four\n")
    return job


@contextmanager
def waiting(client: Client, *flags: str) -> Iterator[str]:
    """Give a job that has written `early`, and writes `late` when it is stopped."""
    job = client.start(*flags, "sh", "-c", WAITING)
    with client.popen("logs", "--raw", job) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"early\n"
        reader.kill()
    try:
        yield job
    finally:
        client.stop(job, "--grace", "0")


def text(client: Client, *words: str) -> str:
    """Return what jobc logs prints as text, all in order."""
    return client.output("logs", "-o", "text", *words).decode()


def numbers(first: int, last: int) -> str:
    return "".join(f"{number}\n" for number in range(first, last + 1))


@pytest.mark.parametrize(
    ("flags", "first"),
    [
        (["-n", "3"], 998),
        (["-n3"], 998),
        (["--tail", "1000"], 1),
        (["--tail", "5000"], 1),
        (["--tail=all"], 1),
        (["-n0"], 1001),
    ],
)
def test_the_last_lines_are_so_many_as_asked_for(
    alice: Client, lines: str, flags: list[str], first: int
) -> None:
    assert text(alice, *flags, lines) == numbers(first, 1000)
    assert text(alice, *flags, "--no-follow", lines) == numbers(first, 1000)


def test_the_last_lines_are_followed_by_what_comes(alice: Client) -> None:
    with waiting(alice) as job, alice.popen("logs", "-fn", "1", "--raw", job) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"early\n"
        alice.stop(job)
        assert reader.stdout.read() == b"late\n"
        assert reader.wait(30) == 0


def test_since_and_until_bound_the_time_of_capture(alice: Client) -> None:
    with waiting(alice) as job:
        alice.stop(job)
    early, late = map(json.loads, alice.output("logs", job).splitlines())
    assert (early["log"], late["log"]) == ("early", "late")
    seconds = datetime.fromisoformat(early["time"]).timestamp()
    unix = f"{int(seconds)}.{early['time'][-10:-1]}"
    assert text(alice, "--since", late["time"], job) == "late\n"
    assert text(alice, "--until", early["time"], job) == "early\n"
    assert text(alice, "--since", unix, "--until", unix, job) == "early\n"
    assert text(alice, "--since", "1h", job) == "early\nlate\n"
    assert text(alice, "--until", "1h", job) == ""
    assert text(alice, "--since", "2100-01-01T00:00:00Z", job) == ""
    assert text(alice, "--until", early["time"], "-n", "1", job) == "early\n"


def test_a_time_to_come_is_waited_for_and_ends_the_reading(alice: Client) -> None:
    with waiting(alice) as job:
        until = datetime.now(UTC) + timedelta(seconds=2)
        assert text(alice, "--until", until.isoformat(), job) == "early\n"
        assert datetime.now(UTC) > until
        assert alice.status(job) == "running"


def test_one_stream_alone_is_shown(alice: Client, mixed: str) -> None:
    assert alice.logs_raw(mixed, "--stream", "stdout") == (b"one\nthree\nend", b"")
    assert alice.logs_raw(mixed, "--stream", "stderr") == (b"", b"Two\nERROR four\n")
    told = map(json.loads, alice.output("logs", "--stream=stderr", mixed).splitlines())
    assert [each["log"] for each in told] == ["Two", "ERROR four"]


@pytest.mark.parametrize(
    ("flags", "out", "errors"),
    [
        (["--grep", "o"], b"one\n", b"Two\nERROR four\n"),
        (["--grep", "^t|d$"], b"three\nend", b""),
        (["--grep", "^t", "-i"], b"three\n", b"Two\n"),
        (["--grep", "-|error", "-i", "--stream", "stdout"], b"", b""),
        (["--grep", "e", "-n", "1"], b"end", b""),
    ],
)
def test_only_lines_that_match_are_shown(
    alice: Client, mixed: str, flags: list[str], out: bytes, errors: bytes
) -> None:
    assert alice.logs_raw(mixed, *flags) == (out, errors)
    assert alice.logs_raw(mixed, "--no-follow", *flags) == (out, errors)


def test_a_pattern_that_is_none_is_refused_by_the_server(alice: Client, mixed: str) -> None:
    done = alice.run("logs", "--grep", "(", mixed)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"jobc: cannot search for '('")
    assert done.stderr.count(b"\n") == 1


def test_text_and_times(alice: Client, mixed: str) -> None:
    done = alice.run("logs", "-o", "text", mixed)
    assert (done.stdout, done.stderr) == (b"one\nthree\nend", b"Two\nERROR four\n")
    done = alice.run("logs", "-o", "text", "-t", mixed)
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
    assert re.fullmatch(f"{stamp} one\n{stamp} three\n{stamp} end\n", done.stdout.decode())
    assert re.fullmatch(f"{stamp} Two\n{stamp} ERROR four\n", done.stderr.decode())


def test_several_jobs_are_followed_at_once(alice: Client, lines: str) -> None:
    with waiting(alice, "--name", "two-at-once") as job:
        words = ("logs", "-o", "text", "-n", "2", "two-at-once", lines)
        with alice.popen(*words) as reader:
            assert reader.stdout is not None
            assert reader.stderr is not None
            got = sorted(reader.stdout.readline() for _ in range(3))
            assert got == sorted(
                [
                    f"{lines[:8]}    | 999\n".encode(),
                    f"{lines[:8]}    | 1000\n".encode(),
                    b"two-at-once | early\n",
                ]
            )
            alice.stop(job)
            assert reader.stdout.read() == b"two-at-once | late\n"
            assert (reader.wait(30), reader.stderr.read()) == (0, b"")
    objects = [json.loads(line) for line in alice.output("logs", "-n1", job, lines).splitlines()]
    assert {each["job"]: each["log"] for each in objects} == {job: "late", lines: "1000"}


def test_one_job_that_is_not_there_makes_the_exit_code_and_stops_no_other(
    alice: Client, lines: str
) -> None:
    done = alice.run("logs", "-o", "text", "-n1", "no-such-job", lines)
    assert (done.returncode, done.stdout) == (1, f"{lines[:8]} | 1000\n".encode())
    assert done.stderr.startswith(b"jobc: cannot find job 'no-such-job'")


def test_a_reading_goes_on_by_hand_where_the_one_before_has_ended(alice: Client) -> None:
    with waiting(alice) as job:
        first = alice.run("logs", "--raw", "--no-follow", "--show-cursor", job)
        told = re.fullmatch(rb"jobc: cursor: (\S+)\n", first.stderr)
        assert told is not None
        assert (first.returncode, first.stdout) == (0, b"early\n")
        cursor = told[1].decode()
        assert alice.logs_raw(job, "--no-follow", "--cursor", cursor) == (b"", b"")
        alice.stop(job)
        assert alice.logs_raw(job, "--cursor", cursor) == (b"late\n", b"")
        done = alice.run("logs", "--cursor", f"{cursor}1", job)
        assert (done.returncode, done.stdout) == (1, b"")


def test_a_filtered_reading_of_several_jobs_goes_on_after_the_server_was_gone(
    instance: Instance,
) -> None:
    alice = instance.issue("alice", "user")
    script = "for n in 1 2 3 4; do echo $n; echo noise; sleep 0.7; done"
    jobs = [alice.start("--name", name, "sh", "-c", script) for name in ("a", "b")]
    with alice.popen("logs", "-o", "text", "--grep", "[0-9]", *jobs) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        first = reader.stdout.readline()
        instance.kill()
        instance.start()
        # Not communicate(), which passes over what readline has read ahead.
        got = (first + reader.stdout.read()).decode().splitlines()
        errors = reader.stderr.read()
    for name in ("a", "b"):
        mine = [line for line in got if line.startswith(name)]
        assert mine == [f"{name} | {n}" for n in range(1, 5)]
    assert reader.returncode == 0, errors
    assert b"lost the connection" in errors
    assert b"the connection is back" in errors


def test_ctrl_c_ends_the_reading_of_several_jobs_quietly(alice: Client) -> None:
    with waiting(alice) as one, waiting(alice) as two:
        with alice.popen("logs", "-o", "text", one, two) as reader:
            assert reader.stdout is not None
            assert reader.stderr is not None
            got = {reader.stdout.readline() for _ in range(2)}
            assert got == {f"{job[:8]} | early\n".encode() for job in (one, two)}
            reader.send_signal(signal.SIGINT)
            assert (reader.wait(20), reader.stderr.read()) == (130, b"")
        assert alice.status(one) == alice.status(two) == "running"


def test_a_log_within_bounds_shows_what_was_dropped_in_every_form(alice: Client) -> None:
    job = alice.start(
        *("--log-max", "1M", "--log-full", "drop-oldest"),
        *("sh", "-c", "yes 0123456789abcde | head -c 8000000"),
    )
    # Only a reader that comes after the end misses all that was dropped, and in one piece.
    alice.output("logs", job)
    objects = [json.loads(line) for line in alice.output("logs", job).splitlines()]
    gaps = [each for each in objects if "gap" in each]
    assert len(gaps) == 1
    assert gaps[0] is objects[0]
    assert gaps[0]["stream"] == "stdout"
    lost = gaps[0]["gap"]["bytes"]
    assert gaps[0]["time"] <= gaps[0]["gap"]["until"]
    for form in ("text", "raw"):
        done = alice.run("logs", "-o", form, job)
        assert (done.returncode, len(done.stdout) + lost) == (0, 8_000_000)
        assert f"jobc: {lost} bytes of stdout are missing here: ".encode() in done.stderr
        assert gaps[0]["gap"]["until"].encode() in done.stderr
    assert alice.status_json(job)["log"] == {"max_bytes": 1 << 20, "on_full": "drop-oldest"}
    wide = alice.output("status", "-o", "wide", job).decode()
    assert "Log:     --log-max 1M --log-full drop-oldest\n" in wide


def test_the_bounds_of_a_log_are_checked_before_anything_is_sent(alice: Client) -> None:
    done = alice.run("start", "--log-max", "64K", "true")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"cannot keep a log within 65536 bytes" in done.stderr


def test_the_last_lines_of_a_large_log_come_at_once(alice: Client) -> None:
    job = alice.start("sh", "-c", "yes 0123456789abcde | head -c 64000000; echo last")
    began_at = time.monotonic()
    while alice.status(job) == "running":
        assert time.monotonic() - began_at < 60
    began_at = time.monotonic()
    assert text(alice, "-n1", job) == "last\n"
    assert time.monotonic() - began_at < 20
