"""`jobd serve` as root: what is privileged of it, and as little as that.

What loads here is the standard library only; the server, with gRPC, is another process and user.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from jobruntime.model.errors import JobError, Reason
from jobruntime.worker.instance import Instance, open_instance
from jobruntime.worker.monitor import Monitor, Program
from jobruntime.worker.operator_limits import disks_of, resolve_settings
from jobruntime.worker.ownership import take_state_over
from jobruntime.worker.settings import Account
from jobruntime.worker.tree import limit_all_jobs

from .account import check_live_files, give_server_files, make_audit_directory, server_account
from .config import Config, parse_config, read_config
from .policy_disks import disks_of_policy
from .signing import start_signer
from .worker_settings import settings_of

SERVE: Final = "serve"
END_JOBS: Final = "end jobs"
_SERVER: Final = "jobruntime.server.child"
_logger = logging.getLogger("jobd")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; return the exit code. Raises JobError."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a server to hand it on to
    configure_logging()
    return run_server(read_config(args.config), SERVE)


def configure_logging() -> None:
    """Log to stderr, one line each."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )


def run_server(config: Config, purpose: str) -> int:
    """Run the server of the instance without privileges, for SERVE or END_JOBS.

    Returns its exit code; raises JobError.
    """
    os.umask(0o022)  # what is made here is to be passed by others; the rest has its own mode
    account = server_account(config)
    settings = resolve_settings(replace(settings_of(config), server=account))
    take_state_over(settings, account)
    make_audit_directory(config, account)
    instance = open_instance(settings)
    try:
        limit_all_jobs(instance.tree, settings.all_limits)
        notes = give_server_files(config, account)
        if purpose == SERVE:
            notes += check_live_files(config, account)
        monitor = Monitor(
            instance,
            account,
            handlers={"renew": partial(start_signer, config.path)},
            on_hangup=lambda: _give_again(config, account),
        )
        disks = disks_of(settings) | disks_of_policy(config)
        words = {"purpose": purpose, "notes": "\n".join(notes), "disks": json.dumps(disks)}
        return monitor.run(_program(config, instance, words))
    finally:
        instance.close()


def _give_again(config: Config, account: Account) -> None:
    # A new key is root's when it comes.
    for change in give_server_files(config, account):
        _logger.info("%s", change)


def _program(config: Config, instance: Instance, words: dict[str, str]) -> Program:
    tls = (config.tls.ca, config.tls.cert, config.tls.key, config.tls.crl, config.policy)
    needed = [] if words["purpose"] == END_JOBS else [str(path) for path in tls if path]
    code = [sys.prefix, sys.base_prefix, str(Path(__file__).parent), os.__file__]
    code += [path for path in sys.path if os.path.isdir(path)]
    own_audit = not config.audit.path.is_relative_to(config.state_dir)
    audit = [f"{config.audit.path.parent}/x"] if own_audit else []
    return Program(
        # As a module, so that it finds all that this process would; not in any working directory.
        command=[sys.executable, "-P", "-s", "-m", _SERVER],
        files=[sys.executable, __file__, os.__file__, *needed],
        places=[*code, instance.state_dir, instance.runtime_dir, f"{config.path.parent}/x", *audit],
        words=words | {"path": str(config.path), "config": _text_of(config)},
    )


def _text_of(config: Config) -> str:
    # The server may not be able to read the file, and is told what its monitor has read.
    data = config.path.read_bytes()
    if parse_config(data, config.path) != config:
        raise JobError(
            Reason.CONFIG_INVALID, f"cannot use {config.path}: it has just been changed", "repeat"
        )
    return data.decode()
