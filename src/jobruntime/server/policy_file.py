"""The policy's file, `policy.toml`: read whole, or refused by file and key."""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from jobruntime.model.access import ABOUT_ONESELF, Scope, Verb
from jobruntime.model.ceilings import cut_to_ceiling
from jobruntime.model.errors import JobError, Reason
from jobruntime.model.isolation import Isolation
from jobruntime.model.limits import Limits, check_ceiling, check_together
from jobruntime.model.policy import (
    DEFAULT_POLICY,
    ROLE_NAMES,
    SEED_VERBS,
    Policy,
    RoleRules,
    is_role_name,
)
from jobruntime.model.quantities import parse_cpus
from jobruntime.model.quota import NO_QUOTA, Quota

from .config import Config, read_config
from .config_jobs import rlimits_of
from .config_logs import role_logs_of
from .config_table import Table, as_key

_MAX_BYTES: Final = 1 << 20
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ACCOUNT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")
_GRANTED: Final = tuple(verb for verb in Verb if verb not in ABOUT_ONESELF)


def read_policy_of(config: Config | Path) -> Policy:
    """Return the policy that a configuration names; the built-in one where it names none.

    Raises JobError (CONFIG_INVALID).
    """
    if isinstance(config, Path):
        config = read_config(config)
    return DEFAULT_POLICY if config.policy is None else read_policy(config.policy)


