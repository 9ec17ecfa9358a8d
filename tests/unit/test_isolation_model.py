"""The ways of isolation: ordered, written and read, on disk and on the wire."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobruntime.keeper.assignment import (
    Assignment,
    Files,
    Paths,
    Program,
    Stopping,
    decode_assignment,
    encode_assignment,
)
from jobruntime.keeper.isolation import _arguments
from jobruntime.model.isolation import Isolation
from jobruntime.model.spec import JobSpec, encode_spec, parse_spec, same_request
from jobruntime.rpc.convert import spec_of, start_request_of
from jobruntime.server.config import read_config
from jobruntime.server.worker_settings import hidden_of

WAYS = [None, *Isolation]


def test_each_way_keeps_away_more_than_the_one_before() -> None:
    ways = ["none", "host-network", "loopback", "no-network"]
    assert [Isolation(way).strictness for way in ways] == [0, 1, 2, 3]


@pytest.mark.parametrize("way", WAYS)
def test_a_spec_keeps_its_isolation_on_disk_and_on_the_wire(way: Isolation | None) -> None:
    spec = JobSpec(argv=("true",), isolation=way)
    assert parse_spec(encode_spec(spec)) == spec
    assert spec_of(start_request_of(spec), 0).isolation is way


def test_a_record_of_an_older_version_has_none() -> None:
    old = encode_spec(JobSpec(argv=("true",)))
    del old["isolation"]
    assert parse_spec(old).isolation is None


def test_a_word_that_is_not_known_is_never_read_as_none() -> None:
    with pytest.raises(ValueError, match="'tomorrow'"):
        parse_spec(encode_spec(JobSpec(argv=("true",))) | {"isolation": "tomorrow"})


def test_requests_that_differ_in_isolation_are_two() -> None:
    specs = [JobSpec(argv=("true",), isolation=way) for way in WAYS]
    for place, spec in enumerate(specs):
        assert [same_request(spec, other) for other in specs].index(True) == place


@pytest.mark.parametrize("group", [(), (20,), (20, 21), (20, 21, 22)])
@pytest.mark.parametrize("way", [Isolation.NONE, Isolation.LOOPBACK])
@pytest.mark.parametrize("size", [1, 40_000])
def test_an_assignment_arrives_with_its_descriptors(
    group: tuple[int, ...], way: Isolation, size: int
) -> None:
    view = -1 if way is Isolation.NONE else 30
    files = Files(*range(12), *(*group, -1, -1, -1)[:3])._replace(view=view)
    job = Assignment(
        job_id="id",
        paths=Paths("home", "control", None),
        stopping=Stopping(15, 0, None),
        program=Program((b"x" * size,), (b"x",), {}, b"/", None),
        io=b"",
        peer_uids=(0,),
        log=(None, None),
        log_reserve_bytes=1,
        isolation=way.value,
        started_record=(b"a", b"b"),
        files=files,
    )
    data, fds, large = encode_assignment(job)
    if large is not None:
        fds[-1] = os.dup(large)
        os.close(large)
    assert decode_assignment(data, fds) == job


def words(home: str, *hidden: str, way: Isolation = Isolation.NO_NETWORK) -> str:
    return " ".join(_arguments("0123456789", way, home, hidden))


def test_what_lies_below_a_hidden_place_is_hidden_once(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    told = words("/srv/work/id", str(tmp_path / "state"), "/srv")
    assert f"--tmpfs {tmp_path}" not in told  # all of it lies in the private /tmp
    assert told.count("--tmpfs /srv") == 1
    # The way to the job's own directory is made so that its user can pass, then closed.
    assert "--perms 0755 --dir /srv/work --bind /srv/work/id /srv/work/id" in told
    assert told.index("--bind /srv/work/id") < told.index("--remount-ro /srv")
    assert "--remount-ro /tmp" not in told


def test_a_place_that_is_not_there_is_no_hindrance() -> None:
    assert "/no/such/place" not in words("/srv/work/id", "/no/such/place")


def test_a_single_file_is_covered_and_not_its_directory() -> None:
    assert "--ro-bind /dev/null /etc/passwd" in words("/srv/work/id", "/etc/passwd")


def test_only_an_own_network_is_unshared() -> None:
    assert "--unshare-net" in words("/srv/id")
    assert "--unshare-net" in words("/srv/id", way=Isolation.LOOPBACK)
    assert "--unshare-net" not in words("/srv/id", way=Isolation.HOST_NETWORK)


def test_a_directory_that_may_be_anybodys_stays_in_sight(tmp_path: Path) -> None:
    # Else a configuration in /etc, with a key among the system's, would take all of it away.
    path = tmp_path / "jobd.toml"
    path.write_text('[tls]\nkey = "/etc/ssl/private/jobd.key"\ncert = "/jobd.crt"\n')
    hidden = hidden_of(read_config(path))
    assert hidden == tuple(
        sorted(["/etc/ssl/private/jobd.key", "/jobd.crt", str(tmp_path), f"{tmp_path}/pki"])
    )
