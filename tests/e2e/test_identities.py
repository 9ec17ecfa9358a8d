"""Certificates that must not do, each beside one that does and differs in a single thing."""

from __future__ import annotations

import datetime as dt
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobruntime.model.access import Role
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc
from jobruntime.server.pki import (
    Authority,
    Pair,
    issue_client,
    make_authority,
    pair_at,
    read_authority,
)
from tests.calls import Answer, ask
from tests.certificates import CLIENT, DAY, SERVER, odd_certificate
from tests.conftest import MakeInstance
from tests.support import Client, Instance

Make = Callable[[Authority, Path], Pair]


@pytest.fixture(scope="module")
def authority(shared: Instance) -> Authority:
    return read_authority(pair_at(shared.directory / "pki", "ca"))


def as_holder(instance: Instance, pair: Pair) -> Client:
    return Client(instance, "somebody", pair.certificate, pair.key)


def start_as(client: Client) -> Answer:
    """Try to start a job over a connection of its own."""
    with client.channel() as channel:
        return ask(JobServiceStub(channel), pb.StartRequest(argv=["true"]), deadline_s=10)


def odd(**changes: object) -> Make:
    """Return a maker of alice's certificate with these changes."""
    values: dict[str, object] = {"names": ["alice"], "roles": ["user"]} | changes

    def make(authority: Authority, directory: Path) -> Pair:
        return odd_certificate(authority, directory, "odd", **values)  # type: ignore[arg-type]

    return make


def of_another_authority(_: Authority, directory: Path) -> Pair:
    other = make_authority(pair_at(directory, "other-ca"))
    pair = pair_at(directory, "other")
    issue_client(other, pair, "alice", [Role.USER])
    return pair


def of_an_authority_of_the_same_name(authority: Authority, directory: Path) -> Pair:
    other = make_authority(pair_at(directory, "other-ca"))
    return odd()(replace(authority, key=other.key), directory)


def expired(authority: Authority, directory: Path) -> Pair:
    """Make what `jobd cert issue` made two days ago, for one day."""
    pair = pair_at(directory, "expired")
    then = dt.datetime.now(dt.UTC) - 2 * DAY
    issue_client(authority, pair, "alice", [Role.USER], days=1, now=then)
    return pair


def not_yet_valid(authority: Authority, directory: Path) -> Pair:
    pair = pair_at(directory, "early")
    issue_client(authority, pair, "alice", [Role.USER], now=dt.datetime.now(dt.UTC) + DAY)
    return pair


def long_name(name: str) -> Make:
    """Return a maker of a certificate with a name that is longer than X.520 allows."""

    def make(authority: Authority, directory: Path) -> Pair:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return odd(names=[name])(authority, directory)

    return make


AT_THE_HANDSHAKE = {
    "of another CA": of_another_authority,
    "signed by another key in our CA's name": of_an_authority_of_the_same_name,
    "expired": expired,
    "not yet valid": not_yet_valid,
    "expired a minute ago": odd(ends_in=dt.timedelta(minutes=-1)),
    "made for servers": odd(usages=[SERVER]),
}

BY_THE_SERVER = {
    "no role": odd(roles=[]),
    "an unknown role": odd(roles=["operator"]),
    "a role and an unknown one": odd(roles=["user", "operator"]),
    "an unknown role first": odd(roles=["operator", "admin"]),
    "a role in capitals": odd(roles=["Admin"]),
    "a role with a space": odd(roles=["admin "]),
    "two roles in one": odd(roles=["user,admin"]),
    "no name": odd(names=[]),
    "two names": odd(names=["alice", "bob"]),
    "one name twice": odd(names=["alice", "alice"]),
    "a name with a slash": odd(names=["../alice"]),
    "a name with a line feed": odd(names=["alice\nbob"]),
    "a name with a NUL": odd(names=["alice\0"]),
    "a name that starts with a dot": odd(names=["..alice"]),
    "a name of 65 characters": long_name("x" * 65),
    "a name of 64 KiB": long_name("x" * 65_536),
    "a name in two scripts": odd(names=["\u0430lice"]),
    "a name in another form of Unicode": odd(names=["\uff41lice"]),
    "a name that changes the direction": odd(names=["ecila\u202e"]),
    "a role in look-alikes": odd(roles=["\u0430dmin"]),
    "a role with a NUL": odd(roles=["admin\0"]),
    "made for nothing": odd(usages=[]),
    "made for signing code": odd(usages=[ExtendedKeyUsageOID.CODE_SIGNING]),
}


@pytest.mark.parametrize("kind", [None, *AT_THE_HANDSHAKE])
def test_a_certificate_that_is_not_valid_here_gets_no_connection(
    shared: Instance, authority: Authority, tmp_path: Path, kind: str | None
) -> None:
    make = odd() if kind is None else AT_THE_HANDSHAKE[kind]

    answer = start_as(as_holder(shared, make(authority, tmp_path)))

    if kind is None:
        assert answer.ok, answer
    else:
        assert answer.code is grpc.StatusCode.UNAVAILABLE, answer


