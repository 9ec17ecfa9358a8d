"""What the worker is told of an instance's configuration."""

from __future__ import annotations

import os
from typing import Final

from jobruntime.worker import Settings

from .config import Config

_SHARED: Final = ("/etc/ssl", "/etc/pki", "/usr", "/etc/ca-certificates")


def settings_of(config: Config) -> Settings:
    """Return what the worker is told of `config`."""
    return Settings(
        state_dir=str(config.state_dir),
        runtime_dir=None if config.runtime_dir is None else str(config.runtime_dir),
        work_dir=str(config.work_dir),
        cgroup_root=str(config.cgroup_root),
        uid_first=config.uid_first if os.geteuid() == 0 else None,
        uid_count=config.uid_count,
        accounts=config.users.accounts,
        rlimits=config.users.rlimits,
        default_limits=config.default_limits,
        ceiling=config.ceiling,
        all_limits=config.all_limits,
        default_log=config.logs.default,
        log_ceiling_bytes=config.logs.ceiling_bytes,
        log_reserve_bytes=config.logs.reserve_bytes,
        log_reserve_percent=config.logs.reserve_percent,
        retention=config.retention,
        hidden=hidden_of(config),
    )


def hidden_of(config: Config) -> tuple[str, ...]:
    """Return what isolated jobs shall not see of the configuration: directories, or single files.

    A directory that may be anybody's (/etc, or one of the system's certificates) stays in sight.
    """
    tls = config.tls
    found = set()
    for file in filter(None, (config.path, config.policy, tls.key, tls.cert, tls.ca, tls.crl)):
        directory = os.path.dirname(os.path.realpath(file))
        shared = directory.count("/") < 2 or directory.startswith(_SHARED)
        found.add(os.path.realpath(file) if shared else directory)
    if not config.audit.path.is_relative_to(config.state_dir):  # that is hidden as a whole
        found.add(os.path.realpath(config.audit.path.parent))
    return tuple(sorted(found))
