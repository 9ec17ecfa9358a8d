"""jobc's verbs of resource control, as their own process against a server that does as told.

What a real jobd answers is the e2e tests' matter; here are the streams and errors that one cannot
be made to give at will.
"""

from __future__ import annotations

import json
import signal

import pytest

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.gen import service_pb2 as pb
from tests.scripted import Script, run_jobc, start_jobc

JOB = "a62dfccc-2ff9-411d-a9ef-d4812ed3d867"
LIMITS = pb.Limits(memory_bytes=64 << 20, pids=32)


def sample(second: int, cpu_ms: int) -> pb.StatsResponse:
    return pb.StatsResponse(
        usage=pb.Usage(
            wall_ns=second * 10**9, cpu_us=cpu_ms * 1000, memory_bytes=16 << 20, pids=second
        ),
        status=pb.JobStatus(job_id=JOB, state=pb.JOB_STATE_RUNNING, limits=LIMITS),
    )


def receipt() -> pb.StatsResponse:
    usage = pb.Usage(wall_ns=4 * 10**9, cpu_us=900_000, memory_peak_bytes=63 << 20)
    status = pb.JobStatus(
        job_id=JOB,
        state=pb.JOB_STATE_TERMINATED,
        outcome=pb.Outcome(exit_code=0),
        cause=pb.END_CAUSE_EXITED,
        limits=LIMITS,
        usage=usage,
    )
    return pb.StatsResponse(usage=usage, status=status)


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (
            ["update", "nightly", "--memory", "1G", "--pids", "max", "--oom-group"],
            pb.UpdateRequest(
                job="nightly",
                limits=pb.Limits(
                    memory_bytes=1 << 30, oom_group=True, unlimited=[pb.LIMIT_KIND_PIDS]
                ),
            ),
        ),
        (
            ["update", "--oom-group", "nightly"],
            pb.UpdateRequest(job="nightly", limits=pb.Limits(oom_group=True)),
        ),
        (["pause", "nightly"], pb.PauseRequest(job="nightly")),
        (["resume", "nightly"], pb.ResumeRequest(job="nightly")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_change_that_succeeds_prints_nothing(
    environment: dict[str, str], script: Script, words: list[str], request_: object
) -> None:
    assert run_jobc(environment, *words) == (0, "", "")
    assert script.requests == [request_]


@pytest.mark.parametrize("verb", ["update", "pause", "resume", "stats", "follow"])
def test_a_refusal_is_one_sentence_with_its_remedy(
    environment: dict[str, str], script: Script, verb: str
) -> None:
    script.refusal = JobError(Reason.WRONG_STATE, "cannot do it: the job has ended", "do another")
    words = {"update": ["update", "--pids", "1"], "follow": ["stats", "-f"]}.get(verb, [verb])
    told = run_jobc(environment, *words, "x")
    assert told == (1, "", "jobc: cannot do it: the job has ended; do another\n")
    assert len(script.requests) == 1


def test_stats_tells_one_sample(environment: dict[str, str], script: Script) -> None:
    script.plan(sample(2, 500))
    code, out, errors = run_jobc(environment, "stats", "nightly")
    assert (code, errors) == (0, "")
    assert out.splitlines() == [
        f"Job:     {JOB}",
        "Status:  running",
        "Time:    2.00s",
        "CPU:     500ms, 25.0 % of a CPU on average (user: -, system: -)",
        "Memory:  16 MiB (max: 64 MiB, peak: -)",
        "Swap:    - (max: 0 B)",
        "Pids:    2 (max: 32, peak: -)",
        "I/O:     -",
    ]
    assert script.requests == [pb.StatsRequest(job="nightly")]


def test_stats_in_json_has_every_field(environment: dict[str, str], script: Script) -> None:
    script.plan(receipt())
    code, out, _ = run_jobc(environment, "stats", "-o", "json", "x")
    told = json.loads(out)
    usage = [field.name for field in pb.Usage.DESCRIPTOR.fields]
    assert code == 0
    assert sorted(told) == sorted(["job_id", "state", *usage, "limits", "advice"])
    assert sorted(told["limits"]) == sorted(
        {field.name for field in pb.Limits.DESCRIPTOR.fields} - {"unlimited"}
    )
    assert (told["job_id"], told["state"]) == (JOB, "terminated")
    assert (told["cpu_us"], told["pids"]) == (900_000, None)
    assert told["advice"] == ["peak 63 of 64 MiB: with more it is killed; --memory raises it"]


def test_following_gives_a_line_for_each_sample_and_ends_with_the_receipt(
    environment: dict[str, str], script: Script
) -> None:
    script.plan(sample(1, 100), sample(2, 600), receipt())
    code, out, errors = run_jobc(environment, "stats", "-f", "--interval", "250ms", "nightly")
    lines = out.splitlines()
    assert (code, errors) == (0, "")
    assert lines[0].split()[0] == "TIME"
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["1.00s", "-", "-"],
        ["2.00s", "50.0", "-"],
    ]
    assert lines[3:6] == ["", f"Job:     {JOB}", "Status:  finished (exit code: 0)"]
    assert lines[-1].startswith("Advice:  peak 63 of 64 MiB")
    assert script.requests == [pb.StatsRequest(job="nightly", follow=True, interval_ms=250)]


