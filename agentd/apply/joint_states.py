"""The states of a handler that applies them together: what there is, and what it still waits for."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.config.load import ConfiguredHandler, OnEvent
from agentd.context import Watched
from agentd.journal.journal import Journal


class JointStates:
    """The states in one handler's `on`.

    Args:
        configured: the handler.
        journal: where its states are; None for a node that has none yet.
    """

    def __init__(self, configured: ConfiguredHandler, journal: Journal | None) -> None:
        self._name = configured.name
        self._items = [
            (on.model_dump(), str(on.query())) for on in configured.entry.on if not isinstance(on, OnEvent)
        ]
        self._journal = journal
        self._waits = configured.type.joint

    def __call__(self) -> Sequence[Watched]:
        """See `Context.states`.

        Raises:
            JournalError: the journal cannot be read.
        """
        look = self._journal.newest_state if self._journal else lambda _handler, _query: None
        return [Watched(on, query, *(look(self._name, query) or ())) for on, query in self._items]

    def missing(self) -> Sequence[str]:
        """The queries without a state, for which all others wait; none once each has had one.

        Raises:
            JournalError: the journal cannot be read.
        """
        journal = self._journal
        if not self._waits or journal is None:
            return ()
        missing = [query for _, query in self._items if not journal.has_state(self._name, query)]
        self._waits = bool(missing)
        return missing
