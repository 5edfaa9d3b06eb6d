"""What every query has in common: how it asks, how it prints itself, which rights it needs.

Nothing here judges whether an answer is news; that is the poller's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Final, Protocol, TypeAlias
from urllib.parse import quote, urlencode

from agentd.errors import ConsulUnavailable
from agentd.watch.changes import Change, Json, digest
from agentd.watch.client import Answer, EventClock
from agentd.watch.known_items import KnownItems, Sound
from agentd.watch.parsing import Odd, Parsed, parse
from agentd.watch.transport import Parameters

Right: TypeAlias = tuple[str, str, str]
"""Resource, access, segment; "" as the segment means all of them."""
_MOST_ODD: Final = 1000  # odd items of one answer that are told apart
_NAMES: Final = ("ID", "CheckID", "Key", "Node")
_LONGEST_NAME: Final = 64


class Source(Protocol):
    """What a query asks; `ConsulClient` is one."""

    stale: bool

    def get(
        self,
        path: str,
        params: Parameters = (),
        index: int | None = None,
        wait: float | None = None,
        *,
        read: Callable[[bytes], Parsed] = parse,
    ) -> Answer:
        """Read once, or block for an index newer than `index`, `wait` seconds at most."""

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """Whether the token has the right; None if there are no ACLs."""

    def event_clock(self) -> EventClock:
        """The agent's Lamport clock of events."""

    def close(self) -> None:
        """Close, from any thread."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One answer as changes.

    Attributes:
        changes: a state: exactly one; events: as many as there are.
        odd: the items of the answer that cannot be used, and are left out.
        missed: events that came and went unseen; an estimate by Lamport time.
        seen: what the poller has to remember once the changes are recorded; None for nothing.
        absent: whether it says that nothing was ever there, which is a state only for handlers that ask for
            it, and know nothing else.
    """

    query: str
    index: int
    changes: Sequence[Change]
    answer: Answer
    odd: Sequence[Odd] = ()
    missed: int = 0
    seen: Mapping[str, Json] | None = None
    absent: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing: no key, no instance, no event."""
        return all(change.empty for change in self.changes)


@dataclass(frozen=True)
class Query(ABC):
    """A question to Consul. Equal queries have the same string and share one poller."""

    kind: ClassVar[type[Change]]
    #: The JSON type of an answer; a missing or null one is read as an empty one of it.
    shape: ClassVar[type] = list
    #: Whether an answer of which nothing can be used is none: what it stands for would count as gone.
    loses_without: ClassVar[bool] = True
    #: Whether the state is the list of the answer's items.
    itemized: ClassVar[bool] = False
    #: Whether any server may answer: a catalogue's answer may be stale.
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
        """The ACL rights without which Consul answers as if there were nothing."""

    def __str__(self) -> str:
        """The kind, the first field (the name) if there is one, and the others where not default."""
        values = [(field, getattr(self, field.name)) for field in fields(self)]
        named = values[:1] if values and values[0][0].kw_only is False else []
        name = "".join(f":{quote(value, safe='/:')}" for _, value in named)
        chosen = {field.name: _text(value) for field, value in values[len(named) :] if value != field.default}
        return self.kind.kind + name + (f"?{urlencode(chosen)}" if chosen else "")

    def known_items(self) -> KnownItems | None:
        """For `fetch`: what reads one answer after the other; None where that saves nothing."""
        return KnownItems(self._misfit, self._item) if self.itemized else None

    def fetch(
        self,
        source: Source,
        index: int = 0,
        *,
        fresh: bool = False,
        consistent: bool = False,
        wait: float | None = None,
        known: KnownItems | None = None,
    ) -> Snapshot:
        """Ask once; with an index, block until there is a newer answer or the wait is over.

        Args:
            source: the client.
            index: of the last answer, 0 for an answer at once.
            wait: seconds to block at most; by default as the source has it.
            fresh: ask the leader, whatever the options allow.
            consistent: as well, and have it make sure that it still is the leader.
            known: what has read the answers before.

        Raises:
            ConsulUnavailable: no answer, one without a leader, or one of an unexpected form.
            ConsulRefused: Consul says no.
        """
        stale = self.may_be_stale and source.stale and not fresh
        mode = "consistent" if consistent else "stale" if stale else ""
        params = (*self.params, *(((mode, ""),) if mode else ()))
        answer = source.get(self.path, params, index, wait, read=known.read if known else parse)
        if not answer.known_leader:
            raise ConsulUnavailable("Consul answers but has no leader: see the Consul servers' log")
        if isinstance(answer.raw, Sound):
            change = self.kind.of_text(str(self), answer.raw.text, answer.index)
            return Snapshot(str(self), answer.index, (change,), replace(answer, raw=None))
        if not isinstance(answer.raw, self.shape | None):
            raise ConsulUnavailable(
                f"the answer to {self.path} has an unexpected form: is this a Consul agent?"
            )
        odd = {one.id: one for one in answer.odd}
        sound = None if answer.raw is None else self._sound(answer.raw, odd)
        if odd and not sound and self.loses_without:
            reasons = ", ".join(sorted({one.reason for one in odd.values()}))
            raise ConsulUnavailable(
                f"nothing in the answer to {self.path} can be used ({reasons}): is this a Consul agent?"
            )
        answer = replace(answer, raw=sound)
        return Snapshot(str(self), answer.index, self._changes(sound, answer.index), answer, [*odd.values()])

    def _sound(self, raw: Json, odd: dict[str, Odd]) -> Json:
        """What of an answer can be used; the rest is put into `odd`."""
        sound = []
        for item in raw:
            if reason := self._misfit(item):
                note(odd, item, reason)
            else:
                sound.append(item)
        return sound

    def _misfit(self, item: Json) -> str:
        """Why an item of the list cannot be used, "" if it can."""
        raise NotImplementedError

    def _item(self, item: Json) -> Json:
        """An item of the list as the state has it."""
        return item

    def _changes(self, raw: Json, index: int) -> Sequence[Change]:
        return (self.kind(str(self), self.shape() if raw is None else raw, index),)


def note(odd: dict[str, Odd], item: Json, reason: str, time: int = 0) -> None:
    """Add an item that cannot be used; of very many, which only something else than Consul has, the first."""
    if len(odd) < _MOST_ODD:
        known = digest(item)
        odd.setdefault(known, Odd(known, reason, _name(item), time))


def _name(item: Json) -> str:
    """The shortest that an operator may recognise it by, escaped."""
    objects = (
        [one for one in (item.get("Service"), item) if isinstance(one, dict)]
        if isinstance(item, dict)
        else []
    )
    found = (one.get(name) for one in objects for name in _NAMES)
    return next((ascii(one[:_LONGEST_NAME])[1:-1] for one in found if isinstance(one, str) and one), "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