def read_policy(path: Path) -> Policy:
    """Return the policy in the file; raises JobError (CONFIG_INVALID) that names file and key.

    A file that others could write is refused: they could make themselves administrators.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(
            path,
            (error.strerror or str(error)).lower(),
            "restore it, or take `policy` out of jobd.toml",
        ) from error
    try:
        _check_owner(path, os.fstat(fd))
        with open(fd, "rb", closefd=False) as file:
            data = file.read(_MAX_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _MAX_BYTES:
        raise _unreadable(path, f"it has more than {_MAX_BYTES} bytes", "make it smaller")
    return parse_policy(data, path)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(path, "it is no regular file", "name a file")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _unreadable(path, "group or others can write it", f"chmod go-w {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise _unreadable(
            path,
            f"it belongs to uid {status.st_uid}, who could change it",
            f"give it to root or to the server's user (chown root {path})",
        )


def parse_policy(data: bytes, path: Path) -> Policy:
    """Return the policy in `data`, which was read from the absolute `path`."""
    try:
        raw = tomllib.loads(data.decode("utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise _unreadable(path, str(error), "mend its TOML") from error
    top = Table(path, raw, "")
    shared = _quota(top.table("quotas"), NO_QUOTA)
    table = top.table("roles")
    top.refuse_unknown()
    roles = [_role(table, name, shared) for name in table.keys()]  # noqa: SIM118 - not a mapping
    named = {rules.name for rules in roles}
    # What the file does not name stays as it was built in.
    roles += [replace(r, quota=shared) for r in DEFAULT_POLICY.roles if r.name not in named]
    return Policy(tuple(roles), path.name)


def _unreadable(path: Path, cause: str, remedy: str) -> JobError:
    return JobError(Reason.CONFIG_INVALID, f"cannot read the policy {path}: {cause}", remedy)


def _role(roles: Table, name: str, shared: Quota) -> RoleRules:
    if not is_role_name(name):
        raise roles.bad(name, "it is no name of a role", ROLE_NAMES)
    table = roles.table(name)
    limits, logs = table.table("limits"), table.table("logs")
    default, ceiling = limits.limits("default"), limits.limits("ceiling", ("oom_group",))
    _check_limits(limits, default, ceiling)
    log, log_ceiling = role_logs_of(logs)
    user, users = _account(table, "user"), _accounts(table)
    if user is not None and users:
        raise table.bad("users", "there is also `user`, which is forced", "keep one of the two")
    rules = RoleRules(
        name=name,
        verbs=_verbs(table, name),
        commands=_commands(table),
        users=users,
        user=user,
        isolation=_isolation(table),
        isolation_forced=table.truth("isolation_forced"),
        default_limits=default,
        ceiling=ceiling,
        default_log=log,
        log_ceiling_bytes=log_ceiling,
        rlimits=rlimits_of(table.table("rlimits")),
        quota=_quota(table.table("quotas"), shared),
    )
    if rules.isolation_forced and rules.isolation is None:
        raise table.bad("isolation_forced", "there is no isolation", "give `isolation`, too")
    for part in (table, limits, logs):
        part.refuse_unknown()
    return rules


def _verbs(table: Table, role: str) -> Mapping[Verb, Scope]:
    value = table.value("verbs")
    if value is None:
        if role in SEED_VERBS:
            return SEED_VERBS[role]
        raise table.bad("verbs", "it is missing, and the role not built in", 'give verbs = "own"')
    if isinstance(value, str):
        scope = _scope(table, "verbs", value)
        return MappingProxyType(dict.fromkeys(_GRANTED, scope))
    verbs = table.table("verbs")
    known = ", ".join(_GRANTED)
    granted: dict[Verb, Scope] = {}
    for word in verbs.keys():  # noqa: SIM118 - not a mapping
        if word not in _GRANTED:
            raise verbs.bad(word, "there is no such verb to grant", f"give some of {known}")
        granted[Verb(word)] = _scope(verbs, word, verbs.value(word))
    return MappingProxyType(granted)


def _scope(table: Table, key: str, value: object) -> Scope:
    if not isinstance(value, str) or value not in set(Scope):
        raise table.bad(key, f"{value!r} is no scope", 'give "own" or "any"')
    return Scope(value)


def _commands(table: Table) -> tuple[str, ...] | None:
    commands = table.texts("commands")
    for entry in commands or ():
        if not entry.startswith("/") or "\0" in entry:
            raise table.bad(
                "commands",
                f"{entry!r} is no absolute path",
                'give "/usr/bin/rsync", or a directory as "/srv/bin/"',
            )
        if {".", ".."} & set(entry.split("/")) or entry == "/":
            raise table.bad(
                "commands", f"{entry!r} is more than one reads in it", "give a path without dots"
            )
    return commands


def _account(table: Table, key: str) -> str | None:
    if not table.has(key):
        return None
    return _checked_account(table, key, table.text(key, ""))


def _accounts(table: Table) -> tuple[str, ...]:
    return tuple(_checked_account(table, "users", name) for name in table.texts("users") or ())


def _checked_account(table: Table, key: str, name: str) -> str:
    if not _ACCOUNT.fullmatch(name):
        raise table.bad(key, f"{name!r} is no account's name", "give names as in /etc/passwd")
    return name


def _isolation(table: Table) -> Isolation | None:
    if not table.has("isolation"):
        return None
    word = table.text("isolation", "")
    if word not in list(Isolation):
        known = ", ".join(Isolation)
        raise table.bad("isolation", f"{word!r} is no isolation", f"give one of {known}")
    return Isolation(word)


def _check_limits(table: Table, default: Limits, ceiling: Limits) -> None:
    try:
        check_ceiling(default, ceiling, lambda _: "the role's ceiling")
    except JobError as error:
        raise table.bad("default", error.message, "give less, or a higher ceiling") from error
    try:
        check_together(check_ceiling(cut_to_ceiling(default, ceiling), ceiling))
    except JobError as error:
        raise table.bad("ceiling", error.message, error.remedy) from error


def _quota(table: Table, base: Quota) -> Quota:
    given: dict[str, int | float | None] = {
        "jobs": table.count("jobs"),
        "cpu_millis": _cpus(table),
        "memory_bytes": table.size_bytes("memory"),
        "log_bytes": table.size_bytes("log_bytes"),
        "followers": table.count("followers"),
        "starts_per_second": _rate(table),
    }
    table.refuse_unknown()
    return replace(base, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type] # each of its field


def _cpus(table: Table) -> int | None:
    value = table.value("cpu")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise table.bad("cpu", f"{value!r} is no number of CPUs", "give 4, 1.5 or the like")
    try:
        return parse_cpus(str(value))
    except JobError as error:
        raise as_key(table, "cpu", error) from error


def _rate(table: Table) -> float | None:
    value = table.value("starts_per_second")
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator] # it is a number
        raise table.bad("starts_per_second", f"{value!r} is no rate", "give a number above 0")
    return float(value)  # type: ignore[arg-type] # it is a number
