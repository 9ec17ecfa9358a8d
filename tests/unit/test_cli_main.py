"""jobc as its own process: what it needs no server for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobruntime.cli import main, start, status
from jobruntime.cli.failure import Exit, Failure, printable
from jobruntime.cli.main import VERBS
from jobruntime.cli.words import split_options
from jobruntime.rpc.gen import service_pb2 as pb

PYTHONPATH = os.pathsep.join(path for path in sys.path if path)


def run_jobc(*words: str | bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run jobc in an environment that knows no server."""
    return subprocess.run(
        [sys.executable, "-m", "jobruntime.cli", *words],
        env={"PYTHONPATH": PYTHONPATH, "HOME": "/nonexistent", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def write_certificate(directory: Path) -> dict[str, str]:
    """Write a certificate that is its own CA, and return the variables that name it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    (directory / "crt").write_bytes(certificate)
    (directory / "key").touch(0o600)
    (directory / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path = str(directory / "crt")
    return {"JOBC_CA": path, "JOBC_CERT": path, "JOBC_KEY": str(directory / "key")}


def parsed(*words: str) -> Namespace:
    """Return the arguments of `jobc start WORDS`."""
    parser = ArgumentParser(allow_abbrev=False)
    actions = start.add_arguments(parser)
    valued = main._valued(actions)
    options, command = split_options(words, valued)
    args = parser.parse_args(options)
    args.command = command
    return args


def test_help_and_usage_errors_load_no_grpc() -> None:
    script = (
        "import sys; from jobruntime.cli.main import VERBS, run; codes = [run(['--help']), "
        "*[run([verb, '--help']) for verb in VERBS], run(['nonsense']), run(['start']), "
        "run(['start', '--memory', '0', 'x']), run(['update', 'x']), run(['logs'])]; "
        "print([int(code) for code in codes], "
        "[name for name in ('grpc', 'google', 'ssl', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        timeout=60,
        check=True,
    )
    codes = [0] * (1 + len(VERBS)) + [2] * 5
    assert done.stdout.decode().splitlines()[-1] == f"{codes} []"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["start"],
        ["start", "--"],
        ["start", "--grace", "5", "x"],
        ["start", "--signal", "NONE", "x"],
        ["start", "--timeout", "0", "x"],
        ["start", "--label", "x", "x"],
        ["start", "--nam", "x", "x"],
        ["stop"],
        ["stop", "a", "b"],
        ["status", "-o", "xml", "a"],
        ["logs"],
        ["logs", "-f"],
        ["logs", "--follow", "--no-follow", "a"],
        ["logs", "-n", "-1", "a"],
        ["logs", "-n", "some", "a"],
        ["logs", "--since", "yesterday", "a"],
        ["logs", "--until", "2022-01-24T10:00:00", "a"],
        ["logs", "--since", "1m", "--until", "1h", "a"],
        ["logs", "--stream", "both", "a"],
        ["logs", "-i", "a"],
        ["logs", "--grep", "x" * 5000, "a"],
        ["logs", "--grep", os.fsdecode(b"\xff"), "a"],
        ["logs", "--grep", "x", "-n", "100001", "a"],
        ["logs", "-t", "a"],
        ["logs", "-t", "--raw", "a"],
        ["logs", "--raw", "-o", "json", "a"],
        ["logs", "--raw", "a", "b"],
        ["logs", "--cursor", "c", "--tail", "1", "a"],
        ["logs", "--cursor", "c", "--since", "1h", "a"],
        ["logs", "--cursor", "c", "a", "b"],
        ["logs", "--show-cursor", "a", "b"],
        ["start", "--log-max", "1K", "x"],
        ["start", "--log-full", "stop", "x"],
        ["rm"],
        ["prune", "a"],
        ["prune", "--keep", "-1"],
        ["prune", "--older-than", "7"],
        ["prune", "-q", "-o", "json"],
        ["start", "--memory", "0", "x"],
        ["start", "--memory", "1M", "--memory-swap", "4K", "x"],
        ["start", "--oom-group=1", "x"],
        ["update", "a"],
        ["update", "--pids", "1"],
        ["update", "--pids", "none", "a"],
        ["update", "--memory", "1M", "--memory-high", "2M", "a"],
        ["pause"],
        ["resume", "a", "b"],
        ["stats"],
        ["stats", "-o", "wide", "a"],
        ["stats", "--interval", "2s", "a"],
        ["stats", "-f", "--interval", "99ms", "a"],
        ["stats", "-f", "--interval", "61m", "a"],
        ["--connect-timeout", "0", "status", "a"],
    ],
)
def test_a_wrong_command_line_is_one_sentence_with_its_remedy(words: list[str]) -> None:
    done = run_jobc(*words)
    assert done.returncode == Exit.USAGE
    assert done.stdout == b""
    assert done.stderr.startswith(b"jobc: cannot ")
    assert done.stderr.count(b"\n") == 1
    assert b"; " in done.stderr


def test_no_settings_are_jobcs_own_failure() -> None:
    done = run_jobc("status", "x")
    assert done.returncode == Exit.OWN_FAILURE
    assert b"JOBC_ADDR" in done.stderr


def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jobruntime.cli", "--help"],
            env={"PYTHONPATH": PYTHONPATH},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == Exit.OWN_FAILURE
    assert b"no space left" in done.stderr


def test_a_port_where_nobody_listens_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take it
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_jobc("status", "x", JOBC_ADDR=addr, **write_certificate(tmp_path))
    assert done.returncode == Exit.OWN_FAILURE
    assert b"nothing listens there" in done.stderr


def test_a_later_variable_of_a_name_counts_and_one_without_value_is_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINE", "here")
    monkeypatch.delenv("NONE", raising=False)
    request = start.request_of(parsed("-e", "A=1", "-eA=2", "--env=MINE", "-e", "NONE", "x"))
    assert dict(request.env) == {"A": "2", "MINE": "here"}


def test_what_was_not_given_is_left_to_the_server() -> None:
    request = start.request_of(parsed("x"))
    assert not request.HasField("grace_ms")
    assert not request.HasField("stop_signal")
    assert not request.HasField("timeout_ms")
    assert not request.HasField("log")
    assert len(request.request_id) == 32


def test_all_flags_of_start_arrive() -> None:
    request = start.request_of(
        parsed(
            *[
                "--name",
                "n",
                "--label",
                "a=b",
                "--label",
                "c=d=e",
                "-w",
                "/tmp",
                "--timeout",
                "2m",
                "--signal",
                "INT",
            ],
            *["--grace", "0", "--request-id", "r", "--log-max", "1.5M", "--log-full", "block"],
            *["--", "sh", "-c", "--"],
        )
    )
    expected = pb.StartRequest(
        argv=["sh", "-c", "--"],
        name="n",
        labels={"a": "b", "c": "d=e"},
        working_directory="/tmp",
        timeout_ms=120_000,
        stop_signal=2,
        grace_ms=0,
        request_id="r",
        log=pb.LogBounds(max_bytes=3 << 19, on_full=pb.LOG_FULL_BLOCK),
    )
    assert request == expected


def test_an_argument_that_is_not_utf8_goes_as_bytes() -> None:
    request = start.request_of(parsed("x", os.fsdecode(b"\xff")))
    assert list(request.argv_bytes) == [b"x", b"\xff"]
    assert not request.argv


@pytest.mark.parametrize("words", [("-w", "rel", "x"), ("--name", "-", "x"), ("",)])
def test_a_spec_that_breaks_a_rule_is_a_usage_error(words: tuple[str, ...]) -> None:
    with pytest.raises(Failure) as caught:
        start.request_of(parsed(*words))
    assert caught.value.exit_code is Exit.USAGE


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (pb.JobStatus(state=pb.JOB_STATE_RUNNING), "running"),
        (
            pb.JobStatus(state=pb.JOB_STATE_TERMINATED, outcome=pb.Outcome(exit_code=0)),
            "finished (exit code: 0)",
        ),
        (
            pb.JobStatus(state=pb.JOB_STATE_TERMINATED, outcome=pb.Outcome(signal=9)),
            "stopped (signal: 9)",
        ),
        (
            pb.JobStatus(state=pb.JOB_STATE_TERMINATED, outcome=pb.Outcome(lost="a\nb")),
            "lost (a\\nb)",
        ),
    ],
)
def test_a_status_is_one_line(message: pb.JobStatus, line: str) -> None:
    assert status.format_line(message) == line


def test_an_unknown_state_is_refused_in_every_form() -> None:
    for form in (status.format_line, status.format_json, status.format_wide):
        with pytest.raises(Failure, match="cannot tell the status"):
            form(pb.JobStatus(job_id="x", state=pb.JOB_STATE_TERMINATED))


def test_the_json_status_tells_all() -> None:
    message = pb.JobStatus(
        job_id="id",
        owner="alice",
        argv=[b"a", b"\xff"],
        state=pb.JOB_STATE_TERMINATED,
        outcome=pb.Outcome(signal=15),
        timed_out=True,
        stop_requested=pb.StopRequested(by="bob", signal=15, grace_ms=5),
    )
    message.created_at.FromNanoseconds(1_643_018_400_000_000_001)
    told = json.loads(status.format_json(message))
    assert told["outcome"] == {"signal": 15, "signal_name": "SIGTERM"}
    assert told["created_at"] == "2022-01-24T10:00:00.000000001Z"
    assert told["ended_at"] is None
    assert told["argv_base64"] == ["YQ==", "/w=="]
    assert told["stop_requested"]["by"] == "bob"
    assert "stop requested by bob" in status.format_wide(message)


def test_the_json_status_tells_what_ended_the_job_and_what_it_has_used() -> None:
    message = pb.JobStatus(
        job_id="id",
        state=pb.JOB_STATE_TERMINATED,
        outcome=pb.Outcome(signal=9),
        oom=pb.Oom(scope=pb.OOM_SCOPE_JOB, kills=2, leader=True),
        cause=pb.END_CAUSE_OOM,
        limits=pb.Limits(memory_bytes=1 << 26, unlimited=[pb.LIMIT_KIND_PIDS]),
        log=pb.LogBounds(max_bytes=100 << 20, on_full=pb.LOG_FULL_DROP_OLDEST),
        usage=pb.Usage(wall_ns=5, memory_peak_bytes=1 << 26, cpu_us=0),
    )
    told = json.loads(status.format_json(message))
    assert (told["cause"], told["killed"]) == ("oom", False)
    assert told["oom"] == {"scope": "job", "kills": 2, "leader": True}
    assert (told["limits"]["memory_bytes"], told["limits"]["pids"]) == (1 << 26, "max")
    assert told["limits"]["cpu_millis"] is None
    assert told["log"] == {"max_bytes": 100 << 20, "on_full": "drop-oldest"}
    assert (told["usage"]["cpu_us"], told["usage"]["io_reads"]) == (0, None)
    assert told["advice"] == ["out of memory at its limit: --memory raises it from 64 MiB"]
    wide = status.format_wide(message).splitlines()
    assert wide[:6] == [
        "Job:     id",
        "Status:  stopped (signal: 9)",
        "Cause:   out of memory: it reached its limit of 64 MiB, and the kernel killed it",
        "Limits:  --memory 64M --pids max",
        "Log:     --log-max 100M --log-full drop-oldest",
        "Time:    0ms",
    ]
    assert wide[-1] == "Advice:  out of memory at its limit: --memory raises it from 64 MiB"


def test_what_does_not_apply_is_null_in_the_json_status() -> None:
    told = json.loads(status.format_json(pb.JobStatus(state=pb.JOB_STATE_RUNNING)))
    for key in ("outcome", "oom", "cause", "limits", "log", "usage", "stop_requested", "ended_at"):
        assert told[key] is None
    assert told["advice"] == []
    limits = pb.Limits(memory_bytes=1 << 20)
    running = pb.JobStatus(job_id="id", state=pb.JOB_STATE_PAUSED, limits=limits)
    assert status.format_wide(running).splitlines() == [
        *("Job:     id", "Status:  paused", "Limits:  --memory 1M")
    ]


@pytest.mark.parametrize(
    "message",
    [
        pb.JobStatus(state=pb.JOB_STATE_RUNNING, limits=pb.Limits(unlimited=[99])),  # type: ignore[list-item]
        pb.JobStatus(state=pb.JOB_STATE_RUNNING, oom=pb.Oom(scope=99)),  # type: ignore[arg-type]
        pb.JobStatus(state=pb.JOB_STATE_RUNNING, log=pb.LogBounds(on_full=99)),  # type: ignore[arg-type]
    ],
)
def test_what_only_a_newer_server_knows_is_refused_where_it_would_be_told(
    message: pb.JobStatus,
) -> None:
    assert status.format_line(message) == "running"
    for form in (status.format_json, status.format_wide):
        with pytest.raises(Failure, match="cannot tell the status"):
            form(message)


def test_what_is_told_can_neither_move_a_cursor_nor_forge_a_line() -> None:
    assert printable("a\x1b[2J\r\nb\udcffé") == "a\\x1b[2J\\r\\nb\\udcffé"
