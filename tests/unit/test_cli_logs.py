"""jobc logs against a server that does as told: what is asked, resumed, proved and refused."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.scripted import Script, run_jobc, start_jobc

JOB = "a62dfccc-2ff9-411d-a9ef-d4812ed3d867"
OTHER = "a62dfccc-0000-4000-8000-000000000000"
T0 = 1_643_018_400_000_000_000
T0_TEXT = "2022-01-24T10:00:00.000000000Z"
OUT, ERR = pb.LOG_STREAM_STDOUT, pb.LOG_STREAM_STDERR
Environment = dict[str, str]


def chunk(data: bytes, stream: pb.LogStream = OUT) -> pb.LogEntry:
    return pb.LogEntry(chunk=pb.LogChunk(stream=stream, time_ns=T0, data=data))


def gap(lost_bytes: int) -> pb.LogEntry:
    return pb.LogEntry(
        gap=pb.LogGap(
            stream=OUT, lost_bytes=lost_bytes, first_ns=T0, last_ns=T0 + 1, cause="a full disk"
        )
    )


def batch(cursor: str, *entries: pb.LogEntry | bytes) -> pb.LogsResponse:
    made = [chunk(entry) if isinstance(entry, bytes) else entry for entry in entries]
    return pb.LogsResponse(batch=pb.LogsBatch(entries=made), cursor=cursor)


def end(out: int, err: int = 0, *, sent: int | None = None, **fields: object) -> pb.LogsResponse:
    """Return the last message: of a whole log where `sent` is not another number than `out`."""
    told = pb.LogsEnd(
        complete=True,
        stdout_bytes=out,
        stderr_bytes=err,
        sent_stdout_bytes=out if sent is None else sent,
        sent_stderr_bytes=err,
    )
    told.MergeFrom(pb.LogsEnd(**fields))  # type: ignore[arg-type]
    return pb.LogsResponse(end=told, cursor="end")


def status(job_id: str, name: str = "") -> pb.JobStatus:
    return pb.JobStatus(job_id=job_id, name=name, state=pb.JOB_STATE_RUNNING)


def two_jobs(script: Script) -> None:
    script.jobs = {"web": status(JOB, "web"), "db1": status(OTHER, "db1")}


# what is asked


@pytest.mark.parametrize(
    ("flags", "request_"),
    [
        ([], pb.LogsRequest(follow=True)),
        (["-f"], pb.LogsRequest(follow=True)),
        (["--no-follow"], pb.LogsRequest()),
        (["-n", "20"], pb.LogsRequest(follow=True, tail_lines=20)),
        (["-fn", "20"], pb.LogsRequest(follow=True, tail_lines=20)),
        (["-fn0"], pb.LogsRequest(follow=True, tail_lines=0)),
        (["--tail", "all"], pb.LogsRequest(follow=True)),
        (["--cursor", "c"], pb.LogsRequest(follow=True, cursor="c")),
        (["--stream", "stderr"], pb.LogsRequest(follow=True, streams=[ERR])),
        (["--grep", "a|b"], pb.LogsRequest(follow=True, grep="a|b")),
        (["-i", "--grep", "-x"], pb.LogsRequest(follow=True, grep="(?i)-x")),
        (
            ["--since", "1643018400.5", "--until", "2022-01-24T11:00:01+01:00"],
            pb.LogsRequest(
                follow=True,
                since={"seconds": 1643018400, "nanos": 500_000_000},
                until={"seconds": 1643018401},
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_flag_arrives(
    environment: Environment, script: Script, flags: list[str], request_: pb.LogsRequest
) -> None:
    script.plan_logs(JOB, end(0))
    assert run_jobc(environment, "logs", *flags, JOB) == (0, "", "")
    request_.job = JOB
    assert script.requests == [request_]


def test_flags_may_stand_behind_the_jobs(environment: Environment, script: Script) -> None:
    two_jobs(script)
    script.plan_logs(JOB, end(0))
    script.plan_logs(OTHER, end(0))
    assert run_jobc(environment, "logs", "web", "-n", "1", "db1", "--no-follow") == (0, "", "")
    asked = [request for request in script.requests if isinstance(request, pb.LogsRequest)]
    assert sorted(request.job for request in asked) == [OTHER, JOB]
    assert all(request.tail_lines == 1 and not request.follow for request in asked)


def test_a_name_is_looked_up_once_for_it_may_be_another_jobs_later(
    environment: Environment, script: Script
) -> None:
    script.jobs = {"web": status(JOB, "web")}
    script.plan_logs(JOB, batch("1", b"a\n"), then="break")
    script.plan_logs(JOB, end(2, sent=0))
    code, out, _ = run_jobc(environment, "logs", "--raw", "web")
    assert (code, out) == (0, "a\n")
    assert script.requests == [
        pb.StatusRequest(job="web"),
        pb.LogsRequest(job=JOB, follow=True),
        pb.LogsRequest(job=JOB, follow=True, cursor="1"),
    ]


# in which form


def test_text_is_each_line_on_the_fd_of_its_stream(
    environment: Environment, script: Script
) -> None:
    script.plan_logs(JOB, batch("1", b"a\nhalf", chunk(b"e\n", ERR), b"rest"), end(10, 2))
    done = run_jobc(environment, "logs", "-o", "text", JOB)
    assert done == (0, "a\nhalfrest", "e\n")


def test_text_with_times_has_one_before_each_line(environment: Environment, script: Script) -> None:
    script.plan_logs(JOB, batch("1", b"a\nhalf", chunk(b"e\n", ERR), b"rest"), end(10, 2))
    code, out, errors = run_jobc(environment, "logs", "-o", "text", "-t", JOB)
    assert code == 0
    assert (out, errors) == (f"{T0_TEXT} a\n{T0_TEXT} halfrest\n", f"{T0_TEXT} e\n")


@pytest.mark.parametrize("form", ["text", "raw"])
def test_a_gap_is_told_on_stderr_with_its_bytes_and_times(
    environment: Environment, script: Script, form: str
) -> None:
    script.plan_logs(JOB, batch("1", b"a\n", gap(7), b"b\n"), end(4, lost_bytes=7))
    code, out, errors = run_jobc(environment, "logs", "-o", form, JOB)
    assert (code, out) == (0, "a\nb\n")
    assert errors == (
        "jobc: 7 bytes of stdout are missing here: a full disk (captured from "
        f"{T0_TEXT} to {T0_TEXT[:-2]}1Z)\n"
    )


def test_a_gap_in_json_is_an_object(environment: Environment, script: Script) -> None:
    script.plan_logs(JOB, batch("1", b"half", gap(7)), end(4, lost_bytes=7))
    code, out, errors = run_jobc(environment, "logs", JOB)
    piece, told = map(json.loads, out.splitlines())
    assert (code, errors, piece["partial"]) == (0, "", True)
    assert told["gap"] == {"bytes": 7, "cause": "a full disk", "until": f"{T0_TEXT[:-2]}1Z"}


# several jobs


def test_lines_of_several_jobs_have_their_prefix_and_are_not_mixed(
    environment: Environment, script: Script
) -> None:
    script.jobs = {"web": status(JOB, "web"), "x": status(OTHER)}
    script.plan_logs(JOB, *(batch(str(n), b"x" * 10, b"y\n") for n in range(500)), end(6000))
    script.plan_logs(OTHER, batch("1", chunk(b"e\nhalf", ERR)), end(0, 6))
    code, out, errors = run_jobc(environment, "logs", "-o", "text", "web", "x")
    assert code == 0
    assert out == "web        | xxxxxxxxxxy\n" * 500
    assert errors == "a62dfccc-0 | e\na62dfccc-0 | half\n"


def test_objects_of_several_jobs_have_their_id(environment: Environment, script: Script) -> None:
    two_jobs(script)
    script.plan_logs(JOB, batch("1", b"a\n"), end(2))
    script.plan_logs(OTHER, batch("1", b"b\n"), end(2))
    code, out, _ = run_jobc(environment, "logs", "web", "db1")
    told = {found["log"]: found["job"] for found in map(json.loads, out.splitlines())}
    assert (code, told) == (0, {"a": JOB, "b": OTHER})


def test_a_job_that_is_named_twice_is_shown_once(environment: Environment, script: Script) -> None:
    script.jobs = {"web": status(JOB, "web"), "a62d": status(JOB, "web")}
    script.plan_logs(JOB, batch("1", b"a\n"), end(2))
    done = run_jobc(environment, "logs", "-o", "text", "web", "a62d")
    assert done == (0, "web | a\n", "")


def test_what_goes_wrong_with_one_job_stops_no_other(
    environment: Environment, script: Script
) -> None:
    two_jobs(script)
    script.plan_logs(JOB, batch("1", b"a\n"))  # and no last message
    script.plan_logs(OTHER, batch("1", b"b\n"), end(2))
    code, out, errors = run_jobc(environment, "logs", "-o", "text", "nope", "web", "db1")
    assert code == 1
    assert sorted(out.splitlines()) == ["db1 | b", "web | a"]
    assert errors.splitlines() == [
        "jobc: cannot find job 'nope'; look",
        f"jobc: cannot show the whole log of job {JOB}: the stream was cut off before its end; "
        "give the command again",
    ]


def test_an_outage_of_several_jobs_is_told_once(environment: Environment, script: Script) -> None:
    two_jobs(script)
    for job in (JOB, OTHER):
        script.plan_logs(job, batch("1", b"a\n"), then="break")
        script.plan_logs(job, end(2, sent=0))
    code, out, errors = run_jobc(environment, "logs", "-o", "text", "web", "db1")
    assert code == 0
    assert sorted(out.splitlines()) == ["db1 | a", "web | a"]
    # The two may also break one after the other.
    lines = errors.splitlines()
    assert len(lines) in (2, 4)
    assert lines[0].startswith("jobc: lost the connection to ")
    assert lines[-1] == "jobc: the connection is back; going on where it broke"


def test_ctrl_c_prints_what_was_kept_back_of_all_jobs(
    environment: Environment, script: Script
) -> None:
    two_jobs(script)
    script.plan_logs(JOB, batch("1", b"a\nhalf"), then="stay")
    script.plan_logs(OTHER, then="stay")
    with start_jobc(environment, "logs", "-o", "text", "web", "db1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"web | a\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout.read() == b"web | half\n"
        assert process.stderr.read() == b""


def test_on_a_terminal_the_jobs_have_colours(environment: Environment, script: Script) -> None:
    two_jobs(script)
    script.plan_logs(JOB, batch("1", b"a\n"), end(2))
    script.plan_logs(OTHER, end(0))
    above, terminal = pty.openpty()
    try:
        command = [sys.executable, "-m", "jobruntime.cli", "logs", "-o", "text", "web", "db1"]
        done = subprocess.run(command, env=environment, stdout=terminal, timeout=60, check=False)
        assert done.returncode == 0
        assert os.read(above, 1000) == b"\x1b[36mweb |\x1b[0m a\r\n"
    finally:
        os.close(above)
        os.close(terminal)


# whole or not


def test_a_stream_that_breaks_is_gone_on_with_without_loss_or_double(
    environment: Environment, script: Script
) -> None:
    script.plan_logs(JOB, batch("1", b"a\nha"), batch("2", b"lf\n"), then="break")
    script.plan_logs(JOB, then="break")
    script.plan_logs(JOB, batch("3", b"b\n"), end(9, sent=2))
    code, out, errors = run_jobc(environment, "logs", "-n", "5", "--raw", JOB)
    assert (code, out) == (0, "a\nhalf\nb\n")
    assert errors.splitlines() == [
        f"jobc: lost the connection to {environment['JOBC_ADDR']}; trying for 30s",
        "jobc: the connection is back; going on where it broke",
    ]
    cursors = [request.cursor for request in script.requests]  # type: ignore[attr-defined]
    assert cursors == ["", "2", "2"]
    # The rest of the request is the first one's.
    assert {request.tail_lines for request in script.requests} == {5}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("flags", "last", "cause"),
    [
        ([], end(3), "2 bytes of stdout came, and 3 were sent"),
        ([], end(3, sent=2), "2 bytes of stdout came, and 3 are in it"),
        ([], end(2, 1), "0 bytes of stderr came, and 1 were sent"),
        ([], end(2, lost_bytes=4), "0 bytes were told as missing, and 4 are"),
        (["--grep", "a"], end(9, sent=3), "2 bytes of stdout came, and 3 were sent"),
    ],
)
def test_an_end_that_does_not_fit_what_came_is_an_error(
    environment: Environment, script: Script, flags: list[str], last: pb.LogsResponse, cause: str
) -> None:
    script.plan_logs(JOB, batch("1", b"a\n"), last)
    code, out, errors = run_jobc(environment, "logs", *flags, "--raw", JOB)
    assert (code, out) == (1, "a\n")
    assert (
        errors == f"jobc: cannot show the whole log of job {JOB}: {cause}; give the command again\n"
    )


@pytest.mark.parametrize(
    "flags",
    [
        ["-n", "1"],
        ["--since", "1h"],
        ["--until", "2100-01-01T00:00:00Z"],
        ["--stream", "stdout"],
        ["--grep", "a"],
        ["--cursor", "0"],
    ],
    ids=lambda flags: flags[0],
)
def test_of_a_part_only_what_was_sent_is_compared(
    environment: Environment, script: Script, flags: list[str]
) -> None:
    script.plan_logs(JOB, batch("1", b"a\n"), end(900, 50, sent=2, lost_bytes=3))
    code, out, errors = run_jobc(environment, "logs", *flags, "--raw", JOB)
    assert (code, out) == (1, "a\n")  # stderr was told as sent, and did not come
    assert "0 bytes of stderr came, and 50 were sent" in errors
    told = end(900, 50, sent=2, lost_bytes=3)
    told.end.sent_stderr_bytes = 0
    script.plan_logs(JOB, batch("1", b"a\n"), told)
    assert run_jobc(environment, "logs", *flags, "--raw", JOB) == (0, "a\n", "")


@pytest.mark.parametrize("flags", [[], ["--no-follow"], ["--grep", "a"], ["-o", "text"]])
def test_a_stream_without_its_last_message_is_an_error(
    environment: Environment, script: Script, flags: list[str]
) -> None:
    script.plan_logs(JOB, batch("1", b"a\n"))
    code, out, errors = run_jobc(environment, "logs", *flags, JOB)
    assert code == 1
    assert out
    assert "the stream was cut off before its end" in errors


def test_an_end_of_a_job_that_goes_on_is_fine_only_where_nobody_follows(
    environment: Environment, script: Script
) -> None:
    last = end(0)
    last.end.complete = False
    script.plan_logs(JOB, last)
    script.plan_logs(JOB, last)
    assert run_jobc(environment, "logs", "--no-follow", JOB) == (0, "", "")
    code, _, errors = run_jobc(environment, "logs", JOB)
    assert code == 1
    assert "the stream ended before the job did" in errors


def test_the_cursor_is_told_at_the_end_and_on_ctrl_c(
    environment: Environment, script: Script
) -> None:
    script.plan_logs(JOB, batch("1", b"a\n"), end(2))
    assert run_jobc(environment, "logs", "--raw", "--show-cursor", JOB) == (
        *(0, "a\n", "jobc: cursor: end\n"),
    )
    script.plan_logs(JOB, batch("1", b"a\n"), batch("2", b"b\n"), then="stay")
    with start_jobc(environment, "logs", "--raw", "--show-cursor", JOB) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"a\n"
        assert process.stdout.readline() == b"b\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        # A cursor is noted once what came with it was written: the second's, a moment later.
        assert process.stderr.read() in (b"jobc: cursor: 1\n", b"jobc: cursor: 2\n")


def test_a_dead_server_is_told_at_once_though_a_cursor_was_given(
    environment: Environment, script: Script
) -> None:
    nowhere = environment | {"JOBC_ADDR": "127.0.0.1:1"}
    code, out, errors = run_jobc(nowhere, "logs", "--cursor", "c", JOB)
    assert (code, out, errors.count("\n")) == (125, "", 1)
