"""The nodes of a fleet: their documents, joined with Consul's catalogue.

Pure: `census.py` reads both, and `standing.py` judges what is here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from agentd.fleet.absence import Absences
from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.registration import service_id
from agentd.fleet.standing import Member

MOST_DATACENTERS: Final = 16
"""Most datacenters, besides the home datacenter, whose catalogues are read."""
_DAY: Final = 86400.0
_UNKNOWN: Final = "Consul does not know this node: if it is gone, `agentd fleet forget NODE`"

Registered: TypeAlias = Mapping[str, Collection[str]]
"""Catalogued node -> the names under which daemons of the fleet are registered there."""


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of the nodes.

    Attributes:
        index: the index on which the next blocking query waits; 0 if it must not block.
        found: node -> document.
        unreadable: node -> why its document cannot be read.
        indexes: node -> ModifyIndex of its document.
        junk: how many keys below the prefix belong to no node, or were not read.
        absences: the record of nodes that were missing from the catalogue.
    """

    index: int
    found: Mapping[str, Acknowledgement]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, int] = field(default_factory=dict)
    junk: int = 0
    absences: Absences = field(default_factory=Absences)

    @property
    def datacenters(self) -> list[str]:
        """The datacenters of nodes outside the home datacenter, at most `MOST_DATACENTERS`."""
        return sorted({one.datacenter for one in self.found.values() if one.datacenter})[:MOST_DATACENTERS]

    @property
    def each(self) -> dict[str, Acknowledgement | None]:
        """Node -> document, None for one that cannot be read."""
        return {node: self.found.get(node) for node in self.indexes}

    def are_of(self, member: Member) -> bool:
        """Whether one of them is this node's, or that of the daemon that is registered there."""
        own = self.found.get(member.runs_as)
        return member.node in self.indexes or (own is not None and own.node_id == member.node_id)

    def keep(self, name: str) -> bool:
        """Whether any of the nodes takes this name of the log."""
        return any(name in one.names for one in self.found.values())

    def reached(self, name: str, now: float) -> int:
        """The highest number of this name of the log that a node acknowledges; 0 if none does.

        What is more than a day ahead of unix time `now` is not believed: a node may write its document, but
        not use up the numbers of the log.
        """
        states = [one.names[name] for one in self.found.values() if name in one.names]
        numbers = [max(one.live or 0, one.tried.num if one.tried else 0) for one in states]
        return max((num for num in numbers if num <= (now + _DAY) * 1000), default=0)

    def in_force(self, name: str, now: float) -> int:
        """The highest number that a node has in force, believed as in `reached`; 0 if none has any."""
        numbers = (one.names[name].live or 0 for one in self.found.values() if name in one.names)
        return max((num for num in numbers if num <= (now + _DAY) * 1000), default=0)

    def gone_for(self, node: str) -> int | None:
        """For how many days the node has been missing from the catalogue; None if that was not checked."""
        found = self.absences.nodes.get(node)
        return found.days if found and found.index == self.indexes[node] else None

    @property
    def has_twins(self) -> bool:
        """Whether two documents have the same Consul agent: two daemons, or one that was renamed."""
        return len(self.newest_of_each_agent()) < len(self.found)

    def newest_of_each_agent(self) -> dict[str, str]:
        """ID of a Consul agent -> the node name of its newest document."""
        newest: dict[str, str] = {}
        for node, document in self.found.items():
            other = newest.get(document.node_id)
            if other is None or (self.found[other].written, other) < (document.written, node):
                newest[document.node_id] = node
        return newest


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The nodes in Consul's catalogue; empty if the token may not see any.

    Attributes:
        ids: node -> ID of its Consul agent, "" if unknown.
        down: the nodes whose Consul agents have failed.
        critical: the IDs of services `agentd` whose health check fails.
        unknown: other datacenters that could not be asked.
    """

    ids: Mapping[str, str]
    down: frozenset[str] = frozenset()
    critical: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()

    @property
    def by_id(self) -> dict[str, str]:
        """ID of a Consul agent -> its node."""
        return {identity: node for node, identity in self.ids.items() if identity}

    def with_datacenter(self, name: str, there: Catalogue | None) -> Catalogue:
        """Add the catalogue of another datacenter; None if it could not be asked."""
        if there is None:
            return replace(self, unknown=self.unknown | {name})
        told = {node: f"{node}.{name}" if node in self.ids else node for node in there.ids}
        return Catalogue(
            {**self.ids, **{told[node]: identity for node, identity in there.ids.items()}},
            self.down | {told[node] for node in there.down if node in told},
            self.critical | there.critical,
            self.unknown,
        )


def unknown_nodes(documents: Documents, catalogue: Catalogue, elsewhere: Iterable[str]) -> list[str]:
    """The nodes that the catalogue has neither by name nor by Consul agent.

    Nodes with unreadable documents are left out, since their datacenter is unknown.

    Args:
        documents: the documents.
        catalogue: the catalogue.
        elsewhere: the datacenters that were asked besides the home datacenter.
    """
    by_id, asked = catalogue.by_id, {"", *elsewhere} - catalogue.unknown
    return [
        node
        for node, document in documents.found.items()
        if document.datacenter in asked and node not in catalogue.ids and document.node_id not in by_id
    ]


def members(
    fleet: str,
    documents: Documents,
    catalogue: Catalogue,
    registered: Registered,
    expected: frozenset[str] | None = None,
) -> list[Member]:
    """Join documents and catalogue.

    Args:
        fleet: the fleet's name.
        documents: the documents.
        catalogue: the catalogue.
        registered: the registered daemons of this fleet; needed only if two documents have the same Consul
            agent, or if there are nodes without a document.
        expected: the only nodes without a document to include; None for all.
    """
    by_id = catalogue.by_id
    newest = documents.newest_of_each_agent()
    unknown = set(unknown_nodes(documents, catalogue, documents.datacenters)) if catalogue.ids else set()
    made: list[Member] = []
    seen: set[str] = set()
    for node in documents.indexes:
        document = documents.found.get(node)
        agent = document.node_id if document else ""
        where = node if node in catalogue.ids else by_id.get(agent)
        if document and document.datacenter in catalogue.unknown:
            silent = f"its datacenter {document.datacenter} does not answer"
        elif where is None:
            silent = _UNKNOWN if catalogue.ids else ""
        elif where in catalogue.down:
            silent = "its Consul agent is down"
        elif service_id(fleet, node) in catalogue.critical:
            silent = "agentd does not answer its health check"
        else:
            silent = ""
        now = newest.get(agent, node)
        there = registered.get(by_id.get(agent, node), ())
        if now != node and node not in there and now in there:
            silent = f"its agent now acknowledges as {now}; `agentd fleet forget {node}` removes this one"
        elif where is not None:
            seen.add(where)
        node_id = catalogue.ids[node] if where == node else ""
        why = documents.unreadable.get(node, "")
        days = documents.gone_for(node) if node in unknown else None
        made.append(Member(node, document, why, where is not None, node_id, silent, gone=days))
    for node, identity in catalogue.ids.items():
        if node not in seen and node not in documents.indexes and (expected is None or node in expected):
            alive = [
                name
                for name in registered.get(node, ())
                if node not in catalogue.down and service_id(fleet, name) not in catalogue.critical
            ]
            made.append(Member(node, node_id=identity, runs_as=min(alive, default="")))
    return made