def test_following_a_job_that_has_ended_gives_the_receipt_alone(
    environment: dict[str, str], script: Script
) -> None:
    script.plan(receipt())
    code, out, _ = run_jobc(environment, "stats", "-f", "nightly")
    assert code == 0
    assert out.startswith(f"Job:     {JOB}\n")


def test_following_in_json_is_an_object_on_each_line(
    environment: dict[str, str], script: Script
) -> None:
    script.plan(sample(1, 100), sample(2, 200), receipt())
    code, out, _ = run_jobc(environment, "stats", "-f", "-o", "json", "x")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [each["state"] for each in told] == ["running", "running", "terminated"]
    assert [each["wall_ns"] for each in told] == [10**9, 2 * 10**9, 4 * 10**9]


def test_a_stream_that_breaks_is_taken_up_again_for_the_same_job(
    environment: dict[str, str], script: Script
) -> None:
    script.plan(sample(1, 100), then="break")
    script.plan(then="break")
    script.plan(sample(3, 300), receipt())
    code, out, errors = run_jobc(environment, "stats", "-f", "nightly")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[:2] for line in lines[1:3]] == [["1.00s", "-"], ["3.00s", "10.0"]]
    assert errors.splitlines() == [
        f"jobc: lost the connection to {environment['JOBC_ADDR']}; trying for 30s",
        "jobc: the connection is back; going on where it broke",
    ]
    # A name may be another job's by now; its id is not.
    assert [request.job for request in script.requests] == ["nightly", JOB, JOB]  # type: ignore[attr-defined]


def test_a_server_that_stays_away_is_given_up_in_time(
    environment: dict[str, str], script: Script
) -> None:
    script.plan(sample(1, 100), then="break")
    script.plan(then="break")
    code, out, errors = run_jobc(environment, "stats", "-f", "--retry-for", "0", "x")
    lost, reason = errors.splitlines()
    assert (code, out.count("\n")) == (125, 2)
    assert lost.startswith("jobc: lost the connection to ")
    assert reason.startswith("jobc: cannot reach the server ")
    assert len(script.requests) == 2


@pytest.mark.parametrize("flags", [["-f"], ["-f", "-o", "json"], []])
def test_a_stream_without_its_last_message_was_cut_off(
    environment: dict[str, str], script: Script, flags: list[str]
) -> None:
    script.plan(*([sample(1, 100)] if flags else []))
    code, _, errors = run_jobc(environment, "stats", *flags, "x")
    assert code == 1
    assert "the stream was cut off before its end" in errors
    assert errors.count("\n") == 1


def test_ctrl_c_ends_following_quietly(environment: dict[str, str], script: Script) -> None:
    script.plan(sample(1, 100), then="stay")
    with start_jobc(environment, "stats", "-f", "-o", "json", "x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["pids"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b""


def test_a_reader_that_goes_away_ends_following_quietly(
    environment: dict[str, str], script: Script
) -> None:
    script.plan(sample(1, 100), then="stay")
    with start_jobc(environment, "stats", "-f", "x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"TIME" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == b""


def test_a_sample_that_only_a_newer_server_understands_is_refused(
    environment: dict[str, str], script: Script
) -> None:
    odd = sample(1, 100)
    odd.status.state = 99  # type: ignore[assignment]
    script.plan(odd, receipt())
    code, out, errors = run_jobc(environment, "stats", "-f", "x")
    assert (code, out) == (1, "")
    assert "use a jobc that is as new as the server" in errors
