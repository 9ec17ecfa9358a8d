"""What the tests of limits share: a disk, and one instance, because each costs a guest seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed import native
from tests.support import Api, Client, Instance


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this directory."""
    item.add_marker(pytest.mark.v2)


@pytest.fixture(scope="session", autouse=True)
def v2() -> None:
    """Refuse to run where the limits can't be."""
    lacking = native.missing()
    assert lacking is None, f"{lacking}; scripts/test.sh --v2 runs these tests in a guest"


@pytest.fixture(scope="session")
def disk(v2: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on a block device, whose I/O can be limited; everybody may write in it."""
    with native.disk(tmp_path_factory.mktemp("disk")) as place:
        yield place


@pytest.fixture(scope="session")
def shared(disk: Path) -> Iterator[Instance]:
    """The running instance of all these tests, with its jobs' directories on the disk."""
    with Instance(disk / "instance") as instance:
        yield instance


@pytest.fixture
def api(alice: Client) -> Iterator[Api]:
    """The calls of a user of that instance."""
    with alice.api() as api:
        api.refused(lambda: api.status("none"))  # connects, which takes descriptors
        yield api


@pytest.fixture
def jobs_group(shared: Instance) -> Path:
    """The cgroup above all jobs of that instance."""
    assert shared.cgroup_root is not None
    return shared.cgroup_root / "jobs"
