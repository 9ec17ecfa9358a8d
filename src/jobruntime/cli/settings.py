"""Where the server is and who the caller is: flags, then the environment, then the user's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .failure import Exit, Failure

KEYS: Final = ("addr", "ca", "cert", "key")
DEFAULT_CONNECT_TIMEOUT_MS: Final = 5_000

_WHAT = {
    "addr": "the server's address",
    "ca": "the CA certificate",
    "cert": "the client certificate",
    "key": "the client key",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """A server's address as HOST:PORT, and the paths of three PEM files."""

    addr: str
    ca: Path
    cert: Path
    key: Path
    connect_timeout_ms: int = DEFAULT_CONNECT_TIMEOUT_MS

    def host_and_port(self) -> tuple[str, int]:
        """Return the address in its two parts, without the brackets of an IPv6 address."""
        host, _, port = self.addr.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


def resolve_settings(
    flags: Mapping[str, str], environment: Mapping[str, str], connect_timeout_ms: int
) -> Settings:
    """Return the settings, each from the first place that has it; an empty value is not there.

    The file is read only if something is still missing. Raises Failure.
    """
    found = {key: flags.get(key) or environment.get(f"JOBC_{key.upper()}") or "" for key in KEYS}
    path = config_path(environment)
    if not all(found.values()):
        from_file = read_config(path)
        found = {key: found[key] or from_file.get(key, "") for key in KEYS}
    for key, value in found.items():
        if not value:
            raise Failure(
                Exit.OWN_FAILURE,
                f"cannot connect: {_WHAT[key]} is not known",
                f'give --{key}, set JOBC_{key.upper()}, or write {key} = "..." into {path}',
            )
    check_address(found["addr"])
    ca, cert, private_key = (Path(found[name]) for name in ("ca", "cert", "key"))
    return Settings(found["addr"], ca, cert, private_key, connect_timeout_ms)


def config_path(environment: Mapping[str, str]) -> Path:
    """Return where the user's file is, there or not (XDG Base Directory Specification)."""
    base = environment.get("XDG_CONFIG_HOME", "")
    # "If an implementation encounters a relative path [...] it should [...] ignore it."
    if base.startswith("/"):
        return Path(base, "jobc", "config.toml")
    return Path(environment.get("HOME") or os.path.expanduser("~"), ".config/jobc/config.toml")


def read_config(path: Path) -> dict[str, str]:
    """Return what the file at `path` sets, its relative paths made absolute; {} without a file.

    Raises Failure for a file that cannot be read or that says what jobc does not know.
    """
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _bad_config(path, error.strerror or str(error)) from error
    return parse_config(text, path)


def parse_config(text: bytes, path: Path) -> dict[str, str]:
    """Return what the content `text` of the file at `path` sets; raises Failure."""
    import tomllib

    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad_config(path, str(error)) from error
    settings = {}
    for key, value in values.items():
        if key not in KEYS:
            raise _bad_config(path, f"it has the key {key!r}, and jobc knows {', '.join(KEYS)}")
        if not isinstance(value, str):
            raise _bad_config(path, f"{key} is not a string")
        settings[key] = value if key == "addr" or not value else str(path.parent / value)
    return settings


def check_address(addr: str) -> None:
    """Refuse what is not HOST:PORT, where an IPv6 address has brackets; raises Failure."""
    host, _, port = addr.rpartition(":")
    is_v6 = host.startswith("[") and host.endswith("]") and len(host) > 2
    good_host = host and not set(host) & set("/ \t\n,%") and (is_v6 or not set(host) & set("[]:"))
    if not good_host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise Failure(
            Exit.OWN_FAILURE,
            f"cannot connect to {addr!r}: this is no address",
            "write HOST:PORT, with an IPv6 address in brackets: [::1]:8443",
        )


def _bad_config(path: Path, cause: str) -> Failure:
    return Failure(
        Exit.OWN_FAILURE, f"cannot use the settings in {path}: {cause}", "correct or remove it"
    )
