"""The record of calls that a real server writes: nothing is missing, nothing secret is in it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from jobruntime.rpc.gen import service_pb2 as pb
from jobruntime.rpc.gen.service_pb2_grpc import JobServiceStub
from jobruntime.rpc.tls import grpc
from jobruntime.server.audit_verify import files_of
from jobruntime.server.pki import pair_at, read_authority
from tests.calls import ask, ask_raw
from tests.certificates import odd_certificate
from tests.conftest import MakeInstance
from tests.disks import fill, mounted_disk
from tests.support import DEADLINE_S, MIB, Client, Instance, eventually, jobd

Line = dict[str, object]
MARK = "sesame-5f1c"


def audit_path(instance: Instance) -> Path:
    return instance.config.audit.path


def lines_of(instance: Instance) -> list[Line]:
    return [
        json.loads(line)
        for file in files_of(audit_path(instance))
        for line in file.read_bytes().splitlines()
    ]


def last(instance: Instance, **wanted: object) -> Line:
    """Return the last line that has these values; it was there before the answer."""
    found = [line for line in lines_of(instance) if wanted.items() <= line.items()]
    assert found, (wanted, lines_of(instance)[-5:])
    return found[-1]


def verify(instance: Instance, *flags: str) -> tuple[int, str]:
    done = jobd(
        "audit", "verify", f"--config={instance.config_path}", *flags, home=instance.directory
    )
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


def head(instance: Instance) -> str:
    done = jobd("audit", "head", f"--config={instance.config_path}", home=instance.directory)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().strip()


def test_a_start_is_written_with_who_what_and_how_it_ended(shared: Instance, alice: Client) -> None:
    with alice.api() as api:
        job = api.start(
            *("sh", "-c", f"true {MARK}"),
            name="nap",
            env={"TOKEN": MARK, "LANG": "C"},
            labels={"note": MARK},
            timeout_ms=60_000,
        )

    line = last(shared, verb="start")

    serial = line.pop("serial")
    assert str(serial) in _openssl_serial(alice.cert)
    peer, duration_us = line.pop("from"), line.pop("duration_us")
    assert str(peer).startswith("ipv4:127.0.0.1:")
    assert isinstance(duration_us, int)
    assert 0 < duration_us < DEADLINE_S * 1e6
    for key in ("seq", "time", "prev", "hash"):
        del line[key]
    assert line == {
        "event": "call",
        "who": "alice",
        "roles": ["user"],
        "method": "Start",
        "verb": "start",
        "decision": "allowed",
        "rule": "role user: start own",
        "rules": ["role user: start own"],
        "name": "nap",
        "timeout_ms": 60_000,
        "program": "sh",
        "arguments": 2,
        "env_names": ["LANG", "TOKEN"],
        "job_id": job,
        "code": "OK",
        "reason": None,
    }
    assert MARK.encode() not in audit_path(shared).read_bytes()


def _openssl_serial(cert: Path) -> str:
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(cert.read_bytes()).serial_number:040X}"


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("full", {"argv": ["true", "--secret"], "arguments": 1}),
        ("program", {"program": "true", "arguments": 1}),
        ("none", {}),
    ],
)
def test_the_operator_says_how_much_of_a_command_is_written(
    make_instance: MakeInstance, argv: str, wanted: Line
) -> None:
    instance = make_instance(edit=lambda text: text + f'\n[audit]\nargv = "{argv}"\n')
    instance.admin.start("true", "--secret")

    line = last(instance, verb="start")

    assert {k: line[k] for k in ("argv", "program", "arguments") if k in line} == wanted


def test_limits_that_were_asked_for_are_written(shared: Instance, alice: Client) -> None:
    limits = pb.Limits(memory_bytes=1 << 30, unlimited=[pb.LIMIT_KIND_PIDS])
    with alice.channel() as channel:
        ask(JobServiceStub(channel), pb.StartRequest(argv=["true"], limits=limits))

    assert last(shared, verb="start")["limits"] == {
        "memory_bytes": 1 << 30,
        "unlimited": ["LIMIT_KIND_PIDS"],
    }


def test_a_failed_start_and_a_request_that_is_none_are_written(
    shared: Instance, alice: Client
) -> None:
    with alice.channel() as channel:
        ask(JobServiceStub(channel), pb.StartRequest(argv=["/no/such/program"]))
        line = last(shared, verb="start")
        assert (line["code"], line["reason"]) == ("NOT_FOUND", "PROGRAM_NOT_FOUND")
        assert "job_id" not in line

        ask_raw(channel, "Start", b"\xff\xff\xff")
        line = last(shared, verb="start")
        assert (line["code"], line["reason"]) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")


def test_a_foreign_job_is_written_as_it_was_named(shared: Instance, alice: Client) -> None:
    job = shared.issue("bob", "user").start("true")

    with alice.api() as api:
        api.refused(lambda: api.status(job[:8]))
        own = api.start("true")
        api.status(own[:12])

    line = last(shared, verb="status", job=job[:8])
    assert (line["who"], line["rule"], line["code"]) == (
        "alice",
        "role user: status own",
        "NOT_FOUND",
    )
    assert line["reason"] == "JOB_NOT_FOUND"
    assert "job_id" not in line
    assert last(shared, verb="status", job=own[:12])["job_id"] == own


def test_what_the_policy_denies_is_written_with_its_cause(shared: Instance, alice: Client) -> None:
    with alice.api() as api:
        api.refused(lambda: api.prune(all_owners=True))

    line = last(shared, verb="prune")
    assert (line["decision"], line["code"]) == ("denied", "PERMISSION_DENIED")
    assert "no role of user 'alice' allows it" in str(line["cause"])


def test_who_is_refused_for_his_certificate_is_written_as_it_claims(
    shared: Instance, tmp_path: Path
) -> None:
    authority = read_authority(pair_at(shared.directory / "pki", "ca"))
    pair = odd_certificate(authority, tmp_path, "odd", names=["mal\nlory"], roles=["operator"])
    mallory = Client(shared, "mallory", pair.certificate, pair.key)

    with mallory.channel() as channel:
        ask(JobServiceStub(channel), pb.StartRequest(argv=["true"]))

    line = last(shared, verb="start")
    assert (line["who"], line["decision"], line["code"]) == (None, "denied", "UNAUTHENTICATED")
    assert "operator" in str(line["subject"])
    assert str(line["serial"]) in _openssl_serial(pair.certificate)
    assert str(line["cause"]).startswith("cannot accept the caller")


def test_a_method_that_there_is_not_is_written(shared: Instance, alice: Client) -> None:
    with alice.channel() as channel:
        answer = ask_raw(channel, "Destroy\u0041", b"")

    assert (answer.code, answer.message) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    line = last(shared, method="DestroyA")
    assert (line["decision"], line["code"]) == ("denied", "UNIMPLEMENTED")
    assert str(line["subject"]).startswith("CN=alice")


SILENT = ("sh", "-c", "echo begun; exec sleep 600")


@pytest.fixture
def admin(instance: Instance) -> Client:
    """Who may use the test's own instance."""
    return instance.admin


