"""Certificates replaced together with their keys: by two at once, and while somebody reads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobruntime.model.access import Role
from jobruntime.model.errors import JobError
from jobruntime.rpc import tls
from jobruntime.rpc.pairs import replace_pair
from jobruntime.server import pki
from jobruntime.server.issued import changing

REPLACE_OFTEN = """
import sys
from pathlib import Path
from jobruntime.rpc.pairs import replace_pair
mine, pair = (Path(name) for name in sys.argv[1:])
new = mine.with_suffix(".crt").read_bytes(), mine.with_suffix(".key").read_bytes()
print(flush=True)
sys.stdin.readline()
for _ in range(30):
    replace_pair(pair.with_suffix(".crt"), pair.with_suffix(".key"), *new)
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    authority = pki.make_authority(pki.pair_at(tmp_path, "ca"))
    for name in ("alice", "bob", "carol"):
        pki.issue_client(authority, pki.pair_at(tmp_path, name), name, [Role.USER])
    return tmp_path


def contents(pair: pki.Pair) -> tuple[bytes, bytes]:
    return pair.certificate.read_bytes(), pair.key.read_bytes()


def read_by_client(pair: pki.Pair) -> None:
    tls.read_client_pair(pair.certificate, pair.key)


def read_by_pki(pair: pki.Pair) -> None:
    pki.read_pair(pair)


readers = pytest.mark.parametrize("read", [read_by_client, read_by_pki])
Read = Callable[[pki.Pair], None]


def before_reading(
    monkeypatch: pytest.MonkeyPatch, path: Path, act: Callable[[], object], times: int = 1
) -> None:
    """Do `act` before each of the next `times` readings of `path`."""
    read_file = tls._read_file
    left = times

    def act_and_read(
        found: tls.FilePath, what: str, remedy: str, most_bytes: int = tls._MAX_FILE_BYTES
    ) -> tuple[bytes, int]:
        nonlocal left
        if Path(found) == path and left > 0:
            left -= 1
            act()
        return read_file(found, what, remedy, most_bytes)

    monkeypatch.setattr(tls, "_read_file", act_and_read)


def test_two_replacements_at_once_leave_one_whole_pair(made: Path) -> None:
    pair = pki.pair_at(made, "carol")
    command = [sys.executable, "-c", REPLACE_OFTEN]
    both = [
        subprocess.Popen(
            [*command, made / name, made / "carol"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("alice", "bob")
    ]
    for one in both:
        assert one.stdout is not None
        one.stdout.readline()
    for one in both:
        assert one.stdin is not None
        one.stdin.write(b"\n")
        one.stdin.flush()
    for one in both:
        one.communicate(timeout=60)
    assert [one.returncode for one in both] == [0, 0]
    assert contents(pair) in [contents(pki.pair_at(made, name)) for name in ("alice", "bob")]
    assert not (made / "carol.key.new").exists()


def test_whoever_holds_the_directory_can_replace_a_pair_in_it(made: Path) -> None:
    alice = pki.pair_at(made, "alice")
    new = contents(pki.pair_at(made, "bob"))
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX|fcntl.LOCK_NB)"
    )
    try_lock = [sys.executable, "-c", code, str(made)]
    with changing(made):
        replace_pair(alice.certificate, alice.key, *new)
        assert contents(alice) == new
        # The inner one has not given back what the outer one holds.
        assert subprocess.run(try_lock, stderr=subprocess.DEVNULL).returncode != 0
    assert subprocess.run(try_lock).returncode == 0


@readers
@pytest.mark.parametrize("times", [1, 3])
def test_a_pair_replaced_between_its_certificate_and_its_key_is_read_again(
    made: Path, monkeypatch: pytest.MonkeyPatch, read: Read, times: int
) -> None:
    alice = pki.pair_at(made, "alice")
    new = [contents(pki.pair_at(made, name)) for name in ("bob", "carol", "bob")]
    before_reading(
        monkeypatch,
        alice.key,
        lambda: replace_pair(alice.certificate, alice.key, *new.pop(0)),
        times,
    )
    read(alice)
    assert len(new) == 3 - times


@readers
def test_a_key_renamed_just_before_the_look_at_the_new_one_is_read_again(
    made: Path, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    alice, pending = pki.pair_at(made, "alice"), made / "alice.key.new"
    (made / "bob.key").rename(pending)
    (made / "bob.crt").rename(alice.certificate)
    before_reading(monkeypatch, pending, lambda: pending.rename(alice.key))
    read(alice)
    assert not pending.exists()


@readers
def test_the_new_key_is_found_where_the_old_one_is_a_link(
    made: Path, tmp_path: Path, read: Read
) -> None:
    (made / "bob.key").rename(made / "alice.key.new")
    (tmp_path / "link").mkdir()
    (tmp_path / "link/alice.key").symlink_to(made / "alice.key")
    read(pki.Pair(made / "bob.crt", tmp_path / "link/alice.key"))


@readers
def test_a_pair_that_never_fits_is_refused_however_often_it_changes(
    made: Path, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    alice, wrong = pki.pair_at(made, "alice"), (made / "bob.key").read_bytes()
    alice.key.write_bytes(wrong)
    with pytest.raises(JobError, match="it is not the key of"):
        read(alice)
    before_reading(
        monkeypatch, alice.key, lambda: alice.key.write_bytes(alice.key.read_bytes() + b"\n"), 1000
    )
    with pytest.raises(JobError, match="it is not the key of"):
        read(alice)
