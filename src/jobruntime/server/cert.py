"""`jobd cert issue`: make a certificate for one more user."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.model.policy import DEFAULT_POLICY, ROLE_NAMES, is_role_name
from jobruntime.server.errors_out import run_reporting

if TYPE_CHECKING:
    from jobruntime.server.pki import Pair

_DEFAULT_DAYS = 365


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and flags of `jobd cert`."""
    commands = parser.add_subparsers(dest="cert_command", required=True, metavar="COMMAND")
    issue = commands.add_parser(
        "issue",
        help="make a user's certificate",
        description="Make a certificate and a key for one user, in DIR/pki/clients.",
        epilog="example: jobd cert issue alice --role user --dir ~/jobs",
    )
    issue.add_argument("name", metavar="NAME", help="the user's name (CN)")
    issue.add_argument(
        "--role",
        action="append",
        required=True,
        type=_role,
        metavar="ROLE",
        help="a role (O): admin, user, or one of the instance's policy file; may be repeated",
    )
    issue.add_argument(
        "--dir", required=True, type=Path, metavar="DIR", help="where the instance lives"
    )
    issue.add_argument(
        "--days",
        type=_days,
        default=_DEFAULT_DAYS,
        metavar="N",
        help="how long it is valid (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Make the certificate, print where it is, and return the exit code."""
    return run_reporting(lambda: _run(args))


def issue_certificate(directory: Path, name: str, roles: Sequence[str], *, days: int) -> Pair:
    """Make key and certificate of the user in `directory`/pki/clients and return where they are.

    Raises JobError, NAME_IN_USE where the user has a certificate: it is never overwritten.
    """
    from jobruntime.server import pki
    from jobruntime.server.identity import check_user_name

    check_user_name(name)
    pki_dir = directory.resolve() / "pki"
    pair = pki.pair_at(pki_dir / "clients", name)
    ca = pki.pair_at(pki_dir, "ca")
    with pki.reporting_os_errors(f"make a certificate for {name}"):
        _check_there(directory, ca)
        authority = pki.read_authority(ca)
        if os.path.lexists(pair.certificate):
            raise JobError(
                Reason.NAME_IN_USE,
                f"cannot make a certificate for {name}: {pair.certificate} exists",
                f"use it, or move it and {pair.key.name} away first; the old one stays valid "
                "until it ends",
            )
        pki.make_directory(pair.certificate.parent)
        pki.issue_client(authority, pair, name, roles, days=days)
    return pair


def check_roles(directory: Path, roles: Sequence[str]) -> None:
    """Refuse a role that the instance in `directory` does not know; raises JobError.

    Its policy file is read only where one is not of the built-in table.
    """
    strange = [role for role in roles if role not in DEFAULT_POLICY.known]
    config = directory / "jobd.toml"
    if not strange or not config.exists():
        known = DEFAULT_POLICY.known
    else:
        from jobruntime.server.policy_file import read_policy_of

        known = read_policy_of(config).known
    for role in strange:
        if role not in known:
            raise invalid(
                f"cannot make a certificate with the role {role}: the instance in {directory} "
                f"knows {', '.join(sorted(known))}",
                "name one of these, or define the role in its policy.toml first",
            )


def _role(text: str) -> str:
    if not is_role_name(text):
        raise argparse.ArgumentTypeError(f"{text!a} is no role; {ROLE_NAMES}")
    return text


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 36_500:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days from 1 to 36500")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    roles: list[str] = args.role
    check_roles(args.dir, roles)
    pair = issue_certificate(args.dir, args.name, roles, days=args.days)
    ca = pair.certificate.parent.parent / "ca.crt"
    quoted = shlex.quote
    print(
        f"Made a certificate for {args.name} ({', '.join(sorted(set(roles)))}), "
        f"valid for {args.days} days.\n"
        "Hand over these files; the key must stay the user's secret:\n"
        f"  export JOBC_CA={quoted(str(ca))}\n"
        f"  export JOBC_CERT={quoted(str(pair.certificate))}\n"
        f"  export JOBC_KEY={quoted(str(pair.key))}"
    )
    return 0


def _check_there(directory: Path, ca: Pair) -> None:
    if not ca.certificate.exists():
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot make a certificate: there is no instance in {directory}",
            f"make one with `jobd init --dir {shlex.quote(str(directory))}`",
        )
    if not ca.key.exists():
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot make a certificate: {ca.key} is not there",
            "let the CA that you brought sign one, see docs/certificates.md",
        )
