"""`jobd cert`: the certificates of an instance's own CA, from their issue to their revocation."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shlex
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from jobruntime.model.durations import parse_duration_ms
from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.model.policy import DEFAULT_POLICY, ROLE_NAMES, is_role_name
from jobruntime.server.errors_out import run_reporting

if TYPE_CHECKING:
    from jobruntime.server.pki import Pair

_DEFAULT_DAYS = 365


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and flags of `jobd cert`."""
    commands = parser.add_subparsers(dest="cert_command", required=True, metavar="COMMAND")
    _add_issue(commands)
    _add_list(commands)
    _add_renew(commands)
    _add_revoke(commands)
    _add_rollover(commands)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand, print what it has done, and return the exit code."""
    if args.cert_command == "issue":
        return run_reporting(lambda: _issue(args))
    command = import_module(f"jobruntime.server.cert_{args.cert_command}")
    return run_reporting(lambda: int(command.run(args)))


def issue_certificate(
    directory: Path, name: str, roles: Sequence[str], *, valid: dt.timedelta
) -> Pair:
    """Make key and certificate of the user in `directory`/pki/clients and return where they are.

    Raises JobError, NAME_IN_USE where the user has a certificate: it is never overwritten.
    """
    from jobruntime.server import pki
    from jobruntime.server.authorities import premises_at, read_signing_authority, recorder
    from jobruntime.server.identity import check_user_name
    from jobruntime.server.issued import changing

    check_user_name(name)
    premises = premises_at(directory)
    pair = pki.pair_at(premises.pki_dir / "clients", name)
    with pki.reporting_os_errors(f"make a certificate for {name}"):
        if os.path.lexists(pair.certificate):
            raise JobError(
                Reason.NAME_IN_USE,
                f"cannot make a certificate for {name}: {pair.certificate} exists",
                f"use it, or `jobd cert renew {shlex.quote(name)}`; for other roles move it and "
                f"{pair.key.name} away first, and revoke it",
            )
        pki.make_directory(pair.certificate.parent)
        with changing(premises.pki_dir):
            authority = read_signing_authority(premises)
            record = recorder(premises.pki_dir, authority, "issue")
            pki.issue_client(authority, pair, name, roles, valid=valid, record=record)
    return pair


def add_validity(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the flags that say how long a certificate is valid; `valid` is None without them."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--valid",
        type=_duration,
        metavar="DURATION",
        help=f"how long it is valid, such as 12h or 30d (default: {default})",
    )
    group.add_argument("--days", dest="valid", type=_days, metavar="N", help="the same in days")


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the instance."""
    parser.add_argument(
        "--dir", required=True, type=Path, metavar="DIR", help="where the instance lives"
    )


def format_valid(valid: dt.timedelta) -> str:
    """Return a validity as text."""
    return f"{valid.days} days" if valid.days and not valid.seconds else str(valid)


def _add_issue(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    issue = commands.add_parser(
        "issue",
        help="make a user's certificate",
        description="Make a certificate and a key for one user, in DIR/pki/clients.",
        epilog="examples: jobd cert issue alice --role user --dir ~/jobs; "
        "jobd cert issue ci --role user --valid 12h --dir ~/jobs",
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
    add_directory(issue)
    add_validity(issue, f"{_DEFAULT_DAYS} days")


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = commands.add_parser(
        "list",
        help="tell which certificates there are",
        description="Tell which certificates the instance's CA has made, renewals by `jobc renew` "
        "too, and which of them are valid, expired or revoked.",
    )
    add_directory(listing)
    listing.add_argument(
        "-o", "--output", choices=["text", "json"], default="text", help="the form"
    )


def _add_renew(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    renew = commands.add_parser(
        "renew",
        help="make the next certificate of a user or of the server",
        description="Make a new key and a new certificate with the same name and roles (or the "
        "server's same host names), in the place of the old ones. jobd takes its own up without a "
        "restart. The old certificate stays valid until it ends or is revoked.",
        epilog="examples: jobd cert renew alice --dir ~/jobs; "
        "jobd cert renew server --san jobs.example.org --dir ~/jobs",
    )
    renew.add_argument("who", metavar="NAME|server", help="a user's name, or the server")
    renew.add_argument(
        "--user", action="store_true", help="there is a user named server, and it is he"
    )
    renew.add_argument(
        "--san",
        action="append",
        default=[],
        metavar="NAME",
        help="server: one more host name or IP address; may be repeated",
    )
    add_directory(renew)
    add_validity(renew, "as long as the old one was")


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


def _add_revoke(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    revoke = commands.add_parser(
        "revoke",
        help="lock a certificate out",
        description="Write a certificate's serial into the revocation list. A running jobd refuses "
        "it from the next call on, and ends its open streams.",
        epilog="examples: jobd cert revoke alice --all --dir ~/jobs; "
        "jobd cert revoke 6BC243FD --dir ~/jobs",
    )
    revoke.add_argument(
        "what",
        metavar="SERIAL|NAME",
        help="a serial in hex, or 8 or more of its first digits; or the name of a user",
    )
    revoke.add_argument(
        "--all", action="store_true", help="NAME: every valid certificate of the user"
    )
    revoke.add_argument(
        "--unrecorded",
        action="store_true",
        help="SERIAL: also one that the record of the present CA does not have",
    )
    add_directory(revoke)


def _add_rollover(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    rollover = commands.add_parser(
        "rollover",
        help="replace the CA, step by step",
        description="Replace the instance's CA while jobd serves. `start` makes a new CA, which "
        "signs from then on, and trusts both. Users renew (`jobc renew --update-ca`), then the "
        "server (`jobd cert renew server`). `finish` ends the trust in the old CA.",
    )
    rollover.add_argument("step", choices=["start", "finish"], help="what to do")
    rollover.add_argument(
        "--force", action="store_true", help="finish: also while the old CA's certificates are used"
    )
    add_directory(rollover)


def _days(text: str) -> dt.timedelta:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 36_500:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days from 1 to 36500")
    return dt.timedelta(days=int(text))


def _duration(text: str) -> dt.timedelta:
    try:
        # Certificates count in seconds.
        return dt.timedelta(seconds=parse_duration_ms(text) // 1000)
    except JobError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _issue(args: argparse.Namespace) -> int:
    roles: list[str] = args.role
    check_roles(args.dir, roles)
    valid = args.valid or dt.timedelta(days=_DEFAULT_DAYS)
    pair = issue_certificate(args.dir, args.name, roles, valid=valid)
    ca = pair.certificate.parent.parent / "ca.crt"
    quoted = shlex.quote
    print(
        f"Made a certificate for {args.name} ({', '.join(sorted(set(roles)))}), "
        f"valid for {format_valid(valid)}.\n"
        "Hand over these files; the key must stay the user's secret:\n"
        f"  export JOBC_CA={quoted(str(ca))}\n"
        f"  export JOBC_CERT={quoted(str(pair.certificate))}\n"
        f"  export JOBC_KEY={quoted(str(pair.key))}"
    )
    return 0