@pytest.mark.parametrize("kind", [None, *BY_THE_SERVER])
def test_a_certificate_that_does_not_name_a_user_and_his_roles_is_refused(
    shared: Instance, authority: Authority, tmp_path: Path, kind: str | None
) -> None:
    make = odd() if kind is None else BY_THE_SERVER[kind]
    before = shared.job_ids()

    answer = start_as(as_holder(shared, make(authority, tmp_path)))

    if kind is None:
        assert answer.ok, answer
    else:
        assert answer.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
        assert shared.job_ids() == before


def test_every_call_is_refused_to_who_has_no_role(
    shared: Instance, authority: Authority, tmp_path: Path, alice: Client
) -> None:
    job = alice.start("sleep", "600")
    requests = [
        pb.StartRequest(argv=["true"]),
        pb.StopRequest(job=job),
        pb.StatusRequest(job=job),
        pb.LogsRequest(job=job),
    ]
    nobody = as_holder(shared, odd(roles=[])(authority, tmp_path))

    with nobody.channel() as channel:
        answers = [ask(JobServiceStub(channel), request) for request in requests]

    assert {answer.code for answer in answers} == {grpc.StatusCode.UNAUTHENTICATED}
    assert not any(answer.responses for answer in answers)
    assert alice.status(job) == "running"
    alice.stop(job, "--grace", "0s")


def test_who_shows_no_certificate_gets_no_connection(shared: Instance) -> None:
    credentials = grpc.ssl_channel_credentials(shared.ca.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{shared.port}", credentials) as channel:
        answer = ask(JobServiceStub(channel), pb.StartRequest(argv=["true"]), deadline_s=10)

    assert answer.code is grpc.StatusCode.UNAVAILABLE, answer


def test_the_servers_own_certificate_is_no_clients(shared: Instance) -> None:
    answer = start_as(as_holder(shared, pair_at(shared.directory / "pki", "server")))

    assert answer.code is grpc.StatusCode.UNAVAILABLE, answer


def test_the_name_admin_is_not_the_role(
    shared: Instance, authority: Authority, tmp_path: Path, alice: Client
) -> None:
    job = alice.start("sleep", "600")
    pair = odd(names=["admin"], roles=["user"])(authority, tmp_path)

    refused = as_holder(shared, pair).run("status", job)

    assert (refused.returncode, refused.stdout) == (1, b"")
    assert shared.admin.status(job) == "running"
    alice.stop(job, "--grace", "0s")


def test_who_has_both_roles_is_an_admin(
    shared: Instance, authority: Authority, tmp_path: Path, alice: Client
) -> None:
    job = alice.start("sleep", "600")
    pair = odd(names=["boss"], roles=["user", "admin"])(authority, tmp_path)

    as_holder(shared, pair).stop(job, "--grace", "0s")

    assert alice.status(job) == "stopped (signal: 9)"


@pytest.mark.parametrize(("usages", "works"), [([SERVER], True), ([CLIENT], False)])
def test_a_clients_certificate_is_no_servers(
    make_instance: MakeInstance, *, usages: list[object], works: bool
) -> None:
    # The same certificate twice, but for what it is made for.
    with make_instance("impostor", serve=False) as impostor:
        pki = impostor.directory / "pki"
        odd(names=["jobd"], usages=usages, hosts=["localhost"])(
            read_authority(pair_at(pki, "ca")), pki
        )
        (pki / "odd.crt").replace(pki / "server.crt")
        (pki / "odd.key").replace(pki / "server.key")
        impostor.start()
        client = impostor.admin

        done = client.run("--addr", f"localhost:{impostor.port}", "start", "true")

    if works:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 125
        assert b"certificate" in done.stderr


def s_client(client: Client, version: str) -> subprocess.CompletedProcess[bytes]:
    """Let openssl make a handshake with all that a good client has."""
    where = ["-connect", f"127.0.0.1:{client.instance.port}", "-alpn", "h2"]
    files: list[str | Path] = [
        "-CAfile",
        client.instance.ca,
        "-cert",
        client.cert,
        "-key",
        client.key,
    ]
    return subprocess.run(
        # Level 0: openssl offers whatever it can, so that it is the server that refuses.
        ["openssl", "s_client", version, *where, *files, "-cipher", "ALL:@SECLEVEL=0"],
        input=b"",
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_tls_1_3_is_spoken(alice: Client) -> None:
    done = s_client(alice, "-tls1_3")

    assert done.returncode == 0, done.stderr
    assert b"New, TLSv1.3" in done.stdout
    assert b"Verify return code: 0 (ok)" in done.stdout


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_1", "-tls1"])
def test_older_tls_is_refused(alice: Client, version: str) -> None:
    done = s_client(alice, version)

    assert done.returncode != 0
    assert b"New, (NONE), Cipher is (NONE)" in done.stdout
    # The server ended it: openssl itself was ready to go on.
    assert b"alert" in done.stderr or b"unexpected eof" in done.stderr, done.stderr
