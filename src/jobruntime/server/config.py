"""The configuration of one instance, `jobd.toml`: read whole, or refused by file and key."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from jobruntime.model.durations import parse_duration_ms
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.limits import Limits
from jobruntime.model.retention import Retention

from .config_audit import AuditConfig, audit_of
from .config_jobs import UserConfig, users_of
from .config_logs import LogsConfig, logs_of, retention_of
from .config_table import Table, as_key

DEFAULT_LISTEN: Final = "127.0.0.1:7443"
DEFAULT_UID_COUNT: Final = 65_536
DEFAULT_RENEW_MAX_MS: Final = 366 * 86_400_000

# 0x70000000 to 0x7FFDFFFF: above what systemd gives to containers (its last is 0x6FFFFFFF) and
# below its foreign images (0x7FFE0000); see https://systemd.io/UIDS-GIDS/. useradd, subuid and
# DynamicUser= stay far below.
_UID_BASE: Final = 0x7000_0000
_UID_SLOTS: Final = 4094
_MAX_UID: Final = 0xFFFF_FFFD
_RESERVED_UIDS: Final = (65_534, 65_535)  # nobody, and -1 for 16-bit programs
_FIRST_REGULAR_UID: Final = 1000
# 0x7FFF0000 to 0x7FFFFFFE: behind systemd's foreign images, and used by nobody either.
_SERVER_UID_BASE: Final = 0x7FFF_0000
_SERVER_UID_SLOTS: Final = 0xFFFF

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address (without brackets) and a TCP port; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the server's certificates are, as absolute paths. `crl`: revocation lists, or none.

    `renew_max_ms` is the longest validity of what a client gets by renewing over the API.
    """

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None
    renew_max_ms: int = DEFAULT_RENEW_MAX_MS


@dataclass(frozen=True, slots=True)
class Config:
    """An instance as its operator described it. All paths are absolute.

    `runtime_dir` None leaves the choice to the worker. Owners' uids are `uid_first` and the
    `uid_count - 1` after it. `cgroup_root` is a path, or what to do without one. `user` is the
    account as which root has the server run; None: a uid of the instance's own.
    """

    path: Path
    listen: Address
    state_dir: Path
    runtime_dir: Path | None
    work_dir: Path
    user: str | None
    tls: TlsFiles
    default_grace_ms: int
    uid_first: int
    uid_count: int
    cgroup_root: Path | Literal["auto", "none"]
    default_limits: Limits
    ceiling: Limits
    all_limits: Limits
    logs: LogsConfig
    retention: Retention
    users: UserConfig
    audit: AuditConfig
    policy: Path | None = None
    """The policy's file; None: the built-in table."""


def read_config(path: str | os.PathLike[str]) -> Config:
    """Return the configuration in the file; paths in it are relative to the file's directory.

    Raises JobError (CONFIG_INVALID) that names file and key.
    """
    file = Path(os.path.abspath(path))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot read the configuration {file}: {(error.strerror or str(error)).lower()}",
            "name the file that `jobd init` made",
        ) from error
    return parse_config(data, file)


