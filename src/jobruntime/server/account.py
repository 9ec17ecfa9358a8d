"""As whom root has the server run."""

from __future__ import annotations

import os
import pwd
import shlex

from jobruntime.model.errors import JobError, Reason
from jobruntime.worker.ownership import closed_directory, give_files, make_directory
from jobruntime.worker.settings import Account

from .config import Config, server_uid_of


def server_account(config: Config) -> Account:
    """Return the account of a server that root starts; raises JobError (CONFIG_INVALID)."""
    account = _derived(config) if config.user is None else _named(config, config.user)
    owners = range(config.uid_first, config.uid_first + config.uid_count)
    if account.uid == 0 or account.gid == 0:
        raise _unusable(config, "it is root, or in root's group", "name an account of its own")
    if account.uid in owners or account.gid in owners:
        raise _unusable(
            config, "its uid or gid may be a job's", "name another, or change jobs.uid_first"
        )
    return account


def give_server_files(config: Config, account: Account) -> list[str]:
    """Let the server read what [tls] and `policy` name; the CA's key stays root's.

    Returns what was changed, in words.
    """
    tls = config.tls
    readable = [str(path) for path in (tls.ca, tls.cert, tls.crl, config.policy) if path]
    return give_files(str(config.path.parent), str(tls.key), readable, account)


def check_live_files(config: Config, account: Account) -> list[str]:
    """Refuse a policy or revocation list that the server would not see replaced; return warnings.

    In a directory that it cannot pass, it is shown the file that is there at its start. Raises
    JobError (CONFIG_INVALID).
    """
    for key, path in (("policy", config.policy), ("tls.crl", config.tls.crl)):
        if path is not None and (closed := closed_directory(str(path), account)):
            raise JobError(
                Reason.CONFIG_INVALID,
                f"cannot use {path} for the key {key}: the server's user cannot pass {closed}, and "
                "would not see when it is replaced",
                f"run: chmod o+x {shlex.quote(closed)}; or put it beside jobd.toml",
            )
    tls = (config.tls.key, config.tls.cert, config.tls.ca)
    return [
        f"{path}: the server's user cannot pass {closed}; restart jobd when the file is replaced"
        for path in tls
        if (closed := closed_directory(str(path), account))
    ]


def make_audit_directory(config: Config, account: Account) -> None:
    """Make the directory of the audit for the server where it lies elsewhere and is not there yet.

    One that is there is not given away: it may be more than the audit's. Raises JobError.
    """
    directory = config.audit.path.parent
    if directory.is_relative_to(config.state_dir) or os.path.lexists(directory):
        return
    try:
        make_directory(str(directory), account)
    except OSError as error:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot make the audit's directory {directory}: {(error.strerror or '').lower()}",
            "make it, or name another `path` in [audit]",
        ) from error


def _derived(config: Config) -> Account:
    uid = server_uid_of(config.state_dir)
    try:
        taken = pwd.getpwuid(uid)
    except KeyError:
        return Account(uid, uid)
    raise _unusable(config, f"{uid} is the account {taken.pw_name}", "name an account with `user`")


def _named(config: Config, name: str) -> Account:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise _unusable(
            config, f"there is no account {name!r}", f"make it (useradd --system {name})"
        ) from None
    return Account(found.pw_uid, found.pw_gid)


def _unusable(config: Config, cause: str, remedy: str) -> JobError:
    return JobError(
        Reason.CONFIG_INVALID, f"cannot run the server of {config.path} as `user`: {cause}", remedy
    )
