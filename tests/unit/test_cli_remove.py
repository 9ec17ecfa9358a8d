"""jobc rm and prune against a server that does as told."""

from __future__ import annotations

import json

import pytest

from jobruntime.model.errors import JobError, Reason
from jobruntime.rpc.gen import service_pb2 as pb
from tests.scripted import Script, run_jobc

JOB = "a62dfccc-2ff9-411d-a9ef-d4812ed3d867"
OTHER = "b62dfccc-0000-4000-8000-000000000000"
Environment = dict[str, str]


@pytest.fixture
def jobs(script: Script) -> Script:
    """The script with two jobs."""
    web, other = (pb.JobStatus(job_id=job_id) for job_id in (JOB, OTHER))
    script.jobs = {"web": web, JOB: web, "db": other, OTHER: other}
    return script


def asked(script: Script, kind: type) -> list[object]:
    return [request for request in script.requests if isinstance(request, kind)]


def test_removed_jobs_are_told_by_their_ids(environment: Environment, jobs: Script) -> None:
    assert run_jobc(environment, "rm", "web", "db", JOB) == (0, f"{JOB}\n{OTHER}\n", "")
    assert asked(jobs, pb.RemoveRequest) == [
        *(pb.RemoveRequest(job=JOB), pb.RemoveRequest(job=OTHER))
    ]
    assert not asked(jobs, pb.StopRequest)


def test_force_stops_a_job_first(environment: Environment, jobs: Script) -> None:
    assert run_jobc(environment, "rm", "web", "-f") == (0, f"{JOB}\n", "")
    assert jobs.requests[1:] == [pb.StopRequest(job=JOB), pb.RemoveRequest(job=JOB)]


def test_what_goes_wrong_with_one_job_stops_no_other_removal(
    environment: Environment, jobs: Script
) -> None:
    done = run_jobc(environment, "rm", "nope", "db")
    assert done == (1, f"{OTHER}\n", "jobc: cannot find job 'nope'; look\n")


def test_a_removal_whose_answer_was_lost_is_done_when_the_job_is_gone(
    environment: Environment, jobs: Script
) -> None:
    jobs.breaks = 1
    code, out, errors = run_jobc(environment, "rm", "web")
    assert (code, out) == (0, f"{JOB}\n")
    assert "trying once more" in errors
    assert len(asked(jobs, pb.RemoveRequest)) == 2


@pytest.mark.parametrize("verb", [["rm", "x"], ["prune"]])
def test_a_refusal_of_a_removal_is_one_sentence(
    environment: Environment, script: Script, verb: list[str]
) -> None:
    script.refusal = JobError(Reason.WRONG_STATE, "cannot do it: it runs", "stop it")
    assert run_jobc(environment, *verb) == (1, "", "jobc: cannot do it: it runs; stop it\n")


def test_prune_tells_ids_and_room(environment: Environment, script: Script) -> None:
    script.pruned = pb.PruneResponse(job_ids=[JOB, OTHER], freed_bytes=3 << 19)
    done = run_jobc(environment, "prune")
    assert done == (0, f"{JOB}\n{OTHER}\nRemoved 2 jobs and freed 1.5 MiB.\n", "")
    assert script.requests == [pb.PruneRequest()]
    assert run_jobc(environment, "prune", "-q") == (0, f"{JOB}\n{OTHER}\n", "")
    code, out, _ = run_jobc(environment, "prune", "-o", "json")
    assert (code, json.loads(out)) == (
        0,
        {"job_ids": [JOB, OTHER], "freed_bytes": 3 << 19, "dry_run": False},
    )


def test_every_flag_of_prune_arrives(environment: Environment, script: Script) -> None:
    script.pruned = pb.PruneResponse(job_ids=[JOB], freed_bytes=10)
    flags = ["--older-than", "7d", "--keep", "0", "--all-owners", "--dry-run"]
    done = run_jobc(environment, "prune", *flags)
    assert done == (0, f"{JOB}\nWould remove 1 job and free 10 B.\n", "")
    assert script.requests == [
        pb.PruneRequest(ended_before_ms=7 * 86_400_000, keep=0, all_owners=True, dry_run=True)
    ]


def test_nothing_to_prune_is_no_error(environment: Environment, script: Script) -> None:
    done = run_jobc(environment, "prune")
    assert done == (0, "No job to remove: none that has ended fits.\n", "")
    assert run_jobc(environment, "prune", "-q") == (0, "", "")


def test_a_prune_that_was_repeated_says_what_is_not_in_its_list(
    environment: Environment, script: Script
) -> None:
    script.breaks = 1
    code, _, errors = run_jobc(environment, "prune")
    assert code == 0
    assert errors.splitlines()[-1] == (
        "jobc: what was removed before the connection broke is not in this list"
    )
