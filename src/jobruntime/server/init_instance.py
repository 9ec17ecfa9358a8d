"""`jobd init`: make an instance with its CA, its certificates and its configuration."""

from __future__ import annotations

import argparse
import ipaddress
import os
import pwd
import shlex
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobruntime.model.access import Role
from jobruntime.model.errors import JobError, Reason, invalid
from jobruntime.server.config import (
    DEFAULT_LISTEN,
    Address,
    instance_tag,
    parse_address,
    toml_string,
)
from jobruntime.server.config_text import config_text
from jobruntime.server.errors_out import run_reporting
from jobruntime.server.policy_text import POLICY_TEXT

# `cryptography` costs 70 ms, so what needs it is imported late: `jobd --help` does without.
if TYPE_CHECKING:
    from jobruntime.server.pki import Authority, Pair

CONFIG_NAME: Final = "jobd.toml"
POLICY_NAME: Final = "policy.toml"
_OUTSIDE_WORK: Final = Path("/var/lib/jobd")


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What the instance shall be; `admin` is the user name of the first certificate."""

    directory: Path
    listen: Address
    admin: str
    sans: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InitResult:
    """What was made, as absolute paths. `work_outside`: jobs could not reach `directory`."""

    directory: Path
    config: Path
    ca: Path
    admin: str
    admin_certificate: Path
    admin_key: Path
    server_names: tuple[str, ...]
    client_address: Address
    work_dir: Path
    work_outside: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `jobd init`."""
    parser.add_argument(
        "--dir", required=True, type=Path, metavar="DIR", help="where the instance will live"
    )
    parser.add_argument(
        "--listen",
        type=_address,
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help="where the server will listen (default: %(default)s); 0.0.0.0:7443 for other hosts, "
        "with --san",
    )
    parser.add_argument(
        "--san",
        action="append",
        default=[],
        metavar="NAME",
        help="one more host name or IP address for the server's certificate; may be repeated",
    )
    parser.add_argument(
        "--admin", metavar="NAME", help="the first administrator (default: your login name)"
    )
    parser.add_argument(
        "--write-client-config",
        action="store_true",
        help="write ~/.config/jobc/config.toml without asking",
    )


def run(args: argparse.Namespace) -> int:
    """Make the instance, print what to do next, and return the exit code."""
    return run_reporting(lambda: _run(args))


def init_instance(options: InitOptions) -> InitResult:
    """Make the instance in `options.directory`, or complete one that was interrupted.

    Nothing that exists is written again; the configuration comes last and marks a whole instance.
    Raises JobError where there is one already, or what is there does not fit.
    """
    from jobruntime.server.identity import check_user_name
    from jobruntime.server.pki import reporting_os_errors, subject_names, write_new

    check_user_name(options.admin)
    names = _server_names(options)
    subject_names(names)
    directory = options.directory.resolve()
    config = directory / CONFIG_NAME
    if os.path.lexists(config):
        raise JobError(
            Reason.INSTANCE_IN_USE,
            f"cannot make an instance in {directory}: there is one already",
            f"start it with `{_serve_command(config)}`, or name another directory",
        )
    with reporting_os_errors(f"make an instance in {directory}"):
        work_dir = _make_directories(directory)
        admin = _make_certificates(options, directory / "pki", names)
    work_outside = work_dir.parent != directory
    text = config_text(options.listen, directory, work_dir if work_outside else Path("work"))
    policy = directory / POLICY_NAME
    if not os.path.lexists(policy):  # an interrupted run has left it
        write_new(policy, POLICY_TEXT.encode(), 0o644)
    write_new(config, text.encode(), 0o644)
    return InitResult(
        directory=directory,
        config=config,
        ca=directory / "pki/ca.crt",
        admin=options.admin,
        admin_certificate=admin.certificate,
        admin_key=admin.key,
        server_names=names,
        client_address=_client_address(options.listen),
        work_dir=work_dir,
        work_outside=work_outside,
    )


