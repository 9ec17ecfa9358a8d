"""Readers get every byte, whenever they join and however slow they are; nobody pays for them."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from tests.support import (
    MIB,
    Client,
    Log,
    MakeInstance,
    eventually,
    gather,
    memory_kib,
    scaled,
    status_fields,
)

RUNS = scaled(5, 100)
LAST = 100_000
HALF = LAST // 2


def numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % n for n in range(first, last + 1))


def assert_whole(log: Log, expected: bytes) -> None:
    assert log.stdout == expected
    assert log.stderr == b""
    assert log.end is not None
    assert log.end.complete
    assert log.end.stdout_bytes == len(expected)
    assert log.end.lost_bytes == 0
    assert log.end.status.state == pb.JOB_STATE_TERMINATED
    assert log.end.status.outcome.WhichOneof("kind") == "exit_code"
    assert log.end.status.outcome.exit_code == 0


@pytest.mark.timeout(1200)
def test_readers_from_the_start_in_a_pause_and_after_the_end_get_the_same_bytes(
    alice: Client,
) -> None:
    first_half, whole = numbers(1, HALF), numbers(1, LAST)
    command = f"seq 1 {HALF}; sleep 0.2; seq {HALF + 1} {LAST}"
    with alice.api() as api, ThreadPoolExecutor() as pool:
        for _ in range(RUNS):
            job = api.start("sh", "-c", command)
            messages, received, joined = [], 0, None
            for message in api.stream(job):
                messages.append(message)
                received += sum(len(e.chunk.data) for e in message.batch.entries)
                if joined is None and received >= len(first_half):
                    joined = pool.submit(api.logs, job)
            assert joined is not None
            assert_whole(gather(messages), whole)
            assert_whole(joined.result(timeout=60), whole)
            assert_whole(api.logs(job), whole)


@pytest.mark.timeout(1200)
def test_a_burst_of_output_followed_at_once_by_the_end_is_whole(alice: Client) -> None:
    whole = numbers(1, LAST)
    with alice.api() as api:
        for _ in range(RUNS):
            job = api.start("seq", "1", str(LAST))
            assert_whole(api.logs(job), whole)


def test_jobc_prints_the_same_bytes_as_the_job_wrote(alice: Client) -> None:
    job = alice.start("seq", "1", str(LAST))
    assert alice.logs_raw(job) == (numbers(1, LAST), b"")
    assert alice.logs_raw(job) == (numbers(1, LAST), b"")


def test_a_log_read_without_following_stops_at_the_present_end(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("sh", "-c", "echo one; sleep 600")
        next(api.stream(job))
        log = api.logs(job, follow=False)
        assert log.stdout == b"one\n"
        assert log.end is not None
        assert not log.end.complete
        assert log.end.status.state == pb.JOB_STATE_RUNNING
        assert alice.output("logs", "--raw", "--no-follow", job) == b"one\n"
        api.stop(job, grace_ms=0)


def test_a_log_goes_on_behind_any_cursor_without_a_hole_or_a_double(alice: Client) -> None:
    with alice.api() as api:
        job = api.start("seq", "1", str(LAST))
        messages = list(api.stream(job))
        seen = b""
        for message in messages:
            rest = api.logs(job, cursor=message.cursor)
            seen += b"".join(entry.chunk.data for entry in message.batch.entries)
            assert seen + rest.stdout == numbers(1, LAST)


class Memory:
    """The highest resident size of a process since this was made."""

    def __init__(self, name: str, pid: int) -> None:
        self._name, self._pid = name, pid
        self._before = memory_kib(pid, "Rss")
        # proc(5): 5 resets the peak resident set size.
        Path(f"/proc/{pid}/clear_refs").write_text("5")

    def growth_kib(self) -> int:
        peak = int(status_fields(self._pid)["VmHWM"].split()[0])
        print(f"{self._name}: {self._before} KiB before, {peak} KiB at most")
        return peak - self._before


@pytest.mark.timeout(1200)
def test_random_bytes_pass_through_unchanged_and_leave_memory_flat(
    make_instance: MakeInstance,
) -> None:
    size = scaled(32 * MIB, 1024 * MIB)
    alice = make_instance().issue("alice", "user")
    # The pause at the end keeps the keeper alive until it has been measured.
    command = f"head -c {size} /dev/urandom >r; sha256sum <r >&2; cat r; rm r; exec sleep 600"
    with alice.api() as api:
        warm = api.start("head", "-c", "100000", "/dev/zero")
        assert len(api.logs(warm).stdout) == 100_000
        job = api.start("sh", "-c", command)
        keeper_pid = eventually(lambda: alice.instance.keeper_of(job), what="the keeper")
        server, keeper = Memory("jobd", alice.instance.pid), Memory("keeper", keeper_pid)
        digest, left = hashlib.sha256(), size
        with alice.popen("logs", "--raw", job) as reader:
            assert reader.stdout is not None
            assert reader.stderr is not None
            while left:
                data = os.read(reader.stdout.fileno(), min(left, MIB))
                assert data, "the output ended too early"
                digest.update(data)
                left -= len(data)
            growth = server.growth_kib(), keeper.growth_kib()
            api.stop(job, grace_ms=0)
            rest, errors = reader.communicate(timeout=60)
        assert rest == b""
        assert reader.returncode == 0, errors
        told = re.match(rb"[0-9a-f]{64}", errors)
        assert told is not None, errors
        assert digest.hexdigest() == told[0].decode()
    assert growth[0] < 24 * 1024, "jobd keeps the log in its memory"
    assert growth[1] < 8 * 1024, "the keeper keeps the log in its memory"


@pytest.mark.timeout(1200)
def test_a_reader_that_stands_still_delays_no_job_and_fills_no_memory(
    make_instance: MakeInstance,
) -> None:
    size = scaled(64 * MIB, 1024 * MIB)
    alice = make_instance().issue("alice", "user")
    expected = hashlib.sha256()
    line = b"a line of the job\n"
    block = line * 65_536
    for begin in range(0, size, len(block)):
        expected.update(block[: size - begin])
    with alice.api() as api, alice.api() as second:
        api.start("true")
        server = Memory("jobd", alice.instance.pid)
        job = api.start("sh", "-c", f"yes '{line.decode().strip()}' | head -c {size}")
        messages = api.stream(job, timeout=1000)
        first = next(messages)
        # From here on the reader takes nothing, and the job must end all the same.
        eventually(
            lambda: second.status(job).state == pb.JOB_STATE_TERMINATED,
            deadline_s=scaled(60, 600),
            what="the end of the job",
        )
        grown = server.growth_kib()
        digest, received, end = hashlib.sha256(), 0, None
        for message in chain([first], messages):
            end = message.end if message.HasField("end") else None
            for entry in message.batch.entries:
                digest.update(entry.chunk.data)
                received += len(entry.chunk.data)
        assert received == size
        assert digest.digest() == expected.digest()
        assert end is not None
        assert end.complete
        assert max(grown, server.growth_kib()) < 40 * 1024
