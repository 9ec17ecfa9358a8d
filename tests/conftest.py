"""Instances: one shared by all tests that leave it as it was, and one of the test's own."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import Client, Instance, MakeInstance

__all__ = ["MakeInstance"]

# How long an example takes says more of the machine than of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell starts what it puts into the background with SIGINT ignored, and what tests start would
# inherit that: no Ctrl-C would reach it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running instance for tests that neither end nor slow its server."""
    with Instance(tmp_path_factory.mktemp("shared") / "instance") as instance:
        yield instance


@pytest.fixture(scope="session")
def alice(shared: Instance) -> Client:
    """A user of the shared instance."""
    return shared.issue("alice", "user")


@pytest.fixture(scope="session")
def bob(shared: Instance) -> Client:
    """Another user of the shared instance."""
    return shared.issue("bob", "user")


@pytest.fixture(params=["", "no-network"], ids=["bare", "isolated"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Have a test run over both: jobs as they are, and isolated ones."""
    return str(request.param)


@pytest.fixture
def make_instance(tmp_path: Path) -> Iterator[MakeInstance]:
    """Make instances of the test's own: `make_instance("name", edit=...)`."""
    with ExitStack() as stack:

        def make(name: str = "instance", **options: object) -> Instance:
            return stack.enter_context(Instance(tmp_path / name, **options))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    """A running instance of the test's own."""
    return make_instance()