@pytest.fixture
def silent(admin: Client) -> Iterator[str]:
    job = admin.start(*SILENT)
    yield job
    admin.stop(job, "--grace", "0s")


def test_no_job_is_without_a_line_also_where_its_caller_gave_up(
    shared: Instance, alice: Client
) -> None:
    def gave_up() -> bool:
        with suppress(grpc.RpcError):
            api.stub.Start(pb.StartRequest(argv=["true"]), timeout=random.uniform(0, 0.02))
        return any(line["event"] == "late" for line in lines_of(shared))

    with alice.api() as api:
        api.start("true")
        eventually(gave_up, what="a start that went on without its caller")
        eventually(
            lambda: shared.job_ids() <= {line.get("job_id") for line in lines_of(shared)},
            what="a line for each job",
        )
    calls = {line["seq"]: line for line in lines_of(shared)}
    late = last(shared, event="late")
    assert (calls[late["call"]]["verb"], calls[late["call"]]["code"]) == ("start", "CANCELLED")


def test_a_stream_is_written_when_it_begins_and_when_it_ends(
    shared: Instance, alice: Client
) -> None:
    with alice.api() as api:
        job = api.start(*SILENT, grace_ms=0)
        messages = api.stream(job)
        next(messages)

        begin = last(shared, verb="logs", job_id=job)
        assert (begin["event"], begin["follow"]) == ("begin", True)
        messages.cancel()  # type: ignore[attr-defined]
        end = eventually(
            lambda: [line for line in lines_of(shared) if line.get("call") == begin["seq"]],
            what="the end",
        )[0]

        api.stop(job)

    assert (end["event"], end["code"], end["who"]) == ("end", "CANCELLED", "alice")


def test_a_stream_that_a_stop_of_the_server_cuts_has_its_end(
    instance: Instance, admin: Client, silent: str
) -> None:
    with admin.api() as api:
        messages = api.stream(silent)
        next(messages)
        instance.stop()

    events = [line["event"] for line in lines_of(instance)][-3:]
    assert events == ["begin", "end", "server-stop"]
    instance.start()


