"""How far a job is kept apart from the host that it runs on."""

from __future__ import annotations

from enum import StrEnum, unique


@unique
class Isolation(StrEnum):
    """What a job sees of the host and of the network; each keeps away more than the one before."""

    NONE = "none"
    """The host as its user sees it."""
    HOST_NETWORK = "host-network"
    """A view of its own (docs/isolation.md), with the host's network."""
    LOOPBACK = "loopback"
    """The view, with a loopback interface that is the job's own."""
    NO_NETWORK = "no-network"
    """The view, without any interface that is up."""

    @property
    def strictness(self) -> int:
        """How much it keeps away, for comparisons only: 0 is nothing."""
        return list(Isolation).index(self)

    @property
    def has_own_network(self) -> bool:
        """Whether the job gets a network namespace of its own."""
        return self in (Isolation.LOOPBACK, Isolation.NO_NETWORK)
