"""What the worker is told of an instance's configuration."""

from __future__ import annotations

import os

from jobruntime.worker import Settings

from .config import Config


def settings_of(config: Config) -> Settings:
    """Return what the worker is told of `config`."""
    return Settings(
        state_dir=str(config.state_dir),
        runtime_dir=None if config.runtime_dir is None else str(config.runtime_dir),
        work_dir=str(config.work_dir),
        cgroup_root=str(config.cgroup_root),
        uid_first=config.uid_first if os.geteuid() == 0 else None,
        uid_count=config.uid_count,
        default_limits=config.default_limits,
        ceiling=config.ceiling,
        all_limits=config.all_limits,
        default_log=config.logs.default,
        log_ceiling_bytes=config.logs.ceiling_bytes,
        log_reserve_bytes=config.logs.reserve_bytes,
        log_reserve_percent=config.logs.reserve_percent,
        retention=config.retention,
    )
