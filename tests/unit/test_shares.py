"""Shares: what can be one, how they are changed, and what the catalogue finds by them."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobruntime.model.access import Verb
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.shares import (
    MAX_SHARES,
    SHAREABLE,
    Share,
    change_shares,
    check_may_share,
    encode_shares,
    format_share,
    join_shares,
    make_share,
    parse_share,
    parse_shares,
)
from jobruntime.model.spec import JobSpec, encode_spec, parse_spec
from jobruntime.rpc.convert import spec_of, start_request_of
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.worker.catalogue import Catalogue, Ended
from jobruntime.worker.store import JobDirectory, JobRecord, encode_order

LOGS = (Verb.STATUS, Verb.LOGS)


def test_a_share_has_its_verbs_once_and_in_order_and_always_status() -> None:
    share = parse_share("bob:stop,logs,stop")
    assert share == Share("bob", (Verb.STATUS, Verb.LOGS, Verb.STOP))
    assert format_share(share) == "bob:status,logs,stop"


def test_a_user_whose_name_has_a_colon_can_be_shared_with() -> None:
    assert parse_share("a:b:logs") == Share("a:b", LOGS)


@pytest.mark.parametrize("verb", sorted(set(Verb) - set(SHAREABLE)))
def test_what_starts_changes_or_removes_a_job_cannot_be_shared(verb: Verb) -> None:
    told = r"cannot share '.*'; name some of status, logs"
    with pytest.raises(JobError, match=told) as refused:
        make_share("bob", [str(verb)])
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    with pytest.raises(JobError, match=told):
        Share("bob", (verb,))


@pytest.mark.parametrize(
    "text",
    [
        *("bob", "bob:", "bob:,", ":logs", "bob:LOGS", "../bob:logs", "a\nb:logs", "b\0b:logs"),
        *("x" * 65 + ":logs", "bоb:logs", " bob:logs", "ﬁ:logs", "\udcff:logs"),  # noqa: RUF001 - look-alikes
    ],
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"^cannot (read the )?share .*; .") as refused:
        parse_share(text)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert str(refused.value).isprintable()


def test_shares_of_one_user_are_joined_and_all_sorted() -> None:
    shares = join_shares(
        [parse_share("bob:logs"), parse_share("al:stop"), parse_share("bob:stats")]
    )
    assert [format_share(share) for share in shares] == ["al:status,stop", "bob:status,logs,stats"]


def test_a_change_replaces_what_a_user_had_and_takes_all_from_others() -> None:
    present = join_shares(map(parse_share, ("al:logs", "bob:stop", "cy:stats")))
    changed = change_shares(present, [parse_share("bob:logs")], ["al", "nobody"])
    assert [format_share(share) for share in changed] == ["bob:status,logs", "cy:status,stats"]
    with pytest.raises(JobError, match="take that back at once"):
        change_shares(present, [parse_share("al:logs")], ["al"])
    many = [Share(f"user{n}", LOGS) for n in range(MAX_SHARES)]
    with pytest.raises(JobError, match=f"with {MAX_SHARES + 3} users"):
        change_shares(present, many, [])


def test_nobody_shares_what_he_may_not_do_himself() -> None:
    shares = (Share("bob", LOGS),)
    check_may_share(shares, frozenset(LOGS))
    with pytest.raises(JobError, match="cannot share 'logs': no role of yours") as refused:
        check_may_share(shares, frozenset({Verb.STATUS}))
    assert refused.value.reason is Reason.PERMISSION_DENIED


def test_shares_are_read_back_as_they_were_written_and_old_records_have_none() -> None:
    shares = join_shares(map(parse_share, ("al:logs", "bob:stop")))
    assert parse_shares(json.loads(json.dumps(encode_shares(shares)))) == shares
    spec = JobSpec(argv=("true",), shares=shares)
    raw = json.loads(json.dumps(encode_spec(spec)))
    assert parse_spec(raw) == spec
    del raw["shares"]
    assert parse_spec(raw) == replace(spec, shares=())
    bad: object
    for bad in ({}, [1], [["bob"]], [["bob", "logs"]]):
        with pytest.raises(ValueError, match="not a"):
            parse_shares(bad)


def test_shares_come_over_the_wire_as_they_went() -> None:
    shares = join_shares(map(parse_share, ("al:logs", "bób:stop")))
    spec = JobSpec(argv=("true",), shares=shares)
    assert spec_of(start_request_of(spec), 10_000) == spec
    for bad in (pb.Share(user="bob"), pb.Share(user="bob", verbs=["start"]), pb.Share()):
        with pytest.raises(JobError, match="cannot share"):
            spec_of(pb.StartRequest(argv=["true"], share=[bad]), 1)
    with pytest.raises(JobError, match="cannot take 65 shares"):
        spec_of(pb.StartRequest(argv=["true"], share=[pb.Share()] * 65), 1)


def test_the_record_of_an_older_version_is_shared_with_nobody(tmp_path: Path) -> None:
    shared = record(1, "bob:logs")
    JobDirectory.create(str(tmp_path), shared).close()
    path = tmp_path / shared.job_id / "spec.json"
    with JobDirectory.open(str(tmp_path), shared.job_id) as directory:
        assert directory.read_record() == shared
        raw = json.loads(path.read_bytes())
        del raw["shares"], raw["spec"]["shares"]
        path.write_text(json.dumps(raw))
        assert directory.read_record() == record(1)
        directory.write_record(shared)
        assert directory.read_record() == shared
        assert os.listdir(directory.fd) == ["spec.json"]


def test_a_keeper_is_not_told_of_shares() -> None:
    assert encode_order(record(1, "bob:logs")) == encode_order(record(1))


# -- the catalogue


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    catalogue = Catalogue(str(tmp_path / "catalogue.sqlite"))
    yield catalogue
    catalogue.close()


def job_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def record(
    number: int, *shares: str, owner: str = "ann", name: str | None = None, at: int = 0
) -> JobRecord:
    given = join_shares(map(parse_share, shares))
    spec = JobSpec(argv=("true",), name=name, shares=given)
    return JobRecord(job_id(number), owner, spec, at, "", shares=given)


def found(
    catalogue: Catalogue, reference: str, user: str | None, verb: Verb | None = Verb.LOGS
) -> list[str]:
    return [match.job_id for match in catalogue.find(reference, user, verb)]


def test_a_shared_job_is_found_by_id_prefix_and_name_for_its_verbs_only(
    catalogue: Catalogue,
) -> None:
    catalogue.add(record(1, "bob:logs", name="n"))
    for reference in (job_id(1), job_id(1)[:9], "n"):
        for verb in LOGS:
            assert found(catalogue, reference, "bob", verb) == [job_id(1)]
        for other in (*(set(Verb) - set(LOGS)), None):
            assert found(catalogue, reference, "bob", other) == []
        assert found(catalogue, reference, "carol") == []
        assert found(catalogue, reference, "ann") == [job_id(1)]
    assert catalogue.running_named("bob", "n") is None


def test_what_is_shared_never_takes_the_place_of_ones_own(catalogue: Catalogue) -> None:
    own = job_id(0xABC00000)
    catalogue.add(record(0xABC00000, owner="bob", name="n"))
    catalogue.add(record(1, "bob:logs", name="n", at=9))
    catalogue.add(record(2, "bob:logs", name="abc", at=9))
    assert found(catalogue, "n", "bob") == [own]
    assert found(catalogue, "abc", "bob") == [own]  # not the one that somebody named so
    catalogue.add(record(0xABC00001, "bob:logs"))
    assert len(found(catalogue, "abc", "bob")) == 2  # ambiguous, rather than the wrong one
    assert found(catalogue, "abc00000", "bob") == [own]
    assert found(catalogue, "abc00001", "bob") == [job_id(0xABC00001)]


def test_of_shared_jobs_with_one_name_the_living_of_each_owner_is_meant(
    catalogue: Catalogue,
) -> None:
    catalogue.add(record(1, "bob:logs", name="n", at=1))
    catalogue.add(record(2, "bob:logs", name="n", at=2))
    catalogue.mark_ended(Ended(job_id(2), 5, 5))
    assert found(catalogue, "n", "bob") == [job_id(1)]
    catalogue.add(record(3, "bob:logs", name="n", owner="carol"))
    assert sorted(found(catalogue, "n", "bob")) == [job_id(1), job_id(3)]


def test_a_share_with_the_owner_himself_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.add(record(1, "ann:logs", name="n"))
    for reference in (job_id(1), job_id(1)[:4], "n"):
        assert found(catalogue, reference, "ann") == [job_id(1)]
        assert found(catalogue, reference, "ann", Verb.STOP) == [job_id(1)]


def test_shares_are_changed_all_at_once_and_go_with_their_job(catalogue: Catalogue) -> None:
    shared = record(1, "bob:logs")
    catalogue.add(shared)
    catalogue.share(shared, record(1, "carol:stop").shares)
    assert found(catalogue, job_id(1), "bob") == []
    assert found(catalogue, job_id(1), "carol", Verb.STOP) == [job_id(1)]
    catalogue.remove(job_id(1))
    catalogue.add(record(1))  # the same id again: nothing is left of its shares
    assert found(catalogue, job_id(1), "carol", Verb.STOP) == []


def test_an_index_without_shares_is_filled_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "catalogue.sqlite")
    first = Catalogue(path)
    first.add(record(1, "bob:logs"))
    first.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=2")
    second = Catalogue(path)
    assert second.ids(ended=False) == set()
    assert found(second, job_id(1), "bob") == []
    second.close()


def test_the_room_of_each_owner_is_summed_up(tmp_path: Path) -> None:
    path = str(tmp_path / "catalogue.sqlite")
    catalogue = Catalogue(path)
    for number, owner in ((1, "ann"), (2, "bob"), (3, "ann"), (4, "ann")):
        catalogue.add(record(number, owner=owner))
    for number in (1, 2, 3, 3):
        catalogue.mark_ended(Ended(job_id(number), number, 10**number))
    assert [catalogue.kept_bytes(who) for who in ("ann", "bob", "carol")] == [1010, 100, 0]
    catalogue.remove(job_id(1))
    catalogue.remove(job_id(4))
    assert catalogue.kept_bytes("ann") == 1000
    catalogue.add_ended([(record(5), Ended(job_id(5), 1, 7))])
    assert catalogue.kept_bytes("ann") == 1007
    catalogue.remove_all([job_id(2)])
    assert catalogue.kept_bytes("bob") == 0
    catalogue.close()
    again = Catalogue(path)
    assert again.kept_bytes("ann") == 1007
    again.close()
