"""jobc rm and jobc prune: jobs that have ended are gone, and no others."""

import json

import pytest

from tests.support import Client, Instance


@pytest.fixture
def ann(instance: Instance) -> Client:
    """A user of the test's own instance, whose jobs no other test has."""
    return instance.issue("ann", "user")


def ended(client: Client, *flags: str) -> str:
    """Run a job to its end and return its id."""
    job = client.start(*flags, "echo", "hello")
    assert client.logs_raw(job) == (b"hello\n", b"")
    return job


def is_gone(client: Client, job: str) -> bool:
    """Return whether nothing is known of the job any more."""
    done = client.run("status", job)
    return done.returncode == 1 and b"cannot find job" in done.stderr


def test_a_job_that_was_removed_is_gone_with_its_log(ann: Client) -> None:
    job, other = ended(ann, "--name", "done"), ended(ann)
    assert ann.output("rm", "done").decode() == f"{job}\n"
    assert is_gone(ann, job)
    assert not (ann.instance.jobs_dir / job).exists()
    assert ann.run("logs", job).returncode == 1
    assert ann.logs_raw(other)[0] == b"hello\n"


def test_of_several_jobs_each_that_has_ended_is_removed(ann: Client) -> None:
    running = ann.start("sleep", "600")
    first, second = ended(ann), ended(ann)
    done = ann.run("rm", first, running, "no-such-job", second)
    assert done.returncode == 1
    assert done.stdout.decode() == f"{first}\n{second}\n"
    assert done.stderr.count(b"jobc: cannot ") == 2
    assert ann.status(running) == "running"
    assert ann.output("rm", "-f", running).decode() == f"{running}\n"
    assert is_gone(ann, running)


def test_prune_removes_what_has_ended_and_fits(ann: Client) -> None:
    running = ann.start("sleep", "600")
    jobs = [ended(ann) for _ in range(3)]
    assert ann.output("prune", "--older-than", "1h") == (
        b"No job to remove: none that has ended fits.\n"
    )
    dry = json.loads(ann.output("prune", "--keep", "1", "--dry-run", "-o", "json"))
    assert sorted(dry["job_ids"]) == sorted(jobs[:2])
    assert dry["freed_bytes"] > 0
    assert ann.status(jobs[0]) == "finished (exit code: 0)"
    *ids, sentence = ann.output("prune", "--keep", "1").decode().splitlines()
    assert sorted(ids) == sorted(jobs[:2])
    assert sentence.startswith("Removed 2 jobs and freed ")
    assert is_gone(ann, jobs[0])
    assert ann.output("prune", "-q").decode() == f"{jobs[2]}\n"
    assert ann.status(running) == "running"
    ann.stop(running)


def test_only_an_administrator_prunes_the_jobs_of_others(ann: Client) -> None:
    admin = ann.instance.issue("root", "admin")
    bob = ann.instance.issue("bob", "user")
    job = ended(ann)
    bob.run("prune", "--all-owners")
    assert ann.status(job) == "finished (exit code: 0)"
    assert ann.run("rm", job).returncode == 0
    job = ended(ann)
    assert admin.output("prune", "-q", "--all-owners").decode() == f"{job}\n"
    assert is_gone(ann, job)
