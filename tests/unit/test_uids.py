"""Whether somebody else on the host has a uid of the range that jobs are given."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from jobruntime.model.errors import JobError, Reason
from jobruntime.worker import uids
from jobruntime.worker.uids import check_free, find_accounts, taken_uid

RANGE = range(10_000, 10_100)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's files, as empty ones of the test's own; subgid is not there."""
    for name in ("passwd", "group", "subuid"):
        (tmp_path / name).write_text("")
    accounts = tuple(str(tmp_path / name) for name in ("passwd", "group"))
    monkeypatch.setattr(uids, "_ACCOUNT_FILES", accounts)
    subordinate = tuple(str(tmp_path / name) for name in ("subuid", "subgid"))
    monkeypatch.setattr(uids, "_SUBORDINATE_FILES", subordinate)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("passwd", "ann:x:10000:100:Ann:/home/ann:/bin/sh"),
        ("passwd", "ann:x:10099:100:Ann:/home/ann:/bin/sh"),
        ("group", "staff:x:10050:ann,ben"),
        ("subuid", "ann:9000:65536"),
        ("subuid", "ann:10099:1"),
        ("subgid", "ann:10000:1"),
    ],
)
def test_a_range_that_somebody_has_a_part_of_is_refused_by_his_name(
    files: Path, name: str, line: str
) -> None:
    with (files / name).open("a") as file:
        file.write(f"# a comment\nroot:x:0:0:root:/root:/bin/sh\n\n{line}\n")

    with pytest.raises(JobError) as caught:
        check_free(RANGE)

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert line.split(":")[0] in caught.value.message
    assert str(files / name) in caught.value.message
    assert "uid_first" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("passwd", "ann:x:9999:10000:Ann:/home/ann:/bin/sh"),
        ("passwd", "ann:x:10100:100:Ann:/home/ann:/bin/sh"),
        ("passwd", "+::::::"),
        ("subuid", "ann:9000:1000"),
        ("subuid", "ann:10100:65536"),
    ],
)
def test_ids_beside_the_range_are_nobodys_business(files: Path, name: str, line: str) -> None:
    (files / name).write_text(f"{line}\n")
    assert taken_uid(RANGE) is None


def test_accounts_are_found_by_name_and_refused_where_they_cannot_be_used() -> None:
    root = pwd.getpwuid(0)
    assert find_accounts((root.pw_name,), RANGE) == {root.pw_name: (0, root.pw_gid)}
    for name in ("no-such-account", "no\0account", "0"):
        with pytest.raises(JobError, match="this host has no such account"):
            find_accounts((name,), RANGE)
    with pytest.raises(JobError, match="in the range"):
        find_accounts((root.pw_name,), range(root.pw_gid, root.pw_gid + 1))
