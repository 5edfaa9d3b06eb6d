"""Reads what `agentd fleet` and the page `/fleet` show: all nodes, compared with each other and with the log.

Owns what the viewer must know besides, such as which rights the token lacks. Presents nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from agentd.fleet.census import Census, Heads
from agentd.fleet.envelope import Envelope
from agentd.fleet.freeze import NAME, Freeze, freeze_now
from agentd.fleet.keys import Keys, unheard_of
from agentd.fleet.kv import ConsulKV
from agentd.fleet.members import Catalogue, Documents
from agentd.fleet.newest import Newest
from agentd.fleet.options import FleetOptions
from agentd.fleet.reader import Reader as LogReader
from agentd.fleet.receipt import CLOCKS_APART
from agentd.fleet.registration import SERVICE
from agentd.fleet.rights import demand, missing_rules, unseen
from agentd.fleet.standing import Member, Standing, standing
from agentd.handler_names import require_handler
from agentd.times import span
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions

_MOST_NOTED: Final = 5


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the whole fleet.

    Attributes:
        now: unix time of the reading.
        notes: what else the user should know, such as junk that was ignored.
        freeze: the freeze that holds now; None if there is none.
    """

    fleet: str
    now: float
    members: Sequence[Member]
    heads: Heads
    newest: Mapping[str, Newest]
    standing: Standing
    notes: Sequence[str]
    freeze: Freeze | None = None

    @property
    def names(self) -> list[str]:
        """The names of the log that the nodes take, sorted; if all handlers were read, all that there are."""
        whole = len(self.standing.nodes) == len(self.members)
        return sorted({*self.standing.live, *(self.newest if whole else ())})


class FleetReader:
    """Reads the fleet repeatedly, each time documents first and heads last.

    Args:
        client: a client for the fleet's home datacenter; the caller closes it.
        fleet: the fleet's name.
        frozen: returns the freeze that holds at a unix time, or what to note if that cannot be told; called
            only if there ever was one.
        handler: compare only this configured handler, on the nodes that have it.
        service: expect agentd only on nodes with this service; None: on all nodes.
    """

    def __init__(
        self,
        client: ConsulClient,
        fleet: str,
        frozen: Callable[[float], tuple[Freeze | None, list[str]]],
        *,
        handler: str | None = None,
        service: str | None = None,
    ) -> None:
        self._client = client
        self._keys = Keys(fleet)
        self._census = Census(client, self._keys)
        self._frozen = frozen
        self._handler = handler
        self._service = service
        self._index = 0
        self._may_read = False

    def look(self, wait: float = 0.0) -> Reading:
        """Read the fleet. From the second time on, wait for a change first, at most `wait` seconds.

        Raises:
            AgentdError: no node has the handler.
            ConsulUnavailable, ConsulRefused: it cannot be read.
        """
        self._demand_rights()
        documents = self._census.documents(self._index, wait)
        self._index = documents.index
        catalogue = self._census.catalogue(documents.datacenters)
        heads = self._census.heads()
        expected = self._census.nodes_of(self._service) if self._service else None
        every = self._census.members(documents, catalogue, expected)
        if self._handler:
            _known(self._handler, documents)
        now = time.time()
        asked = self._census.newest(heads, documents.each)
        judged = standing(every, asked, now, self._handler, heads.unreadable)
        freeze, why = self._freeze(heads, now)
        notes = [*why, *self._notes(documents, catalogue, heads), *self._aims(heads), *_ahead(documents, now)]
        return Reading(self._keys.fleet, now, every, heads, asked, judged, notes, freeze)

    def _freeze(self, heads: Heads, now: float) -> tuple[Freeze | None, list[str]]:
        """The freeze that holds now; or what to note if that cannot be told."""
        if NAME not in heads.heads and NAME not in heads.unreadable:
            return None, []
        return self._frozen(now)

    def _demand_rights(self) -> None:
        """Require the right to read, since Consul just leaves out what the token may not see.

        Raises:
            ConsulRefused: with the rules to add.
        """
        if not self._may_read:
            demand(self._client, "read", [self._keys.nodes, self._keys.names], "looking at the fleet")
            self._may_read = True

    def _aims(self, heads: Heads) -> Iterator[str]:
        """Why the nodes that should have a message may be others than it seems."""
        aimed = sorted(name for name, message in heads.messages.items() if message.service)
        if aimed and (why := unseen(self._client)):
            yield f"cannot tell which nodes the newest message of {aimed[0]} is for: {why}"

    def _notes(self, documents: Documents, catalogue: Catalogue, heads: Heads) -> Iterator[str]:
        if not documents.indexes:
            yield unheard_of(self._keys.fleet)
        if not catalogue.ids:
            yield (
                "cannot tell which Consul agents are down and which nodes lack agentd: add to the token's"
                ' policy: node_prefix "" { policy = "read" }'
            )
        elif self._client.authorized("service", "read", SERVICE) is False:
            yield (
                "cannot tell where agentd fails its health check: add to the token's policy:"
                f' service "{SERVICE}" {{ policy = "read" }}'
            )
        lacking: list[str] = []
        if heads.unreadable and not heads.messages:
            lacking = missing_rules(self._client, "read", map(self._keys.messages, heads.heads))
        if lacking:
            some = " ".join(lacking[:_MOST_NOTED])
            yield f"cannot tell who published: add to the token's policy: {some}"
            heads = replace(heads, unreadable={})
        for junk, prefix in ((documents.junk, self._keys.nodes), (heads.junk, self._keys.names)):
            if junk:
                yield f"{junk} keys below {prefix} were ignored: not written by agentd, or too large"
        for name, why in sorted(heads.unreadable.items())[:_MOST_NOTED]:
            yield f"{name}: {why}"
        newer = sorted(node for node, one in documents.found.items() if one.unread)
        if newer:
            more = f" and {len(newer) - 1} more" if newer[1:] else ""
            yield (
                f"{newer[0]}{more} acknowledged in a newer format, which was read only in part:"
                " upgrade agentd here"
            )


def read_once(
    consul: ConsulOptions, fleet: FleetOptions, verify: Callable[[Envelope], Envelope], seconds: float
) -> Reading:
    """Read a fleet within so many seconds, over connections that are closed then.

    Args:
        consul: where the node's own Consul agent is.
        fleet: which fleet.
        verify: as `read_freeze` takes it.
        seconds: the time limit.

    Raises:
        ConsulUnavailable, ConsulRefused: it cannot be read.
    """
    options = consul.impatient(seconds)
    keys = Keys(fleet.name)
    with closing(ConsulClient(options.at(fleet.datacenter) if fleet.datacenter else options)) as client:
        client.end_by(time.monotonic() + seconds)
        log = LogReader(ConsulKV(client), keys)
        return FleetReader(client, fleet.name, lambda now: freeze_now(log, verify, now)).look()


def _ahead(documents: Documents, now: float) -> Iterator[str]:
    """The nodes whose document is from the future; that a clock is behind shows in no document."""
    ahead = sorted(((one.written - now, node) for node, one in documents.found.items()), reverse=True)
    wrong = [(off, node) for off, node in ahead if off > CLOCKS_APART]
    if wrong:
        off, node = wrong[0]
        more = f" and those of {len(wrong) - 1} more nodes" if wrong[1:] else ""
        yield f"the clock of {node}{more} is ahead of this host's, by {span(off)}: check that both run NTP"


def _known(handler: str, documents: Documents) -> None:
    """Raises AgentdError if no node has such a handler."""
    names = {name for one in documents.found.values() for name in one.handlers}
    require_handler(handler, names, "the nodes have")
