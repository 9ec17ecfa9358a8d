"""Removing trees that somebody else has made: whatever is in them goes, and nothing beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobruntime.linux.trees import InterruptedRemovalError, remove_tree
from tests.support import IS_ROOT

NOBODY = 65_534


def test_an_absent_directory_is_no_error(tmp_path: Path) -> None:
    assert remove_tree(str(tmp_path / "home")) == 0
    assert remove_tree(str(tmp_path / "no/home")) == 0


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "inner").mkdir(parents=True)
    (kept / "file").write_text("x")
    home = tmp_path / "home"
    (home / "a/b").mkdir(parents=True)
    for place in (home, home / "a", home / "a/b"):
        (place / "to-directory").symlink_to(kept)
        (place / "to-file").symlink_to(kept / "file")
        (place / "to-nothing").symlink_to("/nowhere")
        (place / "hard").hardlink_to(kept / "file")
        (place / "file").write_bytes(bytes(8192))
    os.mkfifo(home / "a/pipe")

    freed = remove_tree(str(home))

    assert 3 * 8192 <= freed < 8 * 8192
    assert not home.exists()
    assert sorted(os.listdir(kept)) == ["file", "inner"]
    assert (kept / "file").stat().st_nlink == 1


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "home").symlink_to("kept")
    with pytest.raises(NotADirectoryError):
        remove_tree(str(tmp_path / "home"))
    assert (tmp_path / "kept/file").exists()


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    script = "import os\nfor _ in range(1500):\n os.mkdir('d' * 200); os.chdir('d' * 200)\n"
    subprocess.run([sys.executable, "-c", script + "open('file', 'w')"], cwd=home, check=True)
    before = len(os.listdir("/proc/self/fd"))

    assert remove_tree(str(home)) > 0

    assert not home.exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_of_any_bytes_and_locked_directories_are_removed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "a/b/c").mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(home / "a/b") + b"/\xff\n")).touch()
    (home / "a/b/c/file").touch()
    for path in (home / "a/b/c", home / "a/b", home / "a", home):
        path.chmod(0)
    if IS_ROOT:
        _remove_as_nobody(tmp_path)
    else:
        remove_tree(str(home))
    assert not home.exists()


def _remove_as_nobody(directory: Path) -> None:
    """Remove as a user to whom the modes of directories mean something."""
    for path in (directory, *directory.rglob("*/")):
        os.chown(path, NOBODY, NOBODY)
    code = "import os; from jobruntime.linux.trees import remove_tree"
    code += f"; os.setuid({NOBODY}); remove_tree('./home')"
    subprocess.run([sys.executable, "-c", code], cwd=directory, check=True)


def test_a_removal_that_is_interrupted_can_be_begun_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for n in range(10):
        (home / f"a{n}/b/c").mkdir(parents=True)
        (home / f"a{n}/b/c/file").touch()
    steps = iter([True] * 13)

    with pytest.raises(InterruptedRemovalError):
        remove_tree(str(home), lambda: next(steps, False))

    assert home.exists()
    remove_tree(str(home))
    assert not home.exists()


def test_what_is_made_in_it_meanwhile_goes_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    inner = home / "inner"
    inner.mkdir(parents=True)
    fd = os.open(inner, os.O_RDONLY | os.O_DIRECTORY)
    made = threading.Event()

    def make() -> None:
        for n in range(5_000):
            try:
                os.mkdir(f"d{n}", dir_fd=fd)
                os.symlink("/", f"l{n}", dir_fd=fd)
            except OSError:
                break  # it is gone
            made.set()

    maker = threading.Thread(target=make)
    maker.start()
    made.wait()
    remove_tree(str(home))
    maker.join()
    os.close(fd)
    assert not home.exists()
    assert os.listdir("/")


@pytest.mark.skipif(not IS_ROOT, reason="only root can mount")
def test_another_file_system_in_it_is_left_alone(tmp_path: Path) -> None:
    mounted = tmp_path / "home/a/b"
    mounted.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "jobd-test", mounted], check=True)
    try:
        (mounted / "file").touch()
        with pytest.raises(OSError, match=r"mounted|busy"):
            remove_tree(str(tmp_path / "home"))
        found = subprocess.run(
            ["findmnt", "-no", "TARGET", "-S", "jobd-test"], capture_output=True, check=True
        ).stdout.decode()
        assert [Path(line, "file").exists() for line in found.split() if str(tmp_path) in line]
    finally:
        subprocess.run(["umount", mounted], check=False)
