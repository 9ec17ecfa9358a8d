"""Directories and records on disk."""

import os
from pathlib import Path

import pytest

from jobruntime.linux.files import make_private_directory, read_json, replace_json


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_missing_directory_is_made_private(tmp_path: Path) -> None:
    make_private_directory(str(tmp_path / "a" / "b"))
    assert mode_of(tmp_path / "a" / "b") == 0o700


def test_an_empty_directory_is_made_private(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    make_private_directory(str(place))
    assert mode_of(place) == 0o700


def test_a_directory_that_is_open_and_in_use_is_left_as_it_is(tmp_path: Path) -> None:
    # As root, `state_dir = "/srv"` must not shut out all other services of the host.
    (tmp_path / "theirs").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(PermissionError, match="0755, open to others, and not empty"):
        make_private_directory(str(tmp_path))
    assert mode_of(tmp_path) == 0o755


def test_a_link_is_no_directory_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError):
        make_private_directory(str(tmp_path / "link"))


def test_a_record_is_replaced_as_a_whole_also_after_a_writer_that_died(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "record.new").write_bytes(b"half of")
        replace_json("record", {"n": 1}, directory, sync=True)
        assert read_json("record", directory) == {"n": 1}
        assert os.listdir(tmp_path) == ["record"]
    finally:
        os.close(directory)
