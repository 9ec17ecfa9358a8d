"""The audit's chain goes on over files, crashes and full disks, and no change of it is missed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobruntime.model.audit_lines import GENESIS, Head, encode_line, parse_head
from jobruntime.model.errors import JobError, Reason
from jobruntime.server import audit_command, audit_verify
from jobruntime.server.audit import HELD_BYTES, AuditLog, open_audit
from jobruntime.server.audit_verify import Findings, files_of, verify_audit
from jobruntime.server.config_audit import AuditConfig
from jobruntime.worker.audit_files import rotated_files
from tests.disks import fill, mounted_disk
from tests.support import DEADLINE_S, MIB


def record(path: Path, count: int, *, end: bool = True, **options: int) -> None:
    """Write so many lines, and a server's begin and end around them."""
    log = AuditLog(AuditConfig(path, **options))  # type: ignore[arg-type]
    for number in range(count):
        assert log.write({"event": "call", "number": number}) is not None
    if end:
        asyncio.run(log.close())
    else:
        os.close(log._file.fd)  # as a kill does


def lines_of(path: Path) -> list[dict[str, object]]:
    """Return all lines of the audit at `path`, of its older files too."""
    return [json.loads(line) for file in files_of(path) for line in file.read_bytes().splitlines()]


def look(path: Path, head: str | None = None) -> Findings:
    return verify_audit(files_of(path), None if head is None else parse_head(head))


def causes(findings: Findings) -> str:
    return "\n".join(map(str, findings.faults))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "audit.jsonl"


def test_what_nobody_has_touched_is_whole(path: Path) -> None:
    record(path, 5)

    findings = look(path)

    assert causes(findings) == ""
    assert findings.head is not None
    assert findings.head.seq == findings.lines == 8
    assert causes(look(path, str(findings.head))) == ""
    assert causes(look(path, findings.head.hash.upper())) == ""
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_each_hash_is_that_of_the_bytes_before_it_and_each_line_refers_to_the_last(
    path: Path,
) -> None:
    record(path, 3)
    before = "0" * 64

    for line in path.read_text().splitlines():
        body, _, rest = line.rpartition(',"hash":"')
        values = json.loads(line)
        assert values["prev"] == before
        before = sha256(body.encode()).hexdigest()
        assert rest == before + '"}'


def test_a_head_is_still_found_when_lines_have_come_after_it(path: Path) -> None:
    record(path, 2)
    head = str(look(path).head)
    record(path, 2)

    assert causes(look(path, head)) == ""


