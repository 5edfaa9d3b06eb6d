"""What every query has in common: how it asks, how it prints itself, which rights it needs.

Nothing here judges whether an answer is news; that is the poller's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Protocol, TypeAlias
from urllib.parse import quote, urlencode

from agentd.errors import ConsulUnavailable
from agentd.watch.changes import Change, Json
from agentd.watch.client import Answer
from agentd.watch.transport import Parameters

Right: TypeAlias = tuple[str, str, str]
"""Resource, access, segment; "" as the segment means all of them."""


class Source(Protocol):
    """What a query asks; `ConsulClient` is one."""

    stale: bool

    def get(self, path: str, params: Parameters = (), index: int | None = None) -> Answer:
        """Read once, or block for an index newer than `index`."""

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """Whether the token has the right; None if there are no ACLs."""

    def close(self) -> None:
        """Close, from any thread."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One answer as changes.

    Attributes:
        changes: a state: exactly one; events: as many as there are.
        missed: events that came and went unseen; an estimate by Lamport time, which a restarted agent
            sets one ahead.
        gap: why they are missing, if they are.
    """

    query: str
    index: int
    changes: tuple[Change, ...]
    answer: Answer
    missed: int = 0
    gap: Literal["overflow", "restart"] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing: no key, no instance, no event."""
        return not any(change.raw for change in self.changes)


@dataclass(frozen=True)
class Query(ABC):
    """A question to Consul. Equal queries print alike and share one poller."""

    kind: ClassVar[type[Change]]
    #: The JSON type of an answer; a missing or null one is read as an empty one of it.
    shape: ClassVar[type] = list
    #: Whether the answer is a catalogue's, which any server may give.
    may_be_stale: ClassVar[bool] = True

    @property
    @abstractmethod
    def path(self) -> str:
        """The endpoint, unquoted."""

    @property
    def params(self) -> tuple[tuple[str, str], ...]:
        """The query string."""
        return ()

    @property
    @abstractmethod
    def needs(self) -> tuple[Right, ...]:
        """The ACL rights without which Consul answers with silence."""

    def __str__(self) -> str:
        """The kind, the first field (the name) if there is one, and those of the others that were chosen."""
        values = [(field, getattr(self, field.name)) for field in fields(self)]
        named = values[:1] if values and values[0][0].kw_only is False else []
        name = "".join(f":{quote(value, safe='/:')}" for _, value in named)
        chosen = {field.name: _text(value) for field, value in values[len(named) :] if value != field.default}
        return self.kind.kind + name + (f"?{urlencode(chosen)}" if chosen else "")

    def fetch(self, source: Source, index: int = 0, *, fresh: bool = False) -> Snapshot:
        """Ask once; with an index, block until there is a newer answer or the wait is over.

        Args:
            source: the client.
            index: of the last answer, 0 for an answer at once.
            fresh: ask the leader, whatever the options allow.

        Raises:
            ConsulUnavailable: no answer, one without a leader, or one of an unexpected form.
            ConsulRefused: an answer that says no.
        """
        stale = self.may_be_stale and source.stale and not fresh
        answer = source.get(self.path, (*self.params, *((("stale", ""),) if stale else ())), index)
        if not answer.known_leader:
            raise ConsulUnavailable("Consul answers but has no leader: see the Consul servers' log")
        if not isinstance(answer.raw, self.shape | None):
            raise ConsulUnavailable(
                f"the answer to {self.path} has an unexpected form: correct consul.address"
            )
        return Snapshot(str(self), answer.index, self._changes(answer.raw, answer.index), answer)

    def _changes(self, raw: Json, index: int) -> tuple[Change, ...]:
        return (self.kind(str(self), self.shape() if raw is None else raw, index),)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
