"""Resource limits as an operator writes them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from jobruntime.model.errors import JobError, Reason
from jobruntime.model.rlimits import RLIMIT_NAMES, check_rlimit, parse_rlimits
from jobruntime.server.config import parse_config


@pytest.mark.parametrize(
    ("value", "pair"),
    [
        (4096, (4096, 4096)),
        ([1024, 4096], (1024, 4096)),
        ("unlimited", (-1, -1)),
        ([0, "unlimited"], (0, -1)),
        ([0, "max"], (0, -1)),
    ],
)
def test_a_limit_is_one_number_or_two(value: object, pair: tuple[int, int]) -> None:
    assert parse_rlimits({"nofile": value}) == {"nofile": pair}


def test_bytes_can_be_written_as_a_size_and_numbers_of_things_cannot() -> None:
    assert parse_rlimits({"fsize": "1G", "core": ["0", "1M"]}) == {
        "fsize": (1 << 30, 1 << 30),
        "core": (0, 1 << 20),
    }
    with pytest.raises(JobError):
        parse_rlimits({"nofile": "1K"})


@pytest.mark.parametrize(
    "raw",
    [
        {"files": 1},
        {"nofile": -1},
        {"nofile": [2, 1]},
        {"nofile": ["unlimited", 1]},
        {"nofile": [1, 2, 3]},
        {"nofile": []},
        {"nofile": 1.5},
        {"nofile": True},
        {"nofile": 1 << 63},
        {"nofile": {"soft": 1}},
    ],
)
def test_what_is_no_limit_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(JobError) as caught:
        parse_rlimits(raw)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert caught.value.message.startswith("cannot use the resource limit")
    assert caught.value.remedy


def test_every_name_is_one_that_this_kernel_has() -> None:
    for name in RLIMIT_NAMES:
        assert hasattr(resource, f"RLIMIT_{name.upper()}")
        check_rlimit(name, 0, -1)


def test_a_configuration_names_accounts_and_limits() -> None:
    text = b'[jobs]\naccounts = ["build"]\n[jobs.rlimits]\nnproc = 512\n'
    users = parse_config(text, Path("/srv/jobd.toml")).users
    assert users.accounts == ("build",)
    assert users.rlimits == {"core": (0, 0), "nproc": (512, 512)}
    assert parse_config(b"", Path("/srv/jobd.toml")).users.rlimits == {"core": (0, 0)}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[jobs]\naccounts = "build"', "jobs.accounts"),
        ("[jobs]\naccounts = [1]", "jobs.accounts"),
        ("[jobs.rlimits]\nfiles = 1", "jobs.rlimits.files"),
        ('[jobs.rlimits]\nnofile = "many"', "jobs.rlimits.nofile"),
        ("[jobs]\nrlimits = 1", "jobs.rlimits"),
    ],
)
def test_a_wrong_key_is_named(text: str, key: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_config(text.encode(), Path("/srv/jobd.toml"))
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert f"the key {key} in /srv/jobd.toml" in caught.value.message
