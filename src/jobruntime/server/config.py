"""The configuration of one instance, `jobd.toml`: read whole, or refused by file and key."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from jobruntime.model.durations import parse_duration_ms
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.limit_texts import parse_limit_texts
from jobruntime.model.limits import Limits

DEFAULT_LISTEN: Final = "127.0.0.1:7443"
DEFAULT_UID_COUNT: Final = 65_536

# 0x70000000 to 0x7FFDFFFF: above what systemd gives to containers (its last is 0x6FFFFFFF) and
# below its foreign images (0x7FFE0000); see https://systemd.io/UIDS-GIDS/. useradd, subuid and
# DynamicUser= stay far below.
_UID_BASE: Final = 0x7000_0000
_UID_SLOTS: Final = 4094
_MAX_UID: Final = 0xFFFF_FFFD
_RESERVED_UIDS: Final = (65_534, 65_535)  # nobody, and -1 for 16-bit programs
_FIRST_REGULAR_UID: Final = 1000

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
    """Where the server's certificates are, as absolute paths."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Config:
    """An instance as its operator described it. All paths are absolute.

    `runtime_dir` None leaves the choice to the worker. Owners' uids are `uid_first` and the
    `uid_count - 1` after it. `cgroup_root` is a path, or what to do without one.
    """

    path: Path
    listen: Address
    state_dir: Path
    runtime_dir: Path | None
    work_dir: Path
    tls: TlsFiles
    default_grace_ms: int
    uid_first: int
    uid_count: int
    cgroup_root: Path | Literal["auto", "none"]
    default_limits: Limits
    ceiling: Limits
    all_limits: Limits


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
    top = _Table(path, raw, "")
    tls, jobs, cgroup = top.table("tls"), top.table("jobs"), top.table("cgroup")
    limits = top.table("limits")
    state_dir = top.path("state_dir", "state")
    runtime_dir = top.path("runtime_dir", "") if top.has("runtime_dir") else None
    uid_first, uid_count = _uids(jobs, state_dir)
    config = Config(
        path=path,
        listen=_listen(top),
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        work_dir=top.path("work_dir", "work"),
        tls=TlsFiles(
            ca=tls.path("ca", "pki/ca.crt"),
            cert=tls.path("cert", "pki/server.crt"),
            key=tls.path("key", "pki/server.key"),
        ),
        default_grace_ms=_grace_ms(jobs),
        uid_first=uid_first,
        uid_count=uid_count,
        cgroup_root=_cgroup_root(cgroup),
        default_limits=limits.limits("default"),
        ceiling=limits.limits("ceiling", forbidden=("oom_group",)),
        all_limits=limits.limits("all", forbidden=("oom_group",)),
    )
    for table in (top, tls, jobs, cgroup, limits):
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


class _Table:
    """One table of the file: typed look-ups that know the key's full name, and what was asked."""

    def __init__(self, file: Path, values: Mapping[str, object], name: str) -> None:
        self._file = file
        self._values = values
        self._name = name
        self._known: set[str] = set()

    def has(self, key: str) -> bool:
        self._known.add(key)
        return key in self._values

    def table(self, key: str) -> _Table:
        value = self._values[key] if self.has(key) else {}
        if not isinstance(value, dict):
            raise self.bad(key, "it is not a table", f"write it as [{key}]")
        return _Table(self._file, value, f"{self._name}.{key}" if self._name else key)

    def limits(self, key: str, forbidden: Container[str] = ()) -> Limits:
        table = self.table(key)
        for name, value in table._values.items():
            if name in forbidden:
                raise table.bad(name, f"there is no {key} for it", "remove it")
            try:
                parse_limit_texts({name: value})
            except JobError as error:
                raise table.bad(name, error.message, error.remedy) from error
        return parse_limit_texts(table._values)

    def text(self, key: str, default: str) -> str:
        value = self._values[key] if self.has(key) else default
        if not isinstance(value, str):
            raise self.bad(key, "it is not a string", 'write it in quotes, as in key = "value"')
        return value

    def integer(self, key: str, default: int) -> int:
        value = self._values[key] if self.has(key) else default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.bad(key, "it is not an integer", "write it without quotes and point")
        return value

    def path(self, key: str, default: str) -> Path:
        text = self.text(key, default)
        if not text or "\0" in text:
            raise self.bad(key, "it is empty or has a NUL", "give a path")
        return Path(os.path.normpath(self._file.parent / text))

    def refuse_unknown(self) -> None:
        for key in self._values:
            if key not in self._known:
                known = ", ".join(sorted(self._known))
                raise self.bad(key, "there is no such key", f"remove it; known here: {known}")

    def bad(self, key: str, cause: str, remedy: str) -> JobError:
        name = f"{self._name}.{key}" if self._name else key
        return JobError(
            Reason.CONFIG_INVALID, f"cannot use the key {name} in {self._file}: {cause}", remedy
        )


def _listen(top: _Table) -> Address:
    try:
        return parse_address(top.text("listen", DEFAULT_LISTEN))
    except JobError as error:
        raise _as_key(top, "listen", error) from error


def _grace_ms(jobs: _Table) -> int:
    try:
        return parse_duration_ms(jobs.text("default_grace", "10s"))
    except JobError as error:
        raise _as_key(jobs, "default_grace", error) from error


def _as_key(table: _Table, key: str, error: JobError) -> JobError:
    if error.reason is Reason.CONFIG_INVALID:
        return error
    return table.bad(key, error.message, error.remedy)


def _uids(jobs: _Table, state_dir: Path) -> tuple[int, int]:
    first = jobs.integer("uid_first", uid_first_of(state_dir))
    count = jobs.integer("uid_count", DEFAULT_UID_COUNT)
    if first < _FIRST_REGULAR_UID:
        raise jobs.bad("uid_first", f"{first} is a system user's", "give 1000 or more")
    if count < 1 or first + count - 1 > _MAX_UID:
        raise jobs.bad("uid_count", f"uids end at {_MAX_UID}", "give a range of 1 or more below it")
    if any(first <= uid < first + count for uid in _RESERVED_UIDS):
        raise jobs.bad("uid_first", "its range has 65534 or 65535", "give a range without them")
    return first, count


def _cgroup_root(cgroup: _Table) -> Path | Literal["auto", "none"]:
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
