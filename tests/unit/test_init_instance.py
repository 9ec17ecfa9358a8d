import argparse
import datetime as dt
import os
import pty
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobruntime.model.access import Role
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.retention import DEFAULT_SPARE_MS
from jobruntime.rpc.tls import channel_credentials, server_credentials
from jobruntime.server import cert, init_instance, pki
from jobruntime.server.config import parse_address, read_config, uid_first_of
from jobruntime.server.identity import principal_of
from jobruntime.server.init_instance import InitOptions

COMMAND = """
import argparse, sys
from jobruntime.server import cert, init_instance
module = {"init": init_instance, "cert": cert}[sys.argv[1]]
parser = argparse.ArgumentParser(prog="jobd " + sys.argv[1])
module.add_arguments(parser)
sys.exit(module.run(parser.parse_args(sys.argv[2:])))
"""


def options(directory: Path, *sans: str, listen: str = "127.0.0.1:7443") -> InitOptions:
    return InitOptions(directory, parse_address(listen), "ada", sans)


def jobd(
    home: Path, *arguments: str | Path, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("XDG_CONFIG_HOME", None)
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=env, stdin=stdin, capture_output=True, text=True, timeout=60)


def snapshot(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def roles_in(path: Path) -> frozenset[str]:
    context = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [path.read_bytes()]}
    return principal_of(context).roles


def test_an_instance_has_all_its_files_with_their_modes(tmp_path: Path) -> None:
    init_instance.init_instance(options(tmp_path / "deep/i"))
    base = tmp_path / "deep/i"
    found = {
        str(path.relative_to(base)): stat.S_IMODE(path.stat().st_mode) for path in base.rglob("*")
    }
    assert found == {
        "jobd.toml": 0o644,
        "pki": 0o700,
        "pki/ca.crt": 0o644,
        "pki/ca.key": 0o600,
        "pki/clients": 0o700,
        "pki/clients/ada.crt": 0o644,
        "pki/clients/ada.key": 0o600,
        "pki/crl.pem": 0o644,
        "pki/issued.jsonl": 0o600,
        "pki/server.crt": 0o644,
        "pki/server.key": 0o600,
        "policy.toml": 0o644,
    }


def test_what_was_made_can_be_used_as_it_is(tmp_path: Path) -> None:
    result = init_instance.init_instance(options(tmp_path / "i", listen="[::]:7443"))
    config = read_config(result.config)
    server_credentials(config.tls.cert, config.tls.key, config.tls.ca)
    channel_credentials(result.ca, result.admin_certificate, result.admin_key)
    assert roles_in(result.admin_certificate) == {Role.ADMIN}
    assert str(config.listen) == "[::]:7443"
    assert str(result.client_address) == "[::1]:7443"
    assert config.work_dir == result.work_dir
    assert config.state_dir == tmp_path / "i/state"
    assert config.uid_first == uid_first_of(tmp_path / "i/state")
    assert not config.state_dir.exists()