def edit(path: Path, change: Callable[[list[bytes]], object]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


def swap(lines: list[bytes]) -> None:
    lines[4], lines[5] = lines[5], lines[4]


def forge(lines: list[bytes]) -> None:
    """Put a line there whose own hash is right."""
    fields = {"event": "call", "number": 99}
    prev = json.loads(lines[4])["prev"]
    lines[4] = encode_line(Head(4, prev), 0, fields)[0]


CHANGES = {
    "a byte": (lambda lines: lines.__setitem__(4, lines[4].replace(b"2", b"3", 1)), 5, "changed"),
    "a line removed": (lambda lines: lines.pop(4), 5, "line 5 is missing"),
    "lines removed": (lambda lines: lines.__delitem__(slice(4, 7)), 5, "lines 5 to 7 are missing"),
    "two swapped": (swap, 5, "line 5 is missing"),
    "a line twice": (lambda lines: lines.insert(4, lines[3]), 5, "it is line 4"),
    "a forged line": (forge, 6, "another than when it was written"),
    "the first line": (lambda lines: lines.pop(0), 1, "first lines were removed"),
    "half a line": (lambda lines: lines.__setitem__(-1, lines[-1][:-9]), 13, "cut off"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_found_by_its_line(path: Path, kind: str) -> None:
    record(path, 10)
    change, number, cause = CHANGES[kind]
    edit(path, change)

    fault = look(path).faults[0]

    assert (fault.file, fault.line) == (str(path), number)
    assert cause in fault.cause


@pytest.mark.parametrize("kept", [12, 7, 1])
def test_a_tail_that_was_cut_is_found_with_the_head(path: Path, kept: int) -> None:
    record(path, 10)
    head = str(look(path).head)
    edit(path, lambda lines: lines.__delitem__(slice(kept, None)))

    assert causes(look(path)) == ""
    assert f"lines {kept + 1} to 13, which the head tells of, were removed" in causes(
        look(path, head)
    )


def test_a_head_whose_number_is_not_its_lines_is_told(path: Path) -> None:
    record(path, 3)
    head = parse_head(str(look(path).head))
    assert "is that of line" in causes(look(path, f"{(head[0] or 0) + 1}:{head[1]}"))


def test_an_audit_that_was_begun_anew_does_not_have_the_head(path: Path) -> None:
    record(path, 10)
    head = str(look(path).head)
    path.unlink()
    record(path, 20)

    assert "is not here" in causes(look(path, head))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "audit" / "audit.jsonl"
    record(path, 4)
    return path


@given(data=st.data())
def test_no_single_mutation_is_missed(sample: Path, data: st.DataObject) -> None:
    original = sample.read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    byte = bytes([data.draw(st.integers(0, 255))])
    kind = data.draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
    changed = {
        "replace": original[:place] + byte + original[place + 1 :],
        "insert": original[:place] + byte + original[place:],
        "delete": original[:place] + original[place + 1 :],
        "cut": original[:place],
    }[kind]
    if changed == original:
        return
    path = sample.with_name("mutation")
    path.write_bytes(changed)
    head = parse_head(json.loads(original.splitlines()[-1])["hash"])

    findings = verify_audit([path], head)

    assert findings.faults
    if kind in ("replace", "delete") and original[place : place + 1] != b"\n":
        # Also where nobody has kept a head, and it is the last line.
        found = verify_audit([path]).faults[0]
        assert found.line == original[:place].count(b"\n") + 1


# ---------------------------------------------------------------- files


def test_the_chain_goes_on_over_files_and_old_ones_go(path: Path) -> None:
    record(path, 2000, max_bytes=64 << 10, keep=3)

    older = files_of(path)[:-1]
    findings = look(path)

    assert len(older) == 3
    assert causes(findings) == ""
    assert findings.first_seq is not None
    assert findings.first_seq > 1
    firsts = [json.loads(file.read_bytes().splitlines()[0]) for file in files_of(path)]
    assert [first["event"] for first in firsts] == ["file"] * 4
    assert [first["continues"] for first in firsts[1:]] == [file.name for file in older]
    assert firsts[-1]["oldest"] == findings.first_seq


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_file_that_is_missing_is_found(path: Path, number: int) -> None:
    record(path, 2000, max_bytes=64 << 10, keep=3)
    head = str(look(path).head)
    files_of(path)[number].unlink()

    findings = look(path, head)

    assert "removed" in causes(findings) or "missing" in causes(findings)


def test_with_none_to_be_kept_only_the_present_file_is_there(path: Path) -> None:
    record(path, 1000, max_bytes=64 << 10, keep=0)

    assert files_of(path) == [path]
    assert causes(look(path)) == ""


def test_a_file_that_is_old_is_followed_by_a_new_one(path: Path) -> None:
    record(path, 1)
    first = path.read_bytes().splitlines()[0]
    old = first.replace(b'"time":"2', b'"time":"1')  # a thousand years
    path.write_bytes(path.read_bytes().replace(first, old))

    record(path, 1, age_ms=3_600_000)

    assert len(files_of(path)) == 2


def test_a_rotation_that_a_crash_has_cut_short_never_happened(path: Path) -> None:
    record(path, 3)
    double = path.with_name(f"{path.name}.000000000001")
    double.hardlink_to(path)
    path.with_name(f"{path.name}.new").write_bytes(b"{")
    assert causes(look(path)) == ""

    record(path, 3)

    assert files_of(path) == [path]
    assert causes(look(path)) == ""


@pytest.mark.parametrize("keep", [2, 30])
def test_files_that_are_rotated_while_they_are_listed_are_whole(
    path: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = path.parent.parent / "jobd.toml"
    config.write_text('[audit]\npath = "audit/audit.jsonl"\n')
    log = AuditLog(AuditConfig(path, max_bytes=1, keep=keep))  # each line begins a new file
    for _ in range(4):
        log.write({"event": "call"})
    listed = rotated_files
    rotations = iter(range(5))

    def list_and_rotate(path: Path) -> list[Path]:
        found = listed(path)
        if next(rotations, None) is not None:
            log.write({"event": "call"})
        return found

    monkeypatch.setattr(audit_verify, "rotated_files", list_and_rotate)
    wanted = Namespace(action="verify", config=str(config), files=[], head=None, output="text")

    assert audit_command.run(wanted) == 0
    assert next(rotations, None) is None
    asyncio.run(log.close())


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    "torn", [b"{", b'{"seq":99,"time":"\xff\xfe', b"\0" * 5000, b"x" * 300_000]
)
def test_a_line_that_a_crash_has_torn_is_told_with_its_hash(path: Path, torn: bytes) -> None:
    record(path, 3, end=False)
    with path.open("ab") as file:
        file.write(torn)
    assert "cut off" in causes(look(path))

    record(path, 1)

    assert causes(look(path)) == ""
    [told] = [line for line in lines_of(path) if line["event"] == "recovered"]
    assert told["torn_bytes"] == len(torn)
    assert told["torn_sha256"] == sha256(torn).hexdigest()
    [crash] = [line for line in lines_of(path) if line["event"] == "crash"]
    assert crash["after"] == "call"


def test_a_server_that_ended_well_tells_of_no_crash(path: Path) -> None:
    record(path, 1)
    record(path, 1)

    events = [line["event"] for line in lines_of(path)]

    assert events == [
        *("file", "server-start", "call", "server-stop"),
        *("server-start", "call", "server-stop"),
    ]


def test_a_last_line_that_was_changed_stays_a_fault_and_the_numbers_go_on(path: Path) -> None:
    record(path, 3)
    edit(path, lambda lines: lines.__setitem__(-1, lines[-1].replace(b"stop", b"st0p")))

    record(path, 3)

    findings = look(path)
    assert [fault.line for fault in findings.faults] == [6]
    assert [line["seq"] for line in lines_of(path)] == list(range(1, 13))


def test_an_audit_of_which_only_a_torn_first_line_is_left_is_begun_anew_and_told(
    path: Path,
) -> None:
    record(path, 3)
    path.write_bytes(path.read_bytes()[:40])

    record(path, 0)

    events = [line["event"] for line in lines_of(path)]
    assert events == ["file", "recovered", "server-start", "server-stop"]


def test_two_servers_do_not_write_one_audit(path: Path) -> None:
    first = AuditLog(AuditConfig(path))

    with pytest.raises(JobError) as caught:
        AuditLog(AuditConfig(path))

    assert caught.value.reason is Reason.INSTANCE_IN_USE
    asyncio.run(first.close())


# ---------------------------------------------------------------- a full disk


def write_until_refused(log: AuditLog) -> int:
    """Write lines of calls that change something, until one is refused; return how many."""
    written = 0
    with suppress(JobError):
        while True:
            log.reserve(8192)
            log.release(8192)
            assert log.write({"event": "call", "pad": "x" * 8000}, is_reserved=True)
            written += 1
    with pytest.raises(JobError) as caught:
        log.reserve(8192)
    assert caught.value.reason is Reason.AUDIT_UNAVAILABLE
    return written


def test_on_a_full_disk_what_was_let_in_is_written_and_the_rest_refused_or_counted(
    tmp_path: Path,
) -> None:
    with mounted_disk(tmp_path / "disk", 4 * MIB) as disk:
        path = disk / "audit" / "audit.jsonl"
        log = AuditLog(AuditConfig(path))
        log.reserve(8192)
        ballast = fill(disk)

        while log.write({"event": "call", "pad": "x" * 8000}) is not None:
            pass
        assert write_until_refused(log) >= HELD_BYTES // 8192
        log.release(8192)
        assert log.write({"event": "call", "kind": "reserved"}, is_reserved=True)

        ballast.unlink()
        assert log.write({"event": "call", "kind": "after"})
        asyncio.run(log.close())

        assert causes(look(path)) == ""
        lines = lines_of(path)
        assert sum(int(str(line.get("lost", 0))) for line in lines) == 1
        kinds = [line["kind"] for line in lines if "kind" in line]
        assert kinds == ["reserved", "after"]


def test_a_line_that_does_not_fit_leaves_nothing_of_itself(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", 2 * MIB) as disk:
        path = disk / "audit" / "audit.jsonl"
        log = AuditLog(AuditConfig(path))
        before = look(path).head

        assert log.write({"event": "call", "pad": "x" * 3 * MIB}, is_reserved=True) is None

        assert look(path).head == before
        assert log.write({"event": "call"})
        assert causes(look(path)) == ""
        asyncio.run(log.close())


# ---------------------------------------------------------------- syncs that fail


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let the process open nothing more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def until_reserve(log: AuditLog, *, is_refused: bool) -> None:
    async with asyncio.timeout(DEADLINE_S / 10):
        while True:
            try:
                log.reserve(100)
                log.release(100)
                was_refused = False
            except JobError:
                was_refused = True
            if was_refused == is_refused:
                return
            await asyncio.sleep(0.01)


def test_without_descriptors_changes_are_refused_until_there_are_some_again(path: Path) -> None:
    async def serve() -> None:
        async with open_audit(AuditConfig(path, sync_ms=10)) as log:
            with no_descriptors():
                assert log.write({"event": "call"})
                await until_reserve(log, is_refused=True)
            await until_reserve(log, is_refused=False)

    asyncio.run(serve())

    assert lines_of(path)[-1]["event"] == "server-stop"
    assert causes(look(path)) == ""


def test_an_end_without_descriptors_is_still_written(path: Path) -> None:
    async def serve() -> None:
        with ExitStack() as stack:
            async with open_audit(AuditConfig(path, sync_ms=10)) as log:
                stack.enter_context(no_descriptors())
                log.write({"event": "call"})
                await asyncio.sleep(0.1)

    asyncio.run(serve())

    assert lines_of(path)[-1]["event"] == "server-stop"


def test_a_rotation_that_lacks_a_descriptor_has_not_begun(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    log = AuditLog(AuditConfig(path, max_bytes=1))
    before = files_of(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", refuse)  # others take the last one in just that moment
        assert log.write({"event": "call"})

    assert files_of(path) == before
    asyncio.run(log.close())
    assert causes(look(path)) == ""


def test_a_sync_that_failed_is_tried_again_for_older_files_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = os.fdatasync, set[int]()
    is_broken = True

    def sync_or_fail(fd: int) -> None:
        if is_broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)
        synced.add(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fdatasync", sync_or_fail)
    log = AuditLog(AuditConfig(path, max_bytes=1, keep=2, sync_ms=0))
    for _ in range(5):
        log.write({"event": "call"})
        asyncio.run(log.settle())
    is_broken = False
    asyncio.run(log.settle())

    assert synced == {file.stat().st_ino for file in files_of(path)}
    asyncio.run(log.close())


def test_the_first_line_of_all_refers_to_nothing() -> None:
    line, head = encode_line(GENESIS, 1_643_018_400_000_000_001, {"event": "file"})

    assert json.loads(line) == {
        "seq": 1,
        "time": "2022-01-24T10:00:00.000000001Z",
        "event": "file",
        "prev": "0" * 64,
        "hash": head.hash,
    }


def test_control_characters_cannot_break_a_line() -> None:
    line, _ = encode_line(GENESIS, 0, {"event": "call", "job": 'a\n"}\r\0\u2028\udcff"'})

    assert line.count(b"\n") == 1
    assert line.isascii()
    assert json.loads(line)["job"] == 'a\n"}\r\0\u2028\udcff"'
