"""What an empty answer makes a poller ask: may the token read this, and what does the leader say?"""

from __future__ import annotations

from collections.abc import Callable

from agentd.errors import ConsulRefused
from agentd.watch.query import Query, Snapshot, Source


class Inquiry:
    """The questions about one answer to `query`. `beat` is called before each."""

    def __init__(self, query: Query, source: Source, beat: Callable[[], None]) -> None:
        self._query = query
        self._source = source
        self._beat = beat

    def refusal(self) -> str | None:
        """Why Consul says that the token may not read what the query asks for, or None if it may.

        Raises:
            ConsulUnavailable: Consul cannot say now.
        """
        try:
            for resource, access, segment in self._query.needs:
                self._beat()
                if self._source.authorized(resource, access, segment) is False:
                    return f"the token has no right to {access} {resource} {segment!r}"
        except ConsulRefused as error:
            return str(error)
        return None

    def again(self) -> Snapshot:
        """The present state by the leader's word, at once.

        Raises:
            ConsulError: no answer, or one that says no.
        """
        self._beat()
        return self._query.fetch(self._source, fresh=True)
