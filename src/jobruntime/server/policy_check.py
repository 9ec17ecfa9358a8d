"""`jobd policy check`: say whether a policy can be used, and what it allows."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from jobruntime.model.policy import Policy

from .config import read_config
from .errors_out import run_reporting
from .policy_accounts import MissingAccount, missing_accounts
from .policy_file import read_policy, read_policy_of
from .policy_text import format_policy
from .programs import open_to_others, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and flags of `jobd policy`."""
    commands = parser.add_subparsers(dest="policy_command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="check a policy file, and print what each role may do",
        description="Check a policy as `jobd serve` and a SIGHUP read it, and print what each role "
        "may do. With --config also whether there are the accounts that it names, on this host and "
        "in [jobs] of jobd.toml. Warnings go to stderr. Exit code 1 where it cannot be used, or a "
        "role can start nothing because its `user` is missing.",
        epilog="examples:\n  jobd policy check --config ~/jobs/jobd.toml\n"
        "  jobd policy check new-policy.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = check.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=Path, metavar="FILE", help="the instance's jobd.toml")
    which.add_argument("policy", nargs="?", type=Path, metavar="POLICY", help="a policy file")


def run(args: argparse.Namespace) -> int:
    """Check the policy, print what it allows, and return the exit code."""
    return run_reporting(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    missing: list[MissingAccount] = []
    if args.config is not None:
        config = read_config(args.config)
        policy = read_policy_of(config)
        missing = list(missing_accounts(policy, config.users.accounts))
    else:
        policy = read_policy(args.policy.absolute())
    for warning in weak_commands(policy):
        print(f"jobd: warning: {warning}", file=sys.stderr)
    for one in missing:
        level = "" if one.is_forced else "warning: "
        print(f"jobd: {level}{one.cause}; {one.remedy}", file=sys.stderr)
    sys.stdout.write(format_policy(policy))
    return int(any(one.is_forced for one in missing))


def weak_commands(policy: Policy) -> Iterator[str]:
    """Yield which of the allowed commands are absent, or others can change."""
    for rules in policy.roles:
        for entry in rules.commands or ():
            where = f"role {rules.name}'s commands: {entry}"
            if resolve(entry, for_others=False) is None:
                yield f"{where} does not exist on this host"
            elif os.path.isdir(entry) and not entry.endswith("/"):
                yield f"{where} is a directory and allows nothing; with a `/` at its end all below"
            for path in open_to_others(entry):
                yield f"{where} can be changed through {path}; make it root's, and go-w"