def format_next_steps(result: InitResult) -> str:
    """Return what the operator is told: what was made, and the commands that come next."""
    quoted = shlex.quote
    lines = [
        f"Made an instance in {result.directory}.",
        f"  server certificate for  {', '.join(result.server_names)}",
        f"  administrator           {result.admin}",
        f"  jobs' directories in    {result.work_dir}",
    ]
    if result.work_outside:
        lines += [
            "    (not inside: jobs run as users of their own, who cannot pass through the",
            f"    directories above {result.directory}; work_dir in {CONFIG_NAME} changes it)",
        ]
    lines += ["", "Start the server:", f"  {_serve_command(result.config)}", "", "Use it:"]
    if result.client_address.port == 0:
        lines.append("  # port 0 is any free port: take the address that `jobd serve` prints")
    lines += [
        f"  export JOBC_ADDR={quoted(str(result.client_address))}",
        f"  export JOBC_CA={quoted(str(result.ca))}",
        f"  export JOBC_CERT={quoted(str(result.admin_certificate))}",
        f"  export JOBC_KEY={quoted(str(result.admin_key))}",
        "  jobc start echo hello",
        "",
        "Let somebody else in:",
        f"  jobd cert issue NAME --role user --dir {quoted(str(result.directory))}",
    ]
    return "\n".join(lines) + "\n"


def client_config_path() -> Path:
    """Return where jobc looks for its configuration (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".config"
    return home / "jobc/config.toml"


def client_config_text(result: InitResult) -> str:
    """Return a configuration with which jobc talks to the instance as its administrator."""
    values = {
        "addr": str(result.client_address),
        "ca": str(result.ca),
        "cert": str(result.admin_certificate),
        "key": str(result.admin_key),
    }
    return "".join(f"{key} = {toml_string(value)}\n" for key, value in values.items())


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except JobError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run(args: argparse.Namespace) -> int:
    path = client_config_path()
    interactive = sys.stdin is not None and sys.stdin.isatty()
    if args.write_client_config and os.path.lexists(path) and not interactive:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot write {path}: it exists",
            "leave out --write-client-config, or move the file away",
        )
    if args.write_client_config and args.listen.port == 0:
        raise invalid(
            "cannot write a client's configuration for port 0", "name a port with --listen"
        )
    options = InitOptions(args.dir, args.listen, args.admin or login_name(), tuple(args.san))
    result = init_instance(options)
    sys.stdout.write(format_next_steps(result))
    sys.stdout.flush()
    _offer_client_config(path, result, wanted=args.write_client_config, interactive=interactive)
    return 0


def _offer_client_config(
    path: Path, result: InitResult, *, wanted: bool, interactive: bool
) -> None:
    exists = os.path.lexists(path)
    if not wanted or exists:
        question = f"Replace {path}, which exists" if exists else f"Write {path} for this server"
        if not interactive or result.client_address.port == 0 or not _is_confirmed(question):
            return
    _write_client_config(path, client_config_text(result))
    print(f"\nWrote {path}: jobc needs no variables now.")


def _is_confirmed(question: str) -> bool:
    """Ask on the terminal; stdout may be a pipe. Nothing but a yes is one."""
    print(f"{question}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _write_client_config(path: Path, text: str) -> None:
    from jobruntime.server.pki import reporting_os_errors, write_new

    with reporting_os_errors(f"write {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever said yes to a replacement may still want the old one.
        if os.path.lexists(path):
            path.replace(path.with_name(f"{path.name}.old"))
        write_new(path, text.encode("utf-8"), 0o600)


def login_name() -> str:
    """Return the name of the user who called, also behind sudo; `admin` where there is none."""
    if os.geteuid() == 0 and (behind_sudo := os.environ.get("SUDO_USER")):
        return behind_sudo
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "admin"


def _serve_command(config: Path) -> str:
    return f"jobd serve --config {shlex.quote(str(config))}"


def _server_names(options: InitOptions) -> tuple[str, ...]:
    """Return the names that clients on this host and, where it listens there, on others use."""
    from jobruntime.server.pki import is_dns_name

    names = ["localhost", "127.0.0.1", "::1"]
    host_name = socket.gethostname()
    if is_dns_name(host_name):
        names.append(host_name)
    if not _is_wildcard(options.listen.host):
        names.append(options.listen.host)
    return tuple(dict.fromkeys([*names, *options.sans]))


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _client_address(listen: Address) -> Address:
    """Return how a client on this host reaches the server."""
    if not _is_wildcard(listen.host):
        return listen
    return Address("::1" if ":" in listen.host else "127.0.0.1", listen.port)


def _make_directories(directory: Path) -> Path:
    """Make the directories of the instance and return where its jobs' directories will be."""
    from jobruntime.server.pki import PRIVATE_DIRECTORY, make_directory

    try:
        str(directory).encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"cannot make an instance in {directory!a}: the path is not UTF-8"
        raise invalid(message, "name another one") from error
    directory.parent.mkdir(parents=True, exist_ok=True)
    is_root, reachable = os.geteuid() == 0, all(map(_is_traversable, directory.parents))
    mode = 0o711 if is_root and reachable else PRIVATE_DIRECTORY
    make_directory(directory, mode, forbidden=0o022)
    make_directory(directory / "pki", forbidden=0o027)  # root lets the server's group look into it
    make_directory(directory / "pki/clients")
    # As root each owner's jobs run under a uid of their own and must get to their directory.
    if not is_root or (reachable and _is_traversable(directory)):
        return directory / "work"
    return _OUTSIDE_WORK / f"work-{instance_tag(directory / 'state')}"


