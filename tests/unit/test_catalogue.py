"""The catalogue: ids, prefixes, names and request ids, among what an owner may see."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobruntime.model.retention import Kept
from jobruntime.model.spec import JobSpec
from jobruntime.worker.catalogue import Catalogue, Ended, Match
from jobruntime.worker.store import JobRecord


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    catalogue = Catalogue(str(tmp_path / "catalogue.sqlite"))
    yield catalogue
    catalogue.close()


def job_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def record(
    job: str, owner: str = "me", name: str | None = None, request: str | None = None, at: int = 0
) -> JobRecord:
    spec = JobSpec(argv=("true",), name=name, request_id=request)
    return JobRecord(job_id=job, owner=owner, spec=spec, created_at_ns=at, boot_id="")


def found(catalogue: Catalogue, reference: str, owner: str | None = None) -> list[str]:
    return [match.job_id for match in catalogue.find(reference, owner)]


def test_an_exact_id_is_the_job_whatever_else_has_that_name(catalogue: Catalogue) -> None:
    catalogue.add(record(job_id(1)))
    catalogue.add(record(job_id(2), name=job_id(1)))
    assert found(catalogue, job_id(1)) == [job_id(1)]


def test_a_name_goes_before_a_prefix(catalogue: Catalogue) -> None:
    catalogue.add(record(job_id(0xABC00000)))
    catalogue.add(record(job_id(1), name="abc"))
    assert found(catalogue, "abc") == [job_id(1)]
    assert found(catalogue, "abc0") == [job_id(0xABC00000)]


def test_of_jobs_with_one_name_the_living_goes_before_the_newest(catalogue: Catalogue) -> None:
    for number, at in ((1, 10), (2, 20), (3, 30)):
        catalogue.add(record(job_id(number), name="n", at=at))
        catalogue.mark_ended(Ended(job_id(number), 0, 0))
    assert found(catalogue, "n") == [job_id(3)]
    catalogue.add(record(job_id(4), name="n", at=5))
    assert catalogue.find("n", None) == [Match(job_id(4), "me", ended=False)]
    assert catalogue.running_named("me", "n") == job_id(4)
    catalogue.mark_ended(Ended(job_id(4), 0, 0))
    assert catalogue.running_named("me", "n") is None


def test_nothing_tells_an_owner_of_anothers_jobs(catalogue: Catalogue) -> None:
    catalogue.add(record(job_id(1), owner="you", name="n", request="r"))
    for reference in (job_id(1), job_id(1)[:6], "n"):
        assert found(catalogue, reference, "me") == []
        assert found(catalogue, reference, "you") == [job_id(1)]
        assert found(catalogue, reference) == [job_id(1)]
    assert catalogue.find_request("me", "r") is None
    assert catalogue.find_request("you", "r") == job_id(1)
    assert catalogue.running_named("me", "n") is None
    catalogue.add(record(job_id(2), owner="me", name="n", request="r"))
    assert found(catalogue, "n", "me") == [job_id(2)]
    assert sorted(found(catalogue, "n")) == [job_id(1), job_id(2)]
    # A prefix that is ambiguous only because of another's job is not ambiguous.
    assert found(catalogue, "0000000", "me") == [job_id(2)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.sets(st.integers(0, 0xFFFF_FFFF), min_size=1, max_size=20), st.integers(1, 36))
def test_a_prefix_finds_the_one_job_or_two_as_a_sign_of_several(
    catalogue: Catalogue, numbers: set[int], length: int
) -> None:
    jobs = {job_id(number) for number in numbers}
    for job in jobs:
        catalogue.add(record(job))
    for job in jobs:
        prefix = job[:length]
        meant = {other for other in jobs if other.startswith(prefix)}
        result = set(found(catalogue, prefix))
        assert result <= meant
        assert len(result) == min(2, len(meant))
    for job in jobs:
        catalogue.remove(job)
    assert not catalogue.ids(ended=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40))
def test_no_reference_is_more_than_a_reference(catalogue: Catalogue, reference: str) -> None:
    catalogue.add(record(job_id(0x12345678)))
    try:
        result = found(catalogue, reference)
    except UnicodeEncodeError:
        pytest.fail("a lone surrogate is a reference like any other")
    assert result == ([job_id(0x12345678)] if job_id(0x12345678).startswith(reference) else [])


def test_the_catalogue_keeps_what_it_was_told(tmp_path: Path) -> None:
    path = str(tmp_path / "catalogue.sqlite")
    first = Catalogue(path)
    first.add(record(job_id(1), name="n", request="r"))
    first.add(record(job_id(2)))
    first.mark_ended(Ended(job_id(2), 7, 8))
    first.add(record(job_id(2), owner="somebody else"))  # is there already
    first.close()
    second = Catalogue(path)
    assert second.ids(ended=True) == {job_id(2)}
    assert second.ids(ended=False) == {job_id(1)}
    assert second.find(job_id(2), "me") == [Match(job_id(2), "me", ended=True)]
    assert second.kept == Kept(1, 8)
    second.remove(job_id(1))
    assert second.find_request("me", "r") is None
    second.close()


def test_what_has_ended_is_found_by_its_end_and_summed_up(catalogue: Catalogue) -> None:
    ends = [(1, "me", 30), (2, "you", 10), (3, "me", 20), (4, "you", 40)]
    for number, owner, at in ends:
        catalogue.add(record(job_id(number), owner=owner))
        catalogue.mark_ended(Ended(job_id(number), at, 100 * number))
        catalogue.mark_ended(Ended(job_id(number), at, 100 * number))  # told twice, by a recovery
    catalogue.add(record(job_id(5)))
    assert catalogue.kept == Kept(4, 1000)

    def numbers(found: list[Ended]) -> list[int]:
        return [ended.size_bytes // 100 for ended in found]

    assert numbers(catalogue.oldest(30, 10)) == [2, 3, 1]
    assert numbers(catalogue.oldest(100, 2)) == [2, 3]
    assert numbers(catalogue.behind_newest(None, 0, 100, 10)) == [4, 1, 3, 2]
    assert numbers(catalogue.behind_newest("me", 0, 100, 10)) == [1, 3]
    assert numbers(catalogue.behind_newest("me", 1, 100, 10)) == [3]
    assert numbers(catalogue.behind_newest(None, 1, 20, 10)) == [3, 2]
    catalogue.remove(job_id(2))
    catalogue.remove(job_id(2))
    catalogue.remove(job_id(5))
    assert catalogue.kept == Kept(3, 800)
    catalogue.remove_all([job_id(1), job_id(9)])
    assert catalogue.kept == Kept(2, 700)


def test_the_index_of_another_version_is_filled_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "catalogue.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, ended INTEGER) WITHOUT ROWID")
        db.execute("INSERT INTO jobs VALUES ('old', 1)")
        db.execute("PRAGMA user_version=1")
        db.commit()
    catalogue = Catalogue(path)
    assert catalogue.ids(ended=True) == set()
    catalogue.add(record(job_id(1)))
    catalogue.close()
