"""The states of a handler that applies them together: what there is, and what it still waits for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from agentd.config.load import ConfiguredHandler, OnEvent
from agentd.context import Watched
from agentd.journal.journal import Journal
from agentd.watch.changes import Change


class JointStates:
    """The states in one handler's `on`.

    Args:
        configured: the handler.
        journal: where its states are; None for a node that has none yet.
        given: states that a dry run has from elsewhere, and takes instead.
    """

    def __init__(
        self, configured: ConfiguredHandler, journal: Journal | None, given: Iterable[Change] = ()
    ) -> None:
        self._given = {one.query: one for one in given}
        self._name = configured.name
        states = [on for on in configured.entry.on if not isinstance(on, OnEvent)]
        self._items = {str(on.query()): on.model_dump() for on in states}
        self._journal = journal
        self._waits = configured.type.joint

    def __call__(self) -> Sequence[Watched]:
        """See `Context.states`.

        Raises:
            JournalError: the journal cannot be read.
        """
        return [Watched(on, query, *self._newest(query)) for query, on in self._items.items()]

    def _newest(self, query: str) -> tuple[int, str | None, int, int] | tuple[()]:
        if given := self._given.get(query):
            return 1, json.dumps(given.raw), given.index, given.epoch
        found = self._journal.newest_state(self._name, query) if self._journal else None
        return found or ()

    def missing(self) -> Sequence[str]:
        """The queries without a state, for which all others wait; none once each has had one.

        Raises:
            JournalError: the journal cannot be read.
        """
        journal = self._journal
        if not self._waits or journal is None:
            return ()
        missing = [query for query in self._items if not journal.has_state(self._name, query)]
        self._waits = bool(missing)
        return missing
