"""How jobs whose logs are shown together are told apart."""

from __future__ import annotations

import os
import pty
import re

from jobruntime.cli.log_jobs import prefix, wants_colour
from jobruntime.cli.references import label_jobs
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
