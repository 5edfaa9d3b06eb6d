"""Watches the nodes of a fleet while a command waits for them, within a time limit.

Owns the limit, after which Consul is asked nothing more, and how often what is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, TypeVar

from agentd.errors import ConsulUnavailable

if TYPE_CHECKING:
    from agentd.fleet.census import Census
    from agentd.fleet.keys import Keys
    from agentd.fleet.members import Catalogue
    from agentd.fleet.standing import Member
    from agentd.watch.client import ConsulClient

PAUSE: Final = 0.25
"""Seconds between two readings."""
_AGAIN: Final = 1.0  # seconds until Consul is asked again if it did not answer
_MARGIN: Final = 1.0  # seconds, at most, that the last request gets for its answer
_LONGEST: Final = 5.0  # seconds after which the catalogue is read again, though no document changed
_JITTER: Final = 17 / 16  # by which Consul may exceed the time that a query waits
_SHORTEST: Final = 0.01  # seconds; with less Consul would wait as long as it pleases
_Answer = TypeVar("_Answer")


class FleetWatch:
    """The nodes of one fleet, read again and again; the time limit runs from now on.

    Args:
        client: a client for the fleet's home datacenter; the caller closes it. It asks nothing after the end.
        keys: the fleet's keys.
        timeout: seconds.

    Attributes:
        client: the client.
        census: reads the fleet.
        end: when the timeout is over, in monotonic seconds.
    """

    def __init__(self, client: ConsulClient, keys: Keys, timeout: float) -> None:
        from agentd.fleet.census import Census  # noqa: PLC0415 (parsing does without)

        self.client = client
        self.census: Census = Census(client, keys)
        self.restart(timeout)
        self._index = 0
        self._nodes: AbstractSet[str] = frozenset()  # those with a document
        self._catalogue: Catalogue | None = None
        self._mute: list[Member] = []  # nodes where agentd runs without acknowledging
        self._read = self._turned = 0.0  # when these two were read, and when anything was

    def restart(self, timeout: float) -> None:
        """Let the time limit run anew, for so many seconds."""
        self._timeout = timeout
        self.end: float = time.monotonic() + timeout
        self.client.end_by(self.end)

    def left(self) -> float:
        """Seconds until nothing more is asked, so that what was asked before has time for its answer."""
        left = self.end - min(_MARGIN, self._timeout / 10) - time.monotonic()
        return max(0.0, left)

    def rest(self) -> None:
        """Pause until it is worth reading again."""
        time.sleep(max(0.0, min(self.left(), PAUSE - (time.monotonic() - self._turned))))

    def members(self, longest: float = _LONGEST) -> list[Member]:
        """The nodes, once a document has changed, or a while has passed (at most `longest` seconds)."""
        self._turned = time.monotonic()
        wait = min(self.left() / _JITTER, longest)
        documents = self.census.documents(self._index if wait > _SHORTEST else 0, wait)
        is_old = time.monotonic() - self._read > _LONGEST or not self._nodes <= documents.indexes.keys()
        if self._catalogue is None or is_old:
            self._catalogue = self.census.catalogue(documents.datacenters)
            every = self.census.members(documents, self._catalogue)
            self._mute = [one for one in every if one.runs_as]
            self._read = time.monotonic()
        self._index, self._nodes = documents.index, documents.indexes.keys()
        members = self.census.members(documents, self._catalogue, frozenset())
        return [*members, *(one for one in self._mute if not documents.are_of(one))]

    def patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask Consul again while it does not answer, as during an election, and time is left.

        Raises:
            ConsulUnavailable: it never answered.
        """
        while True:
            try:
                return ask()
            except ConsulUnavailable:
                time.sleep(min(_AGAIN, self.left()))
                if self.left() <= 0:
                    raise
