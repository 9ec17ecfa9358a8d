"""Where jobc takes the server and the certificates from."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobruntime.cli.failure import Exit, Failure
from jobruntime.cli.settings import check_address, config_path, parse_config, resolve_settings

ALL = {"addr": "h:1", "ca": "/ca", "cert": "/cert", "key": "/key"}


def write_config(home: Path, text: str) -> dict[str, str]:
    """Write the user's file and return an environment that finds it."""
    path = home / "jobc" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return {"XDG_CONFIG_HOME": str(home)}


def test_a_flag_comes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    environment = write_config(
        tmp_path, 'addr = "file:1"\nca = "file"\ncert = "file"\nkey = "/abs/file"\n'
    )
    environment |= {"JOBC_ADDR": "env:1", "JOBC_CA": "env"}
    settings = resolve_settings({"addr": "flag:1"}, environment, 7)
    assert settings.addr == "flag:1"
    assert settings.ca == Path("env")
    assert settings.cert == tmp_path / "jobc" / "file"
    assert settings.key == Path("/abs/file")
    assert settings.connect_timeout_ms == 7


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    environment = write_config(tmp_path, 'addr = "file:1"\n') | {"JOBC_ADDR": ""}
    settings = resolve_settings({key: ALL[key] for key in ("ca", "cert", "key")}, environment, 1)
    assert settings.addr == "file:1"


def test_the_file_is_not_read_when_nothing_is_missing(tmp_path: Path) -> None:
    environment = write_config(tmp_path, "this is no TOML")
    assert resolve_settings(ALL, environment, 1).addr == "h:1"


def test_what_is_missing_is_named_with_every_way_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        resolve_settings({"addr": "h:1"}, {"HOME": str(tmp_path)}, 1)
    assert caught.value.exit_code is Exit.OWN_FAILURE
    for way in ("--ca", "JOBC_CA", f"{tmp_path}/.config/jobc/config.toml"):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b'adr = "h:1"', "the key 'adr'"),
        (b"addr = 1", "addr is not a string"),
        (b"addr = ", "cannot use the settings"),
        (b"addr = '\xff'", "cannot use the settings"),
        (b"[addr]", "addr is not a string"),
    ],
)
def test_a_file_that_says_something_else_is_refused(text: bytes, cause: str) -> None:
    with pytest.raises(Failure, match=cause):
        parse_config(text, Path("/x/config.toml"))


def test_a_relative_xdg_directory_is_ignored() -> None:
    found = config_path({"XDG_CONFIG_HOME": "rel", "HOME": "/home/x"})
    assert found == Path("/home/x/.config/jobc/config.toml")


@pytest.mark.parametrize("addr", ["localhost:1", "10.0.0.1:65535", "[::1]:8443", "a-b.example:80"])
def test_an_address_is_host_and_port(addr: str) -> None:
    check_address(addr)


@pytest.mark.parametrize(
    "addr",
    [
        "",
        "localhost",
        "localhost:",
        ":1",
        "::1:1",
        "h:0",
        "h:65536",
        "h:x",
        "h:²",
        "unix:/x:1",
        "dns:///h:1",
        "[]:1",
        "a b:1",
    ],
)
def test_anything_else_is_no_address(addr: str) -> None:
    with pytest.raises(Failure, match="HOST:PORT"):
        check_address(addr)
