"""Certificates while the server serves: revoked, expired, renewed, of a new CA; no restart."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from jobruntime.model.access import Role
from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc
from jobruntime.server import pki
from jobruntime.server.identity import format_serial
from tests.calls import Answer, ask
from tests.certificates import odd_certificate
from tests.conftest import MakeInstance
from tests.support import DEADLINE_S, Api, Client, Instance, eventually, jobd, refusal_of

TICKER = ("sh", "-c", "while :; do echo tick; sleep 0.05; done")
CUT_S = 1.0


def cert(instance: Instance, *args: str) -> str:
    """Run `jobd cert`, which must succeed; return its stdout."""
    done = jobd("cert", *args, "--dir", instance.directory, home=instance.directory.parent)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def cert_refused(instance: Instance, *args: str) -> str:
    done = jobd("cert", *args, "--dir", instance.directory, home=instance.directory.parent)
    assert (done.returncode, done.stdout) == (1, b""), done
    return done.stderr.decode()


def listed(instance: Instance) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(cert(instance, "list", "-o", "json"))
    return found


def states_of(instance: Instance, name: str) -> list[object]:
    return [one["state"] for one in listed(instance) if one["name"] == name]


def serial_of(path: Path) -> str:
    return f"{x509.load_pem_x509_certificate(path.read_bytes()).serial_number:X}"


class Reader:
    """Reads a stream in a thread, and notes what came and when and how it ended."""

    def __init__(self, call: Iterator[object]) -> None:
        self._call = call
        self.count = 0
        self.error: grpc.RpcError | None = None
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for _ in self._call:
                self.count += 1
        except grpc.RpcError as error:
            self.error = error
        self.ended_at = time.monotonic()

    def begun(self) -> None:
        """Wait until the first message has come."""
        eventually(lambda: self.count or self.ended_at, what="the first message")
        assert self.count, self.error

    def more(self) -> None:
        """Wait until one more message has come, of a stream that goes on."""
        before = self.count
        eventually(lambda: self.count > before or self.ended_at, what="a message")
        assert not self.ended_at, self.error

    def ended(self) -> Answer:
        """Wait for the end; return how it ended."""
        self._thread.join(DEADLINE_S)
        assert self.error is not None
        refusal = refusal_of(self.error)
        return Answer(refusal.code, refusal.message)


def logs(api: Api, job: str) -> Iterator[object]:
    call: Iterator[object] = api.stub.Logs(pb.LogsRequest(job=job, follow=True))
    return call


def stats(api: Api, job: str) -> Iterator[object]:
    request = pb.StatsRequest(job=job, follow=True, interval_ms=100)
    call: Iterator[object] = api.stub.Stats(request)
    return call


@contextmanager
def ticking(client: Client) -> Iterator[tuple[Api, str]]:
    with client.api() as api:
        yield api, api.start(*TICKER, grace_ms=0)


@pytest.mark.parametrize("stream", [logs, stats])
def test_streams_of_a_revoked_certificate_end_within_a_second_and_no_others(
    instance: Instance, stream: object
) -> None:
    assert callable(stream)
    alice, bob = instance.issue("alice", "user"), instance.issue("bob", "user")
    with ticking(alice) as (api, job), ticking(bob) as (bobs_api, bobs_job):
        cut, other = Reader(stream(api, job)), Reader(stream(bobs_api, bobs_job))
        cut.more()
        other.more()

        cert(instance, "revoke", "alice")
        revoked_at = time.monotonic()
        answer = cut.ended()

        assert answer.code is grpc.StatusCode.UNAUTHENTICATED
        assert "was revoked at" in answer.message
        assert cut.ended_at - revoked_at < CUT_S
        # Also on the connection that is open already.
        refused = api.refused(lambda: api.status(job))
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
        other.more()
    assert states_of(instance, "alice") == ["revoked"]
    assert states_of(instance, "bob") == ["valid"]


def test_a_silent_jobs_log_is_cut_as_well(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    with alice.api() as api:
        job = api.start("sh", "-c", "echo one; sleep 600", grace_ms=0)
        reader = Reader(logs(api, job))
        reader.begun()

        cert(instance, "revoke", serial_of(alice.cert))
        revoked_at = time.monotonic()

        assert reader.ended().code is grpc.StatusCode.UNAUTHENTICATED
        assert reader.ended_at - revoked_at < CUT_S


def test_who_does_not_read_gets_no_more_after_the_revocation(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    with alice.api() as api:
        job = api.start("sh", "-c", "yes | head -c 64000000; echo end; sleep 600", grace_ms=0)
        eventually(lambda: log_bytes(instance, job) >= 64_000_000, what="the output")
        call = logs(api, job)
        next(call)  # and no further: the server waits for the window to open

        cert(instance, "revoke", "alice")
        instance.wait_stderr("revocation list was read anew")

        rest = Reader(call)
        assert rest.ended().code is grpc.StatusCode.UNAUTHENTICATED
        assert rest.count < 64  # what was on its way: some of 250 messages


def log_bytes(instance: Instance, job: str) -> int:
    return sum(path.stat().st_size for path in (instance.jobs_dir / job).glob("log.*"))


def test_a_followed_log_ends_in_jobc_with_the_servers_sentence(instance: Instance) -> None:
    alice = instance.issue("alice", "user")
    job = alice.start(*TICKER)
    with alice.popen("logs", "--raw", job) as process:
        assert process.stdout is not None
        process.stdout.readline()

        cert(instance, "revoke", "alice")
        _, stderr = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 1
    assert b"the client certificate was revoked" in stderr


def test_a_stream_is_cut_when_its_certificate_expires(instance: Instance, tmp_path: Path) -> None:
    alice = instance.issue("alice", "user")
    authority = pki.read_authority(pki.pair_at(instance.directory / "pki", "ca"))
    end = dt.timedelta(seconds=4)
    pair = odd_certificate(
        authority, tmp_path, "short", names=["alice"], roles=["user"], ends_in=end
    )
    ends_at = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).not_valid_after_utc
    short = Client(instance, "alice", pair.certificate, pair.key)
    with ticking(alice) as (api, job), short.api() as short_api:
        cut, other = Reader(logs(short_api, job)), Reader(logs(api, job))
        cut.more()

        answer = cut.ended()
        late = (dt.datetime.now(dt.UTC) - ends_at).total_seconds()

        assert answer.code is grpc.StatusCode.UNAUTHENTICATED
        assert "expired at" in answer.message
        assert 0 <= late < CUT_S
        other.more()


# ---------------------------------------------------------------- the server's own


def served_serial(client: Client) -> str:
    """Return the serial that a new connection gets to see."""
    done = s_client(client, "-tls1_3")
    found = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"],
        input=done.stdout,
        capture_output=True,
        check=True,
        timeout=30,
    )
    return found.stdout.decode().strip().removeprefix("serial=").lstrip("0")


def s_client(client: Client, version: str) -> subprocess.CompletedProcess[bytes]:
    where = f"127.0.0.1:{client.instance.port}"
    files: list[str | Path] = [
        "-CAfile",
        client.instance.ca,
        "-cert",
        client.cert,
        "-key",
        client.key,
    ]
    return subprocess.run(
        ["openssl", "s_client", version, "-connect", where, "-alpn", "h2", *files],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=30,
    )


def test_new_connections_get_a_renewed_server_certificate_and_old_streams_live_on(
    instance: Instance,
) -> None:
    alice = instance.issue("alice", "user")
    path = instance.config.tls.cert
    names = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert served_serial(alice) == (before := serial_of(path))
    with ticking(alice) as (api, job):
        reader = Reader(logs(api, job))
        reader.more()

        cert(instance, "renew", "server", "--san", "more.example.org")

        after = serial_of(path)
        assert after != before
        assert served_serial(alice) == after
        assert alice.status(job) == "running"
        reader.more()
        api.status(job)
    renewed = x509.load_pem_x509_certificate(path.read_bytes())
    found = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(found) == {*names.value, x509.DNSName("more.example.org")}
    # The floor holds for the changed credentials, too.
    assert b"New, (NONE), Cipher is (NONE)" in s_client(alice, "-tls1_2").stdout
    assert b"New, TLSv1.3" in s_client(alice, "-tls1_3").stdout


def test_a_pair_that_does_not_fit_is_refused_and_the_old_one_stays(instance: Instance) -> None:
    path, key = instance.config.tls.cert, instance.config.tls.key
    before, old_key = serial_of(path), key.read_bytes()
    other = instance.issue("alice", "user")

    key.write_bytes(other.key.read_bytes())

    instance.wait_stderr(r"ERROR cannot use the private key .*; what was read before stays in")
    assert served_serial(other) == before
    key.write_bytes(old_key)
    cert(instance, "renew", "server")
    assert served_serial(other) == serial_of(path)


def test_a_revocation_list_that_breaks_while_serving_leaves_the_last_good_one(
    instance: Instance,
) -> None:
    alice, bob = instance.issue("alice", "user"), instance.issue("bob", "user")
    cert(instance, "revoke", "alice")
    assert instance.config.tls.crl is not None
    assert b"was revoked" in alice.run("status", "x").stderr  # so the good list has been read

    instance.config.tls.crl.write_text("nonsense")
    instance.wait_stderr(r"ERROR cannot use the revocation list .*; the list that was read before")
    assert alice.run("status", "x").returncode == 1
    assert b"was revoked" in alice.run("status", "x").stderr
    assert b"cannot find job" in bob.run("status", "x").stderr
    instance.config.tls.crl.unlink()
    instance.wait_stderr(r"ERROR cannot use the revocation list .*: no such file")
    assert b"was revoked" in alice.run("status", "x").stderr


@pytest.mark.parametrize("damage", ["missing", "garbage", "out of date", "of another CA"])
def test_without_a_good_revocation_list_the_server_does_not_start(
    make_instance: MakeInstance, tmp_path: Path, damage: str
) -> None:
    instance = make_instance(serve=False)
    crl = instance.config.tls.crl
    assert crl is not None
    if damage == "missing":
        crl.unlink()
    else:
        crl.write_bytes(b"x" if damage == "garbage" else made_list(instance, tmp_path, damage))

    done = jobd("serve", "--config", instance.config_path, home=tmp_path)

    assert done.returncode == 1
    assert f"cannot use the revocation list {crl}".encode() in done.stderr


def made_list(instance: Instance, tmp_path: Path, damage: str) -> bytes:
    authority = pki.read_authority(pki.pair_at(instance.directory / "pki", "ca"))
    if damage == "of another CA":
        authority = pki.make_authority(pki.pair_at(tmp_path, "other"))
    then = dt.datetime.now(dt.UTC) - dt.timedelta(days=9)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(then).next_update(then + dt.timedelta(days=1))
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_hangup_reads_everything_again(instance: Instance) -> None:
    os.kill(instance.pid, signal.SIGHUP)

    instance.wait_stderr("reloaded certificates and revocation lists")
    assert instance.admin.start("true")


# ---------------------------------------------------------------- renewing over the API


def test_jobc_renew_gets_the_same_name_and_roles_with_a_new_key(instance: Instance) -> None:
    cert(instance, "issue", "alice", "--role", "user", "--role", "admin", "--valid", "12h")
    pki_dir = instance.directory / "pki/clients"
    alice = Client(instance, "alice", pki_dir / "alice.crt", pki_dir / "alice.key")
    old = x509.load_pem_x509_certificate(alice.cert.read_bytes())
    old_key = alice.key.read_bytes()

    printed = alice.output("renew").decode()

    new = x509.load_pem_x509_certificate(alice.cert.read_bytes())
    assert re.fullmatch(
        rf"renewed: serial {format_serial(new.serial_number)}, valid until .* \(11 hours\)\n",
        printed,
    )
    assert new.subject == old.subject
    assert new.public_key() != old.public_key()
    assert alice.key.read_bytes() != old_key
    whole = old.not_valid_after_utc - old.not_valid_before_utc
    assert new.not_valid_after_utc - new.not_valid_before_utc == whole
    assert stat.S_IMODE(alice.key.stat().st_mode) == 0o600
    assert sorted(os.listdir(pki_dir)) == ["admin.crt", "admin.key", "alice.crt", "alice.key"]
    assert alice.start("true")
    assert [one["by"] for one in listed(instance) if one["name"] == "alice"] == ["issue", "api"]
    cert(instance, "revoke", f"{new.serial_number:X}")
    refused = alice.run("renew")
    assert refused.returncode == 1
    assert b"was revoked" in refused.stderr


def test_jobc_renew_does_nothing_while_more_is_left_than_was_asked_for(shared: Instance) -> None:
    carl = shared.issue("carl", "user")
    before = carl.cert.read_bytes()

    assert carl.output("renew", "--if-expires-within", "30d").startswith(b"nothing to do")
    assert carl.cert.read_bytes() == before
    assert carl.output("renew", "--if-expires-within", "400d").startswith(b"renewed")
    assert carl.cert.read_bytes() != before


def test_a_renewal_that_died_between_its_two_files_leaves_a_pair_that_works(
    shared: Instance, tmp_path: Path
) -> None:
    dora = shared.issue("dora", "user")
    old_key = tmp_path / "dora.key"
    old_key.write_bytes(dora.key.read_bytes())
    old_key.chmod(0o600)
    dora.output("renew")
    half = Client(shared, "dora", tmp_path / "dora.crt", old_key)
    half.cert.write_bytes(dora.cert.read_bytes())
    assert b"is not the key of the certificate" in half.run("start", "true").stderr

    pending = tmp_path / "dora.key.new"
    pending.write_bytes(dora.key.read_bytes())
    pending.chmod(0o600)

    assert half.start("true")
    assert half.output("renew").startswith(b"renewed")
    assert half.start("true")
    assert not pending.exists()


def test_without_the_cas_key_a_renewal_is_refused_with_a_remedy(instance: Instance) -> None:
    (instance.directory / "pki/ca.key").unlink()

    refused = instance.admin.run("renew")

    assert refused.returncode == 1
    assert b"the CA's key is not on the server's host; ask the operator" in refused.stderr


def test_more_renewals_than_anybody_needs_are_refused(instance: Instance) -> None:
    with instance.admin.channel() as channel:
        stub = JobServiceStub(channel)
        codes = [ask_renew(stub, pb.RenewRequest(csr_pem=b"x", proof=b"x")) for _ in range(13)]
        empty = ask_renew(stub, pb.RenewRequest())

    assert set(codes[:12]) == {grpc.StatusCode.INVALID_ARGUMENT}
    assert codes[12] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert empty is grpc.StatusCode.INVALID_ARGUMENT


def ask_renew(stub: JobServiceStub, request: pb.RenewRequest) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Renew(request, timeout=DEADLINE_S)
    return refusal_of(caught.value).code


def test_jobc_says_that_its_certificate_ends_soon_and_not_on_stdout(
    shared: Instance, tmp_path: Path
) -> None:
    authority = pki.read_authority(pki.pair_at(shared.directory / "pki", "ca"))
    pair = pki.pair_at(tmp_path, "eve")
    then = dt.datetime.now(dt.UTC) - dt.timedelta(days=90)
    pki.issue_client(authority, pair, "eve", [Role.USER], days=100, now=then)
    eve = Client(shared, "eve", pair.certificate, pair.key)

    started = eve.run("start", "true")
    told = eve.run("status", "-o", "json", started.stdout.decode().strip())

    warning = (
        f"jobc: your certificate {pair.certificate} ends in 9 days; get the next one: jobc renew"
    )
    assert started.stderr.decode() == f"{warning}\n"
    assert told.stderr.decode() == f"{warning}\n"
    assert json.loads(told.stdout)


# ---------------------------------------------------------------- a new CA


def test_both_cas_count_during_a_change_and_only_the_new_one_after_it(instance: Instance) -> None:
    alice, bob = instance.issue("alice", "user"), instance.issue("bob", "user")
    old_bob = Client(
        instance, "bob", instance.directory / "bob.crt", instance.directory / "bob.key"
    )
    old_bob.cert.write_bytes(bob.cert.read_bytes())
    old_bob.key.touch(0o600)
    old_bob.key.write_bytes(bob.key.read_bytes())
    with ticking(old_bob) as (api, job):
        reader = Reader(logs(api, job))
        cert(instance, "rollover", "start")
        assert "under way" in cert_refused(instance, "rollover", "start")
        assert instance.ca.read_bytes().count(b"BEGIN CERTIFICATE") == 2
        alice.output("renew")
        cert(instance, "renew", "bob")
        for client in (alice, bob, old_bob):
            assert client.start("true")
        assert "of the old CA" in cert_refused(instance, "rollover", "finish")
        cert(instance, "renew", "server")
        assert "admin" in cert_refused(instance, "rollover", "finish")
        instance.admin.output("renew")
        for client in (alice, bob, old_bob):
            assert client.start("true")
        reader.more()

        cert(instance, "rollover", "finish")

        answer = reader.ended()
        assert answer.code is grpc.StatusCode.UNAUTHENTICATED
        assert "of no CA that the server trusts" in answer.message
        refused = api.refused(lambda: api.status(job))
        assert refused.code is grpc.StatusCode.UNAUTHENTICATED
    with old_bob.channel() as channel:
        answer = ask(JobServiceStub(channel), pb.StartRequest(argv=["true"]), deadline_s=10)
    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert alice.start("true")
    assert bob.start("true")
    assert states_of(instance, "bob") == ["untrusted", "valid"]


def test_jobc_takes_the_servers_cas_over_on_request_only(instance: Instance) -> None:
    admin = instance.admin
    own_ca = instance.directory / "own-ca.crt"
    own_ca.write_bytes(instance.ca.read_bytes())
    cert(instance, "rollover", "start")

    plain = admin.run("renew", "--ca", own_ca)
    assert (plain.returncode, own_ca.read_bytes().count(b"BEGIN")) == (0, 1)
    assert b"the server names other CAs" in plain.stderr
    assert admin.output("renew", "--ca", own_ca, "--update-ca").startswith(b"renewed")
    assert own_ca.read_bytes() == instance.ca.read_bytes()
    cert(instance, "renew", "server")
    assert admin.output("start", "--ca", own_ca, "true")


def test_certificates_of_the_old_ca_can_be_revoked_during_the_change(instance: Instance) -> None:
    alice, bob = instance.issue("alice", "user"), instance.issue("bob", "user")
    cert(instance, "rollover", "start")

    cert(instance, "revoke", "alice")

    assert b"was revoked" in alice.run("start", "true").stderr
    assert bob.start("true")


# ---------------------------------------------------------------- a CA of the operator's own


def documented(name: str) -> str:
    text = (Path(__file__).parents[2] / "docs/certificates.md").read_text()
    found = re.search(rf"<!-- tested: {name} -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_an_instance_serves_with_a_ca_of_ones_own_and_its_list(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()

    def run(*names: str) -> None:
        script = "".join(map(documented, names))
        subprocess.run(["sh", "-euc", script], cwd=own, check=True, capture_output=True, timeout=60)

    def edit(text: str) -> str:
        return re.sub(r'"pki/([a-z.]+)"', rf'"{own}/\1"', text)

    run("own-ca", "own-server", "own-client", "own-crl")
    instance = make_instance(edit=edit)
    instance.ca = own / "ca.crt"
    alice = Client(instance, "alice", own / "alice.crt", own / "alice.key")
    with ticking(alice) as (api, job):
        reader = Reader(logs(api, job))
        reader.more()
        refused = alice.run("renew")
        assert refused.returncode == 1
        assert b"let the CA that you brought sign one" in refused.stderr
        assert "does not trust" in cert_refused(instance, "issue", "bob", "--role", "user")

        run("own-revoke")

        assert reader.ended().code is grpc.StatusCode.UNAUTHENTICATED
    assert b"was revoked" in alice.run("start", "true").stderr