def parse_config(data: bytes, path: Path) -> Config:
    """Return the configuration in `data`, which was read from the absolute `path`."""
    try:
        raw = tomllib.loads(data.decode("utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise JobError(
            Reason.CONFIG_INVALID, f"cannot read the configuration {path}: {error}", "mend its TOML"
        ) from error
    top = Table(path, raw, "")
    tls, jobs, cgroup = top.table("tls"), top.table("jobs"), top.table("cgroup")
    limits, logs, retention = top.table("limits"), top.table("logs"), top.table("retention")
    audit = top.table("audit")
    state_dir = top.path("state_dir", "state")
    runtime_dir = top.path("runtime_dir", "") if top.has("runtime_dir") else None
    uid_first, uid_count = _uids(jobs, state_dir)
    config = Config(
        path=path,
        listen=_listen(top),
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        work_dir=top.path("work_dir", "work"),
        user=top.text("user", "") if top.has("user") else None,
        tls=_tls_files(tls),
        default_grace_ms=_grace_ms(jobs),
        uid_first=uid_first,
        uid_count=uid_count,
        cgroup_root=_cgroup_root(cgroup),
        default_limits=limits.limits("default"),
        ceiling=limits.limits("ceiling", forbidden=("oom_group",)),
        all_limits=limits.limits("all", forbidden=("oom_group",)),
        logs=logs_of(logs),
        retention=retention_of(retention),
        users=users_of(jobs),
        policy=top.path("policy", "") if top.has("policy") else None,
        audit=audit_of(audit, state_dir),
    )
    for table in (top, tls, jobs, cgroup, limits, logs, retention, audit):
        table.refuse_unknown()
    return config


def parse_address(text: str) -> Address:
    """Return the address in `HOST:PORT` or `[IPV6]:PORT`; raises JobError (INVALID_ARGUMENT)."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    good_host = _is_ipv6(host) if bracketed else _HOST.fullmatch(host) is not None
    if not colon or not good_host or not _NUMBER.fullmatch(port) or int(port) > 65_535:
        raise JobError(
            Reason.INVALID_ARGUMENT,
            f"cannot read the address {text!r}",
            "write it as 127.0.0.1:7443, name:7443 or [::1]:7443",
        )
    return Address(host, int(port))


def uid_first_of(state_dir: str | os.PathLike[str]) -> int:
    """Return the first of the 65,536 uids that an instance with this state directory uses.

    Always the same for a directory; two directories share a range with a chance of 1 in 4,094.
    """
    return _UID_BASE + _stable_hash(state_dir) % _UID_SLOTS * DEFAULT_UID_COUNT


def server_uid_of(state_dir: str | os.PathLike[str]) -> int:
    """Return the uid as which the server of this state directory runs where root starts it.

    No owner ever gets it, and no account is needed; two directories share one with a chance of
    1 in 65,535.
    """
    return _SERVER_UID_BASE + _stable_hash(state_dir) % _SERVER_UID_SLOTS


def instance_tag(state_dir: str | os.PathLike[str]) -> str:
    """Return 12 hex digits that name the instance with this state directory in paths."""
    return f"{_stable_hash(state_dir):016x}"[:12]


def toml_string(text: str) -> str:
    """Return `text` as a basic string of TOML; raises ValueError for lone surrogates."""
    text.encode("utf-8")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    )


def _stable_hash(state_dir: str | os.PathLike[str]) -> int:
    digest = hashlib.sha256(os.fsencode(os.path.realpath(state_dir))).digest()
    return int.from_bytes(digest[:8])


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _tls_files(tls: Table) -> TlsFiles:
    renew_max_ms = tls.duration_ms("renew_max")
    return TlsFiles(
        ca=tls.path("ca", "pki/ca.crt"),
        cert=tls.path("cert", "pki/server.crt"),
        key=tls.path("key", "pki/server.key"),
        crl=tls.path("crl", "") if tls.has("crl") else None,
        renew_max_ms=DEFAULT_RENEW_MAX_MS if renew_max_ms is None else renew_max_ms,
    )


def _listen(top: Table) -> Address:
    try:
        return parse_address(top.text("listen", DEFAULT_LISTEN))
    except JobError as error:
        raise as_key(top, "listen", error) from error


def _grace_ms(jobs: Table) -> int:
    try:
        return parse_duration_ms(jobs.text("default_grace", "10s"))
    except JobError as error:
        raise as_key(jobs, "default_grace", error) from error


def _uids(jobs: Table, state_dir: Path) -> tuple[int, int]:
    first = jobs.integer("uid_first", uid_first_of(state_dir))
    count = jobs.integer("uid_count", DEFAULT_UID_COUNT)
    if first < _FIRST_REGULAR_UID:
        raise jobs.bad("uid_first", f"{first} is a system user's", "give 1000 or more")
    if count < 1 or first + count - 1 > _MAX_UID:
        raise jobs.bad("uid_count", f"uids end at {_MAX_UID}", "give a range of 1 or more below it")
    if any(first <= uid < first + count for uid in _RESERVED_UIDS):
        raise jobs.bad("uid_first", "its range has 65534 or 65535", "give a range without them")
    return first, count


def _cgroup_root(cgroup: Table) -> Path | Literal["auto", "none"]:
    match cgroup.text("root", "auto"):
        case "auto":
            return "auto"
        case "none":
            return "none"
        case text if text.startswith("/"):
            return cgroup.path("root", "")
        case _:
            raise cgroup.bad(
                "root", "it is no absolute path", 'give "auto", "none" or an absolute path'
            )
