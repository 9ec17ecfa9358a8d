import json
import re

from tests.support import Client


def test_the_transcript_of_the_design_comes_out_verbatim(alice: Client) -> None:
    job = alice.start("sleep", "600")
    assert alice.status(job) == "running"
    alice.stop("--grace", "0", job) if False else alice.stop(job, "--grace", "0")
    assert alice.status(job) == "stopped (signal: 9)"
