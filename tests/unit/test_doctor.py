"""What `jobd doctor` says of an instance's configuration, disks and certificates, and how."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

import pytest

from jobruntime.model.access import Role
from jobruntime.server import pki
from jobruntime.server.config import Config, parse_address, read_config
from jobruntime.server.doctor.host import check_system
from jobruntime.server.doctor.instance import check_instance
from jobruntime.server.doctor.report import Check, Level, Report, failed, good, lacking
from jobruntime.server.init_instance import InitOptions, init_instance

NAMES = ("localhost", "127.0.0.1")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tmp_path.chmod(0o711)
    made = init_instance(InitOptions(tmp_path / "jobs", parse_address("127.0.0.1:7443"), "ann"))
    return read_config(made.config)


def reissue_server(config: Config, *, days: int, ago_days: int = 0) -> None:
    """Give the server a certificate that was made so long ago, for so long."""
    directory = config.tls.cert.parent
    authority = pki.read_authority(pki.pair_at(directory, "ca"))
    config.tls.cert.unlink()
    config.tls.key.unlink()
    now = dt.datetime.now(dt.UTC) - dt.timedelta(days=ago_days)
    pki.issue_server(authority, pki.pair_at(directory, "server"), NAMES, days=days, now=now)


def checks_of(config: Config) -> dict[str, Check]:
    checks = list(check_instance(config))
    assert all(check.remedy for check in checks if check.level is not Level.OK)
    return {check.name: check for check in checks}


def assert_found(check: Check, level: Level, *words: str) -> None:
    text = f"{check.found} {check.remedy}"
    assert check.level is level, text
    for word in words:
        assert word in text


def test_a_new_instance_has_nothing_to_mend_but_perhaps_its_disk(config: Config) -> None:
    checks = checks_of(config)
    disks = {"state_dir", "state_dir's room", "state_dir's disk", "work_dir's disk"}
    assert {name for name, check in checks.items() if check.level is not Level.OK} <= disks
    assert_found(checks["server"], Level.OK, "never been started")
    assert not config.state_dir.exists()


def test_a_certificate_that_ends_soon_is_a_warning_and_one_that_has_ended_a_failure(
    config: Config,
) -> None:
    reissue_server(config, days=100, ago_days=90)
    assert_found(checks_of(config)["server certificate"], Level.WARNING, "9 days", "cert renew")
    reissue_server(config, days=10, ago_days=20)
    assert_found(checks_of(config)["server certificate"], Level.FAILED, "expired", "cert renew")


def test_a_short_lived_certificate_is_a_warning_in_its_last_third_only(config: Config) -> None:
    reissue_server(config, days=9, ago_days=5)
    assert_found(checks_of(config)["server certificate"], Level.OK, "3 days")
    reissue_server(config, days=9, ago_days=7)
    check = checks_of(config)["server certificate"]
    assert_found(check, Level.WARNING, "1 days")
    assert check.measured["hours_left"] == 47


def test_users_whose_last_certificate_ends_soon_are_named(config: Config) -> None:
    assert_found(checks_of(config)["users' certificates"], Level.OK, "1 users")
    pki_dir = config.path.parent / "pki"
    authority = pki.read_authority(pki.pair_at(pki_dir, "ca"))
    then = dt.datetime.now(dt.UTC) - dt.timedelta(days=80)
    for name in ("bob", "eve"):
        pair = pki.pair_at(pki_dir / "clients", name)
        pki.issue_client(authority, pair, name, [Role.USER], days=100, now=then)
    pki.issue_client(authority, pki.pair_at(pki_dir, "clients/bob2"), "bob", [Role.USER])

    check = checks_of(config)["users' certificates"]

    assert_found(check, Level.WARNING, "soon without: eve", "jobc renew")
    assert (check.measured["users"], check.measured["ending"]) == (3, 1)


def test_a_revocation_list_that_cannot_be_used_is_a_failure_and_none_a_warning(
    config: Config,
) -> None:
    assert config.tls.crl is not None
    assert_found(checks_of(config)["revocation list"], Level.OK, "0 certificates revoked")
    config.tls.crl.write_text("nonsense")
    assert_found(checks_of(config)["revocation list"], Level.FAILED, "no PEM revocation list")
    config.tls.crl.unlink()
    assert_found(checks_of(config)["revocation list"], Level.FAILED, "no such file")
    text = config.path.read_text().replace('crl = "pki/crl.pem"\n', "")
    config.path.write_text(text)
    check = checks_of(read_config(config.path))["revocation list"]
    assert_found(check, Level.WARNING, "no certificate can be locked out", "crl =")


def test_a_key_that_others_can_read_is_a_failure_with_the_command_that_mends_it(
    config: Config,
) -> None:
    config.tls.key.chmod(0o640)
    assert_found(checks_of(config)["server key"], Level.FAILED, f"chmod 600 {config.tls.key}")


def test_a_key_of_another_certificate_is_a_failure(config: Config) -> None:
    other = config.tls.cert.parent / "clients/ann.key"
    config.tls.key.write_bytes(other.read_bytes())
    assert_found(checks_of(config)["server key"], Level.FAILED, "is not the key of")


def test_a_missing_certificate_is_a_failure_and_the_rest_is_looked_at(config: Config) -> None:
    config.tls.ca.unlink()
    checks = checks_of(config)
    assert_found(checks["CA certificate"], Level.FAILED, "no such file")
    assert_found(checks["server certificate"], Level.OK)


def test_a_server_of_another_ca_is_a_warning(config: Config, tmp_path: Path) -> None:
    config.tls.ca.unlink()
    (tmp_path / "other").mkdir(mode=0o700)
    pki.make_authority(pki.pair_at(tmp_path / "other", "ca"))
    config.tls.ca.write_bytes((tmp_path / "other/ca.crt").read_bytes())
    assert_found(checks_of(config)["server's CA"], Level.WARNING, "no CA in", "has signed")


def test_an_address_that_the_certificate_does_not_have_is_a_warning(config: Config) -> None:
    text = config.path.read_text().replace("127.0.0.1:7443", "jobs.example.org:7443")
    config.path.write_text(text)
    check = checks_of(read_config(config.path))["server names"]
    assert_found(check, Level.WARNING, "not for jobs.example.org")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has uids for owners")
def test_uids_that_somebody_has_are_a_failure(config: Config) -> None:
    lines = (line.split(":") for line in Path("/etc/passwd").read_text().splitlines())
    uid = next(int(fields[2]) for fields in lines if 1000 <= int(fields[2]) < 65_000)
    text = config.path.read_text()
    present = next(line for line in text.splitlines() if line.startswith("uid_first"))
    text = text.replace(present, f"uid_first = {uid}").replace("uid_count = 65536", "uid_count = 1")
    config.path.write_text(text)
    assert_found(checks_of(read_config(config.path))["uids"], Level.FAILED, "jobs.uid_first")


@pytest.mark.skipif(os.geteuid() != 0, reason="without root jobs have their server's user")
def test_a_work_dir_that_jobs_cannot_pass_is_a_failure(config: Config, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    lines = config.path.read_text().splitlines()
    given = next(line for line in lines if line.startswith("work_dir"))
    text = config.path.read_text().replace(given, f'work_dir = "{closed}/work"')
    config.path.write_text(text)
    check = checks_of(read_config(config.path))["work_dir"]
    assert_found(check, Level.FAILED, f"chmod o+x {closed}")


def test_a_state_dir_in_memory_is_a_warning(config: Config) -> None:
    shared_memory = Path("/dev/shm/jobd-doctor-test")  # tmpfs on every Linux with glibc
    config.path.write_text(
        config.path.read_text().replace('state_dir = "state"', f'state_dir = "{shared_memory}"')
    )
    checks = checks_of(read_config(config.path))
    assert_found(checks["state_dir"], Level.WARNING, "tmpfs")
    assert_found(checks["state_dir's disk"], Level.WARNING, "no block device")
    assert not shared_memory.exists()


def fill(report: Report) -> None:
    report.begin("this host")
    report.add(good("clock", "synchronized"))
    report.add(lacking("swap", "it has some\x1b[2J", "run: swapoff -a", free_bytes=4096))
    report.add(lacking("memory", "it may swap", "run: swapoff -a"))


def test_the_table_tells_each_remedy_once_and_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(as_json=False)
    fill(report)
    report.end()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["this", "host"],
        ["ok", "clock"],
        ["warn", "swap"],
    ]
    assert sum("swapoff" in line for line in lines) == 1
    assert not any("\x1b" in line for line in lines)
    assert lines[-1] == "1 ok, 2 warnings, 0 failed"
    assert report.ok


def test_the_json_is_one_object_with_every_check_and_whether_all_is_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(as_json=True)
    fill(report)
    report.add(failed("disk", "it is full", "free some"))
    report.end()
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert [check["level"] for check in told["checks"]] == ["ok", "warning", "warning", "failed"]
    assert told["checks"][1] == {
        "name": "swap",
        "level": "warning",
        "found": "it has some\x1b[2J",
        "remedy": "run: swapoff -a",
        "measured": {"free_bytes": 4096},
    }
    assert told["checks"][0]["remedy"] is None


def isolation_check() -> Check:
    [check] = [check for check in check_system() if check.name == "isolation"]
    return check


def test_it_tells_whether_jobs_can_be_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isolation_check().level is Level.OK
    monkeypatch.setattr(os, "defpath", "/nowhere")
    check = isolation_check()
    assert check.level is Level.WARNING
    assert check.found == "jobs cannot be isolated: bubblewrap (bwrap) is not installed"
    assert check.remedy == "apt-get install bubblewrap"


def test_what_bubblewrap_itself_lacks_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # It runs, and cannot go on: as where user namespaces are disabled.
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\necho bwrap: No permissions to create new namespace >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(os, "defpath", f"{tmp_path}:{os.defpath}")
    check = isolation_check()
    assert check.level is Level.WARNING
    assert "No permissions to create new namespace" in check.found
    assert "user.max_user_namespaces" in check.remedy
