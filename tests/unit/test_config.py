import tomllib
from pathlib import Path

import pytest

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.log_policy import NO_POLICY, LogFull, LogPolicy
from jobruntime.model.retention import KEEP_ALL, Retention
from jobruntime.server.config import (
    Address,
    instance_tag,
    parse_address,
    parse_config,
    read_config,
    toml_string,
    uid_first_of,
)
from jobruntime.server.config_logs import LogsConfig

PATH = Path("/srv/jobs/jobd.toml")


def refusal(text: str) -> str:
    with pytest.raises(JobError) as caught:
        parse_config(text.encode(), PATH)
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert str(PATH) in caught.value.message
    assert caught.value.remedy
    return caught.value.message


def test_an_empty_file_is_a_whole_configuration_beside_itself() -> None:
    config = parse_config(b"", PATH)
    assert config.listen == Address("127.0.0.1", 7443)
    assert config.state_dir == Path("/srv/jobs/state")
    assert config.work_dir == Path("/srv/jobs/work")
    assert config.runtime_dir is None
    assert config.tls.ca == Path("/srv/jobs/pki/ca.crt")
    assert config.tls.cert == Path("/srv/jobs/pki/server.crt")
    assert config.tls.key == Path("/srv/jobs/pki/server.key")
    assert config.default_grace_ms == 10_000
    assert (config.uid_first, config.uid_count) == (uid_first_of("/srv/jobs/state"), 65_536)
    assert config.cgroup_root == "auto"
    assert config.logs == LogsConfig(NO_POLICY, None, None, None, 4096)
    assert config.retention == KEEP_ALL


def test_every_key_is_taken() -> None:
    text = """
    listen = "[::1]:0"
    state_dir = "/var/s"
    runtime_dir = "../run"
    work_dir = "w"
    tls = {ca = "a", cert = "b", key = "/c"}
    jobs = {default_grace = "1m30s", uid_first = 200000, uid_count = 10}
    cgroup = {root = "/sys/fs/cgroup/jobs"}
    logs = {max = "1M", full = "block", ceiling = "1M", reserve = "2G", followers_per_user = 3}
    retention = {age = "1d", count = 0, size = "1T", spare = "0"}
    """
    config = parse_config(text.encode(), PATH)
    assert str(config.listen) == "[::1]:0"
    assert (config.state_dir, config.runtime_dir) == (Path("/var/s"), Path("/srv/run"))
    assert config.work_dir == Path("/srv/jobs/w")
    assert (config.tls.ca, config.tls.key) == (Path("/srv/jobs/a"), Path("/c"))
    assert (config.default_grace_ms, config.uid_first, config.uid_count) == (90_000, 200_000, 10)
    assert config.cgroup_root == Path("/sys/fs/cgroup/jobs")
    bounds = LogPolicy(1 << 20, LogFull.BLOCK)
    assert config.logs == LogsConfig(bounds, 1 << 20, 2 << 30, None, 3)
    assert config.retention == Retention(86_400_000, 0, 1 << 40, 0)


@pytest.mark.parametrize(("text", "percent"), [("5%", 5.0), ("0.5%", 0.5), ("99%", 99.0)])
def test_a_reserve_may_be_a_share_of_the_disk(text: str, percent: float) -> None:
    logs = parse_config(f"[logs]\nreserve = '{text}'".encode(), PATH).logs
    assert (logs.reserve_bytes, logs.reserve_percent) == (None, percent)