def test_a_killed_server_has_not_lost_that_a_stream_began(
    instance: Instance, admin: Client, silent: str
) -> None:
    with admin.api() as api:
        messages = api.stream(silent)
        next(messages)
        instance.kill()
    instance.start()

    events = [line["event"] for line in lines_of(instance)]
    assert events[-3:] == ["begin", "crash", "server-start"]
    assert verify(instance)[0] == 0


def test_a_line_that_a_kill_has_torn_is_told_and_nothing_else_is_amiss(
    instance: Instance, admin: Client
) -> None:
    admin.start("true")
    instance.kill()
    torn = audit_path(instance).read_bytes().splitlines()[-1][:40]
    with audit_path(instance).open("ab") as file:
        file.write(torn)
    code, text = verify(instance)
    assert code == 1
    assert "cut off" in text

    instance.start()

    [told] = [line for line in lines_of(instance) if line["event"] == "recovered"]
    assert told["torn_sha256"] == sha256(torn).hexdigest()
    assert verify(instance)[0] == 0


def test_a_head_that_was_kept_shows_a_cut_tail_after_a_restart(
    instance: Instance, admin: Client
) -> None:
    admin.start("true")
    kept = head(instance)
    instance.stop()
    instance.start()
    admin.start("true")
    assert verify(instance, "--head", kept)[0] == 0

    instance.stop()
    data = audit_path(instance).read_bytes()
    lines = data.splitlines(keepends=True)
    audit_path(instance).write_bytes(b"".join(lines[: int(kept.partition(":")[0]) - 1]))

    assert verify(instance)[0] == 0
    code, text = verify(instance, "--head", kept, "-o", "json")
    assert code == 1
    assert "the head tells of" in json.loads(text)["faults"][0]["cause"]
    instance.start()


def test_old_files_are_followed_by_new_ones_under_calls(make_instance: MakeInstance) -> None:
    instance = make_instance(edit=lambda text: text + '\n[audit]\nmax = "64K"\nkeep = 2\n')
    with instance.admin.api() as api:
        job = api.start("true")
        while len(files_of(audit_path(instance))) < 3 or lines_of(instance)[0]["seq"] == 1:
            api.status(job)

    assert verify(instance)[0] == 0
    assert len(files_of(audit_path(instance))) == 3
    newest = files_of(audit_path(instance))[1:]
    done = jobd("audit", "verify", *newest, home=instance.directory)
    assert done.returncode == 0
    assert re.search(rb"ok: .*; what came before line \d+ is in none of these files", done.stdout)


def test_where_no_line_can_be_written_nothing_is_changed_but_questions_are_answered(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    with mounted_disk(tmp_path / "disk", 2 * MIB) as disk:
        instance = make_instance(
            edit=lambda text: text + f'\n[audit]\npath = "{disk}/audit/a.jsonl"\nargv = "full"\n'
        )
        with instance.admin.api() as api:
            job = api.start("sleep", "600")
            ballast = fill(disk)
            while True:  # until the room that was held is used up
                try:
                    api.start("true", "x" * 12_000)
                except grpc.RpcError:
                    break
            refusal = api.refused(lambda: api.start("true", "x" * 12_000))
            before = instance.job_ids()
            api.refused(lambda: api.start("true", "x" * 12_000))
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "AUDIT_UNAVAILABLE",
            )
            assert instance.job_ids() == before
            assert api.status(job).state == pb.JOB_STATE_RUNNING

            ballast.unlink()
            api.stop(job, grace_ms=0)

        assert verify(instance)[0] == 0
        assert any(line["event"] == "gap" for line in lines_of(instance))
        instance.stop()


def test_each_answer_can_be_made_to_wait_for_the_disk(make_instance: MakeInstance) -> None:
    instance = make_instance(edit=lambda text: text + '\n[audit]\nsync = "0s"\n')

    instance.admin.start("true")

    assert last(instance, verb="start")["code"] == "OK"
    assert verify(instance)[0] == 0


def test_verify_tells_wrong_usage_and_files_that_are_not_there(tmp_path: Path) -> None:
    for code, flags in (
        (2, ()),
        (2, ("--config=x", "y")),
        (2, ("--head=zz", tmp_path)),
        (1, (tmp_path / "none",)),
    ):
        done = jobd("audit", "verify", *flags, home=tmp_path)
        assert done.returncode == code
        assert done.stdout == b""
        assert done.stderr.startswith(b"jobd: cannot ")