def test_the_server_has_the_names_that_clients_use(tmp_path: Path) -> None:
    wanted = options(tmp_path / "i", "jobs.example.com", "10.0.0.7", listen="192.0.2.1:1")
    init_instance.init_instance(wanted)
    for flag in (
        *("-verify_hostname localhost", "-verify_hostname jobs.example.com"),
        *("-verify_ip 127.0.0.1", "-verify_ip ::1", "-verify_ip 10.0.0.7", "-verify_ip 192.0.2.1"),
    ):
        command = f"openssl verify -CAfile ca.crt {flag} server.crt".split()
        subprocess.run(command, cwd=tmp_path / "i/pki", check=True, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's jobs run as other users")
def test_roots_jobs_work_inside_exactly_where_other_users_can_get_to(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            closed_by_pytest = parent
            break
    else:
        pytest.fail(f"pytest's {tmp_path} is open to all")
    outside = init_instance.init_instance(options(tmp_path / "i"))
    assert outside.work_outside, closed_by_pytest
    assert outside.work_dir.parent == Path("/var/lib/jobd")
    assert stat.S_IMODE((tmp_path / "i").stat().st_mode) == 0o700
    assert "not inside" in init_instance.format_next_steps(outside)
    assert not outside.work_dir.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's jobs run as other users")
def test_roots_jobs_work_inside_a_directory_that_others_can_pass() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        result = init_instance.init_instance(options(Path(name, "i")))
        assert not result.work_outside
        assert result.work_dir == Path(name, "i/work").resolve()
        assert stat.S_IMODE(Path(name, "i").stat().st_mode) == 0o711


def test_an_existing_instance_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    init_instance.init_instance(options(tmp_path / "i"))
    before = snapshot(tmp_path)
    with pytest.raises(JobError, match="there is one already; start it with") as caught:
        init_instance.init_instance(options(tmp_path / "i"))
    assert caught.value.reason is Reason.INSTANCE_IN_USE
    assert snapshot(tmp_path) == before


def test_what_the_configuration_offers_as_comments_can_be_taken_as_it_stands(
    tmp_path: Path,
) -> None:
    result = init_instance.init_instance(options(tmp_path / "i"))
    text = result.config.read_text()
    taken = re.sub(r"^# (\[[a-z.]+\]|[a-z_]+ = .*)$", r"\1", text, flags=re.MULTILINE)
    result.config.write_text(taken)
    config = read_config(result.config)
    assert (config.default_limits.memory_bytes, config.default_limits.pids) == (1 << 30, 1000)
    assert (config.ceiling.cpu_millis, config.ceiling.memory_bytes) == (2000, 4 << 30)
    assert config.all_limits.memory_bytes == 16 << 30
    assert config.logs.default.max_bytes == 1 << 30
    assert config.logs.reserve_percent == 5
    assert (config.retention.age_ms, config.retention.count) == (30 * 86_400_000, 10_000)
    assert config.retention.spare_ms == DEFAULT_SPARE_MS


STEPS = ["pki/ca.key", "pki/ca.crt", "pki/crl.pem", "pki/server.key", "pki/server.crt"]
STEPS += ["pki/clients/ada.key", "pki/clients/ada.crt"]
STEPS += ["policy.toml", "jobd.toml"]


@pytest.mark.parametrize("made", range(len(STEPS)))
def test_an_init_that_was_interrupted_anywhere_is_completed(tmp_path: Path, made: int) -> None:
    init_instance.init_instance(options(tmp_path / "i"))
    for step in STEPS[made:]:
        (tmp_path / "i" / step).unlink()
    before = snapshot(tmp_path)
    record = before.pop(tmp_path / "i/pki/issued.jsonl")
    result = init_instance.init_instance(options(tmp_path / "i"))
    after = snapshot(tmp_path)
    assert after.pop(tmp_path / "i/pki/issued.jsonl").startswith(record)
    assert {path: after[path] for path in before} == before
    assert len(after) == len(STEPS)
    channel_credentials(result.ca, result.admin_certificate, result.admin_key)


def test_leftovers_that_do_not_fit_are_refused_with_a_remedy(tmp_path: Path) -> None:
    base = tmp_path / "i"
    init_instance.init_instance(options(base))
    (base / "jobd.toml").unlink()
    with pytest.raises(JobError, match=r"it lacks the name new\.example; remove it and"):
        init_instance.init_instance(options(base, "new.example"))
    other = pki.pair_at(tmp_path, "other")
    pki.make_authority(other)
    (base / "pki/ca.crt").write_bytes(other.certificate.read_bytes())
    with pytest.raises(JobError, match="it is not the key of"):
        init_instance.init_instance(options(base))
    (base / "pki/ca.key").write_bytes(other.key.read_bytes())
    with pytest.raises(JobError, match="not signed by this instance's CA"):
        init_instance.init_instance(options(base))
    (base / "pki/ca.key").unlink()
    with pytest.raises(JobError, match="no such file"):
        init_instance.init_instance(options(base))
    assert not (base / "jobd.toml").exists()


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "i").chmod(0o777)
    with pytest.raises(JobError, match="chmod go-w"):
        init_instance.init_instance(options(tmp_path / "i"))
    assert not list((tmp_path / "i").iterdir())


def test_what_comes_next_is_printed_as_commands_and_nothing_is_asked(tmp_path: Path) -> None:
    done = jobd(tmp_path, "init", "--dir", tmp_path / "a b", "--admin", "ada")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  jobd serve --config '{tmp_path}/a b/jobd.toml'\n" in done.stdout
    exports = "".join(line + "\n" for line in done.stdout.splitlines() if "export " in line)
    shown = subprocess.run(
        ["sh", "-c", exports + 'cat "$JOBC_CA" "$JOBC_CERT" "$JOBC_KEY"; echo "$JOBC_ADDR"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.endswith("127.0.0.1:7443\n")
    assert not (tmp_path / ".config").exists()
    again = jobd(tmp_path, "init", "--dir", tmp_path / "a b")
    assert again.returncode == 1
    assert again.stderr.startswith("jobd: cannot make an instance in ")
    assert len(again.stderr.splitlines()) == 1


def test_a_clients_configuration_is_written_on_demand_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / ".config/jobc/config.toml"
    done = jobd(
        tmp_path, "init", "--dir", tmp_path / "i", "--admin", "ada", "--write-client-config"
    )
    assert done.returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f'key = "{tmp_path}/i/pki/clients/ada.key"' in path.read_text()
    before = path.read_bytes()
    again = jobd(tmp_path, "init", "--dir", tmp_path / "j", "--write-client-config")
    assert (again.returncode, path.read_bytes()) == (1, before)
    assert "it exists" in again.stderr
    assert not (tmp_path / "j").exists()


def asked(home: Path, answer: bytes, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `jobd init` with a terminal as its stdin, on which `answer` is typed."""
    terminal, stdin = pty.openpty()
    try:
        os.write(terminal, answer)
        return jobd(home, "init", "--admin", "ada", *arguments, stdin=stdin)
    finally:
        os.close(terminal)
        os.close(stdin)


def test_on_a_terminal_the_clients_configuration_is_offered(tmp_path: Path) -> None:
    path = tmp_path / ".config/jobc/config.toml"
    done = asked(tmp_path, b"\n", "--dir", tmp_path / "i")
    assert (done.returncode, path.exists()) == (0, False)
    assert "? [y/N]" in done.stderr
    done = asked(tmp_path, b"y\n", "--dir", tmp_path / "j")
    assert (done.returncode, path.exists()) == (0, True)
    first = path.read_bytes()
    done = asked(tmp_path, b"n\n", "--dir", tmp_path / "k", "--write-client-config")
    assert "Replace" in done.stderr
    assert (done.returncode, path.read_bytes()) == (0, first)
    done = asked(tmp_path, b"yes\n", "--dir", tmp_path / "l")
    assert f"{tmp_path}/l/pki" in path.read_text()
    assert path.with_name("config.toml.old").read_bytes() == first


def test_more_users_get_certificates_and_no_name_is_given_twice(tmp_path: Path) -> None:
    init_instance.init_instance(options(tmp_path / "i"))
    arguments = ("cert", "issue", "bob", "--role", "user", "--dir", tmp_path / "i")
    done = jobd(tmp_path, *arguments, "--role", "admin", "--days", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert roles_in(tmp_path / "i/pki/clients/bob.crt") == {Role.USER, Role.ADMIN}
    before = snapshot(tmp_path)
    again = jobd(tmp_path, *arguments)
    assert again.returncode == 1
    assert "bob.crt exists; use it, or `jobd cert renew bob`" in again.stderr
    assert snapshot(tmp_path) == before


def test_a_role_of_the_policy_file_gets_a_certificate_and_an_unknown_one_does_not(
    tmp_path: Path,
) -> None:
    init_instance.init_instance(options(tmp_path / "i"))
    arguments = ("cert", "issue", "bob", "--role", "operator", "--dir", tmp_path / "i")
    refused = jobd(tmp_path, *arguments)
    assert refused.returncode == 1
    assert "with the role operator: the instance in" in refused.stderr
    assert "knows admin, user; name one of these, or define the role" in refused.stderr
    assert not (tmp_path / "i/pki/clients/bob.crt").exists()

    with (tmp_path / "i/policy.toml").open("a") as file:
        file.write('[roles.operator]\nverbs = { status = "any" }\n')
    assert jobd(tmp_path, *arguments).returncode == 0
    pem = (tmp_path / "i/pki/clients/bob.crt").read_bytes()
    context = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [pem]}
    assert principal_of(context, known_roles={"operator"}).roles == {"operator"}


@pytest.mark.parametrize("name", ["", "../eve", "a/b", ".hidden", "a\nb", "x" * 65])
def test_a_name_that_is_no_user_gets_no_certificate(tmp_path: Path, name: str) -> None:
    init_instance.init_instance(options(tmp_path / "i"))
    before = snapshot(tmp_path)
    with pytest.raises(JobError, match="as a user's name"):
        cert.issue_certificate(tmp_path / "i", name, [Role.USER], valid=dt.timedelta(days=1))
    assert snapshot(tmp_path) == before


def test_without_an_instance_or_its_cas_key_no_certificate_is_made(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no instance in"):
        cert.issue_certificate(tmp_path / "i", "bob", [Role.USER], valid=dt.timedelta(days=1))
    init_instance.init_instance(options(tmp_path / "i"))
    (tmp_path / "i/pki/ca.key").unlink()
    with pytest.raises(JobError, match=r"ca\.key is not there"):
        cert.issue_certificate(tmp_path / "i", "bob", [Role.USER], valid=dt.timedelta(days=1))


@pytest.mark.parametrize(
    "arguments",
    [
        ["issue", "bob", "--dir", "x"],
        ["issue", "bob", "--dir", "x", "--role", "../root"],
        ["issue", "bob", "--dir", "x", "--role", "user", "--days", "0"],
        ["issue", "bob", "--dir", "x", "--role", "user", "--days", "1e3"],
        ["issue", "bob", "--dir", "x", "--role", "user", "--valid", "12"],
        ["issue", "bob", "--dir", "x", "--role", "user", "--valid", "12h", "--days", "1"],
        ["rollover", "begin", "--dir", "x"],
        [],
    ],
)
def test_wrong_usage_of_cert_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    cert.add_arguments(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_the_flags_are_known_without_loading_cryptography_or_grpc() -> None:
    code = (
        "import sys; from jobruntime.server import cert, init_instance;"
        "assert not {'cryptography', 'grpc', 'ssl'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