def test_nothing_is_spared_longer_than_it_is_kept() -> None:
    assert parse_config(b"[retention]\nage = '10m'", PATH).retention.spare_ms == 600_000
    assert parse_config(b"[retention]\nage = '10h'", PATH).retention.spare_ms == 3_600_000


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("listen = 1", "listen"),
        ("[tls]\ncacert = 'x'", "tls.cacert"),
        ("[jobs]\nuid = 1", "jobs.uid"),
        ("[logs]\nx = 1", "logs.x"),
        ("[log]\nmax = '1G'", "log"),
        ("[logs]\nmax = '1'", "logs.max"),
        ("[logs]\nmax = 1048576", "logs.max"),
        ("[logs]\nceiling = '1000K'", "logs.ceiling"),
        ("[logs]\nmax = '2G'\nceiling = '1G'", "logs.max"),
        ("[logs]\nfull = 'drop'", "logs.full"),
        ("[logs]\nfull = true", "logs.full"),
        ("[logs]\nreserve = '100%'", "logs.reserve"),
        ("[logs]\nreserve = '-1%'", "logs.reserve"),
        ("[logs]\nreserve = 5", "logs.reserve"),
        ("[logs]\nfollowers_per_user = -1", "logs.followers_per_user"),
        ("[retention]\ndays = 1", "retention.days"),
        ("[retention]\nage = 30", "retention.age"),
        ("[retention]\nage = '30'", "retention.age"),
        ("[retention]\ncount = '30'", "retention.count"),
        ("[retention]\ncount = -1", "retention.count"),
        ("[retention]\nsize = 'all'", "retention.size"),
        ("[retention]\nspare = '-1h'", "retention.spare"),
        ("[retention]\nspare = '2h'\nage = '1h'", "retention.spare"),
        ("listen = 7443", "listen"),
        ("listen = ':7443'", "listen"),
        ("state_dir = ''", "state_dir"),
        ("state_dir = 1", "state_dir"),
        ('runtime_dir = "a\\u0000b"', "runtime_dir"),
        ("tls = 'x'", "tls"),
        ("[tls]\nkey = 3", "tls.key"),
        ("[jobs]\ndefault_grace = 10", "jobs.default_grace"),
        ("[jobs]\ndefault_grace = '10'", "jobs.default_grace"),
        ("[jobs]\nuid_first = 0", "jobs.uid_first"),
        ("[jobs]\nuid_first = true", "jobs.uid_first"),
        ("[jobs]\nuid_first = 60000.0", "jobs.uid_first"),
        ("[jobs]\nuid_first = 60000", "jobs.uid_first"),  # with 65534 in its range
        ("[jobs]\nuid_count = 0", "jobs.uid_count"),
        ("[jobs]\nuid_first = 4294967293\nuid_count = 2", "jobs.uid_count"),
        ("[cgroup]\nroot = 'jobs'", "cgroup.root"),
        ("[cgroup]\nroot = false", "cgroup.root"),
    ],
)
def test_a_key_that_is_wrong_is_refused_by_its_full_name(text: str, key: str) -> None:
    assert f"the key {key} in" in refusal(text)


def test_what_is_no_toml_or_no_file_is_refused(tmp_path: Path) -> None:
    assert "line 1" in refusal("listen 7443")
    with pytest.raises(JobError, match="no such file"):
        read_config(tmp_path / "jobd.toml")
    (tmp_path / "latin1").write_bytes(b"# \xe9\n")
    with pytest.raises(JobError, match="cannot read the configuration"):
        read_config(tmp_path / "latin1")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7443", "127.0.0.1", 7443),
        ("jobs.example.com:1", "jobs.example.com", 1),
        ("[::1]:7443", "::1", 7443),
        ("[::]:0", "::", 0),
        ("0.0.0.0:65535", "0.0.0.0", 65_535),
    ],
)
def test_an_address_survives_being_read_and_written(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7443",
        ":7443",
        "a:",
        "a:x",
        "a:65536",
        "a:-1",
        "::1:5",
        "[::1]",
        "[a]:5",
        "a b:5",
        "a:٣",
        "a:5\n",
    ],
)
def test_an_address_that_could_be_read_two_ways_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="cannot read the address"):
        parse_address(text)


def test_an_instance_keeps_its_uids_in_a_range_that_nobody_else_uses(tmp_path: Path) -> None:
    firsts = [uid_first_of(tmp_path / str(n)) for n in range(200)]
    assert firsts == [uid_first_of(tmp_path / str(n)) for n in range(200)]
    assert len(set(firsts)) > 150
    for first in firsts:
        assert first % 65_536 == 0
        assert 0x7000_0000 <= first < first + 65_535 <= 0x7FFD_FFFF


def test_the_same_directory_by_another_path_is_the_same_instance(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    assert uid_first_of(tmp_path / "b/state") == uid_first_of(tmp_path / "a/state")
    assert instance_tag(tmp_path / "b/state") == instance_tag(tmp_path / "a/state")


@pytest.mark.parametrize("text", ["", 'a"b\\c', "a\nb\x00\x7f\x1f", "ü𝄞", "\\u0041"])
def test_any_text_survives_as_a_toml_string(text: str) -> None:
    assert tomllib.loads(f"x = {toml_string(text)}") == {"x": text}