def _is_traversable(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXOTH)


def _make_certificates(options: InitOptions, pki_dir: Path, names: tuple[str, ...]) -> Pair:
    """Make what is missing, check what an interrupted run has left; return the admin's pair."""
    from jobruntime.server import pki
    from jobruntime.server.authorities import CRL_NAME, empty_list, recorder

    ca, server = pki.pair_at(pki_dir, "ca"), pki.pair_at(pki_dir, "server")
    if os.path.lexists(ca.certificate):
        authority = pki.read_authority(ca)
    else:
        authority = pki.make_authority(ca)
    record = recorder(pki_dir, authority, "init")
    if not os.path.lexists(crl := pki_dir / CRL_NAME):
        pki.write_new(crl, empty_list(authority), 0o644)
    if os.path.lexists(server.certificate):
        _check_server(authority, server, names)
    else:
        pki.issue_server(authority, server, names, record=record)
    admin = pki.pair_at(pki_dir / "clients", options.admin)
    if os.path.lexists(admin.certificate):
        _check_admin(authority, admin, options.admin)
    else:
        pki.issue_client(authority, admin, options.admin, [Role.ADMIN], record=record)
    return admin


def _check_server(authority: Authority, pair: Pair, names: tuple[str, ...]) -> None:
    from cryptography import x509

    from jobruntime.server import pki

    certificate, _ = pki.read_pair(pair)
    pki.check_issued_by(authority, pair.certificate, certificate)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = x509.SubjectAlternativeName([])
    missing = [name for name in pki.subject_names(names) if name not in list(found)]
    if missing:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot go on with {pair.certificate}: it lacks the name {missing[0].value}",
            f"remove it and {pair.key}, and repeat",
        )


def _check_admin(authority: Authority, pair: Pair, name: str) -> None:
    from cryptography.x509.oid import NameOID

    from jobruntime.server import pki

    certificate, _ = pki.read_pair(pair)
    pki.check_issued_by(authority, pair.certificate, certificate)
    subject = certificate.subject
    roles = [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    names = [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [name] or Role.ADMIN not in roles:
        raise JobError(
            Reason.CONFIG_INVALID,
            f"cannot go on with {pair.certificate}: it is no administrator's named {name}",
            f"remove it and {pair.key}, or name another administrator with --admin",
        )
