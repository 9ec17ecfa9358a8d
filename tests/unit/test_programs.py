"""Which file a start means: as the start itself would find it, with every link followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from jobruntime.model.spec import JobSpec
from jobruntime.server.programs import find_program, open_to_others, resolve, resolve_all


@pytest.fixture
def base() -> Iterator[Path]:
    """Make a directory that everybody can pass, unlike pytest's own."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory).resolve()


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def found(argv0: str, path: str | None = None, workdir: Path | None = None) -> str | None:
    env = () if path is None else (("PATH", path),)
    directory = None if workdir is None else str(workdir)
    return find_program(
        JobSpec(argv=(argv0,), env=env, working_directory=directory), for_others=True
    )


def test_links_are_followed_to_the_file_itself(base: Path) -> None:
    real = program(base / "real/tool")
    (base / "one").symlink_to("real/../real")
    (base / "two").symlink_to(base / "one/tool")
    (base / "three").symlink_to("two")
    assert found(str(base / "three")) == str(real)
    assert found(f"{base}/one/./tool") == str(real)
    assert found(f"{base}/one/../real/tool") == str(real)


def test_a_circle_of_links_and_what_is_not_there_lead_to_nothing(base: Path) -> None:
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    (base / "c").symlink_to("nowhere")
    for name in ("a", "c", "d", "a/x"):
        assert resolve(f"{base}/{name}", for_others=False) is None


def test_the_first_file_in_PATH_that_can_be_executed_is_meant(base: Path) -> None:
    program(base / "one/tool", 0o644)
    (base / "two/tool").mkdir(parents=True)
    real = program(base / "three/tool")
    program(base / "four/tool")
    path = ":".join(str(base / name) for name in ("none", "one", "two", "three", "four"))
    assert found("tool", path) == str(real)
    assert found("tool", str(base / "one")) is None


def test_what_is_relative_starts_at_the_working_directory_or_is_not_known(base: Path) -> None:
    real = program(base / "bin/tool")
    assert found("./tool", workdir=base / "bin") == str(real)
    assert found("tool", ":/nonexistent", base / "bin") == str(real)
    assert found("tool", "bin", base) == str(real)
    assert found("./tool") is None
    assert found("tool", ":bin") is None


def test_others_are_told_nothing_of_a_directory_that_they_cannot_pass(base: Path) -> None:
    real = program(base / "private/bin/tool")
    (base / "link").symlink_to(real)
    (base / "private").chmod(0o750)
    (base / "private/out").symlink_to("/bin/sh")
    for path in (real, base / "link", base / "private/out", base / "private/bin/../../link"):
        assert resolve(str(path), for_others=True) is None
        assert resolve(str(path), for_others=False) is not None


def test_the_entries_of_a_rule_are_resolved_too(base: Path) -> None:
    program(base / "usr/bin/mawk")
    (base / "usr/bin/awk").symlink_to("mawk")
    (base / "bin").symlink_to("usr/bin")
    entries = [f"{base}/bin/awk", f"{base}/bin/", f"{base}/gone"]
    assert resolve_all(entries) == {
        f"{base}/bin/awk": f"{base}/usr/bin/mawk",
        f"{base}/bin/": f"{base}/usr/bin",
    }


def test_what_others_could_replace_is_told(base: Path) -> None:
    tool = program(base / "bin/tool")
    (base / "link").symlink_to("bin/tool")
    assert not [p for p in open_to_others(str(tool)) if p.startswith(str(base))]
    (base / "bin").chmod(0o777)
    assert str(base / "bin") in open_to_others(str(tool))
    assert str(base / "bin") in open_to_others(str(base / "link"))
    (base / "bin").chmod(0o755)
    tool.chmod(0o775)
    assert str(tool) in open_to_others(f"{base}/link")
    if os.geteuid() == 0:
        tool.chmod(0o755)
        os.chown(tool, 12345, 0)
        assert str(tool) in open_to_others(str(tool))


def test_a_sticky_directory_that_stands_for_all_below_it_is_open_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    place = tmp_path / "bin"
    place.mkdir()
    (place / "tool").write_text("")
    place.chmod(0o1777)
    assert str(place) in open_to_others(f"{place}/")
    assert str(place) not in open_to_others(f"{place}/tool")
