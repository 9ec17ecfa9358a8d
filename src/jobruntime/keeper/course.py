"""A job's course as its keeper knows it: kept in a file, and told to whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..linux.files import acting_as, replace_json
from ..model.limits import Limits
from ..model.protocol import STATUS_FILE
from ..model.record import Progress, encode_progress
from ..model.state import Event, State, next_state
from .peers import Peers


class Course:
    """The progress of one job."""

    def __init__(
        self, directory: int, server_uid: int, peers: Peers, complain: Callable[[str], None]
    ) -> None:
        """Take the job's directory, where `server_uid` keeps the file."""
        self._directory = directory
        self._server_uid = server_uid
        self._peers = peers
        self._complain = complain
        self._started_at_ns = 0
        self._limits: Limits | None = None
        self._progress: Progress | None = None

    def begin(self, started_at_ns: int, limits: Limits | None) -> None:
        """Take what is known at the start; the record is made when somebody needs it."""
        self._started_at_ns, self._limits = started_at_ns, limits

    @property
    def progress(self) -> Progress:
        """What is known now."""
        if self._progress is None:
            self._progress = Progress(
                State.RUNNING, started_at_ns=self._started_at_ns, limits=self._limits
            )
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def record(self) -> dict[str, object]:
        """The progress in the form of files and messages."""
        return encode_progress(self.progress)

    def move(self, event: Event) -> None:
        """Go to the state that follows `event`, and keep it."""
        self.progress = replace(self.progress, state=next_state(self.progress.state, event))
        self.keep()

    def keep(self) -> None:
        """Write the file, which is read where this keeper has died."""
        try:
            with acting_as(self._server_uid):
                replace_json(STATUS_FILE, self.record, self._directory, sync=False)
        except OSError as error:  # a full disk must not end the job; jobd is told over the socket
            self._complain(f"its status: {error}")

    def tell(self, word: str) -> None:
        """Send it to all who are connected."""
        self._peers.publish({word: self.record})
