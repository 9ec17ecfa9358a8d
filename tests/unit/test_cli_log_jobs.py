"""How jobs whose logs are shown together are told apart."""

from __future__ import annotations

import os
import pty
import re
from pathlib import Path
from threading import Lock

import pytest

from jobruntime.cli.failure import Failure
from jobruntime.cli.log_jobs import prefix, wants_colour
from jobruntime.cli.log_reader import Reader
from jobruntime.cli.log_sinks import RawSink
from jobruntime.cli.outage import Outage
from jobruntime.cli.references import label_jobs
from jobruntime.cli.settings import Settings
from jobruntime.rpc.gen import service_pb2 as pb

JOB = "a62dfccc-2ff9-411d-a9ef-d4812ed3d867"
OTHER = "a62dfccc-0000-4000-8000-000000000000"


def status(job_id: str, name: str = "") -> pb.JobStatus:
    return pb.JobStatus(job_id=job_id, name=name)


def test_jobs_are_called_by_their_name_or_the_start_of_their_id() -> None:
    third = "bbbbbbbb-0000-4000-8000-000000000000"
    jobs = [status(JOB, "web"), status(OTHER), status(third, "x")]
    assert label_jobs(jobs) == ["web", "a62dfccc-0", "x"]
    same = [status(JOB, "web"), status(OTHER, "web"), status(third, "web")]
    assert label_jobs(same) == ["a62dfccc-2", "a62dfccc-0", "bbbbbbbb"]


def test_the_prefix_is_coloured_only_on_a_terminal_where_nobody_says_no() -> None:
    assert prefix("web", 0, in_colour=False) == b"web | "
    colours = {prefix("web", place, in_colour=True) for place in range(6)}
    assert len(colours) == 6
    assert all(re.fullmatch(rb"\x1b\[3[1-6]mweb \|\x1b\[0m ", each) for each in colours)
    reader, writer = os.pipe()
    above, terminal = pty.openpty()
    try:
        assert wants_colour(terminal, {})
        assert wants_colour(terminal, {"NO_COLOR": ""})
        assert not wants_colour(terminal, {"NO_COLOR": "1"})
        assert not wants_colour(terminal, {"TERM": "dumb"})
        assert not wants_colour(writer, {})
    finally:
        for fd in (reader, writer, above, terminal):
            os.close(fd)


@pytest.mark.parametrize("was_answered", [True, False])
def test_a_server_that_has_answered_is_waited_for_also_before_the_first_message(
    certificates: Path, capfd: pytest.CaptureFixture[str], *, was_answered: bool
) -> None:
    ca, cert, key = (certificates / name for name in ("ca.crt", "alice.crt", "alice.key"))
    settings = Settings("127.0.0.1:1", ca, cert, key)  # where nobody listens
    reader = Reader(
        settings,
        pb.LogsRequest(job=JOB),
        RawSink(),
        Outage(settings, retry_ms=0),
        Lock(),
        was_answered=was_answered,
    )
    with pytest.raises(Failure, match="cannot reach the server"):
        reader.read()
    assert ("lost the connection" in capfd.readouterr().err) == was_answered
