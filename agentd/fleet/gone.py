"""Removes the documents of nodes that have been missing from Consul's catalogue for a week.

Consul does not say since when a node has been missing. So somebody with the right to write documents checks
at most once a day, and records how often each node was missing while its document did not change. Checks are
a day apart, so a wrong clock can add only one of them. Owns that nothing counts that was not seen: not
without the right to see every node, not in a datacenter that does not answer, and not while the catalogue is
empty or lacks most nodes, as it does while it is rebuilt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.fleet.absence import Absence, Absences, parse_absences
from agentd.fleet.census import Census
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.members import unknown_nodes
from agentd.watch.client import ConsulClient

DAYS: Final = 7
"""Days for which a node must be missing before its document is removed."""
_ADVICE: Final = 'add to the token\'s policy: node_prefix "" { policy = "read" }'


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one check.

    Attributes:
        forgotten: the nodes whose documents were removed.
        absent: the other missing nodes, and for how many days at least each has been missing.
    """

    forgotten: tuple[str, ...]
    absent: dict[str, int]


class Gone:
    """Looks for nodes of one fleet that are gone. The caller closes the client.

    Args:
        client: a client for the fleet's home datacenter that may write documents and read all nodes.
        keys: the fleet's keys.
    """

    def __init__(self, client: ConsulClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._kv = ConsulKV(client)

    def remove(self, now: float) -> Found:
        """Check, record the result if a day has passed, and remove the documents of nodes that are gone.

        Args:
            now: unix time.

        Raises:
            ConsulUnavailable: there was no answer, or the catalogue is empty or lacks most of the nodes.
            ConsulRefused: the token lacks a right, such as to see every node.
        """
        pair = self._kv.pair(self._keys.absences, consistent=True)
        known = parse_absences(pair.value) if pair else Absences()
        seen = self._look(known)
        if seen is None:
            return Found((), {})
        if known.is_due(now):
            more = {node: Absence(one.index, one.looks + 1) for node, one in seen.items()}
            if not self._kv.replace(
                self._keys.absences, Absences(now, more).render(), 0, pair.index if pair else 0
            ):
                raise ConsulUnavailable("somebody else is checking for nodes that are gone: try again")
            seen = more
        forgotten = [
            node
            for node, one in seen.items()
            if one.days >= DAYS and self._kv.delete(self._keys.node(node), one.index)
        ]
        absent = {node: max(0, one.days) for node, one in seen.items() if node not in forgotten}
        return Found(tuple(forgotten), absent)

    def _look(self, known: Absences) -> dict[str, Absence] | None:
        """The missing nodes, with what is recorded about them so far; None if no node acknowledges."""
        census = Census(self._client, self._keys, consistent=True)
        documents = census.documents()
        if not documents.found:
            return None
        if not self._sees("", None):
            raise ConsulRefused(f"telling which nodes are gone needs more rights: {_ADVICE}")
        elsewhere = list(filter(self._can_ask, documents.datacenters))
        catalogue = census.catalogue(elsewhere)
        if not catalogue.ids:
            raise ConsulUnavailable("Consul's catalogue is empty: no node counts as gone")
        nodes = unknown_nodes(documents, catalogue, elsewhere)
        if len(nodes) * 2 > len(documents.found):
            raise ConsulUnavailable(
                f"Consul's catalogue lacks {len(nodes)} of {len(documents.found)} nodes, as if it were being"
                " rebuilt: no node counts as gone; `agentd fleet forget NODE` removes single ones"
            )
        found: dict[str, Absence] = {}
        for node in sorted(nodes):
            if not self._sees(node, documents.found[node].datacenter):
                continue  # another rule takes from the token what the one for all gives
            index, before = documents.indexes[node], known.nodes.get(node)
            found[node] = before if before and before.index == index else Absence(index, 0)
        return found

    def _sees(self, node: str, datacenter: str | None) -> bool:
        """Whether the token may see the node ("" for every node); those it may not would seem to be gone."""
        home, self._client.dc = self._client.dc, datacenter or self._client.dc
        try:
            return self._client.authorized("node", "read", node) is not False
        finally:
            self._client.dc = home

    def _can_ask(self, datacenter: str) -> bool:
        """Whether all nodes of another datacenter can be seen."""
        try:
            return self._sees("", datacenter)
        except (ConsulUnavailable, ConsulRefused):
            return False
