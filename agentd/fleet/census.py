"""Reads the state of a fleet from Consul: documents, catalogue, and heads with their newest messages.

Owns the limits on what is read, since anybody with write access may have written anything: junk is counted
and reported, but hides nothing and uses little memory. Judges nothing (`standing.py` does) and writes
nothing. Documents and catalogue are read from any server; the heads are read after them and from the leader,
so that no document can be newer than the heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agentd.errors import BadDocument, ConsulRefused, ConsulTooLarge, ConsulUnavailable, UnknownFormat
from agentd.fleet.absence import Absences, parse_absences
from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.acknowledgement_codec import DocumentError, parse
from agentd.fleet.audience import Audience
from agentd.fleet.envelope import Envelope, parse_envelope
from agentd.fleet.head import Head, parse_head
from agentd.fleet.keys import Keys, is_node
from agentd.fleet.kv import ConsulKV
from agentd.fleet.members import Catalogue, Documents, Registered, members
from agentd.fleet.newest import Newest
from agentd.fleet.registration import SERVICE, node_of
from agentd.fleet.standing import Member
from agentd.watch.client import ConsulClient
from agentd.watch.kv import Pair, pair_of
from agentd.watch.queries import ChecksQuery, NodesQuery, ServiceQuery

AT_ONCE: Final = 60
"""Most keys that one transaction reads."""
MOST_KEYS: Final = 20_000
"""Most keys to read by transactions, if one answer with all of them would be too large."""
MOST_BYTES: Final = 32 * 2**20
"""Most bytes of values to read that way; the rest counts as junk."""
_SERF: Final = "serfHealth"  # Consul's own check of whether the agent is alive
_CRITICAL: Final = "critical"


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads and their newest messages.

    Attributes:
        heads: name -> head.
        messages: name -> newest message, if it can be read.
        released: name -> newest message for all nodes, if it can be read and a later one opened a rollout.
        unreadable: name -> why its head or its newest message cannot be read.
        junk: how many keys among the heads are not heads.
    """

    heads: Mapping[str, Head]
    messages: Mapping[str, Envelope]
    unreadable: Mapping[str, str]
    junk: int = 0
    released: Mapping[str, Envelope] = field(default_factory=dict)


class Census(Audience):
    """Reads one fleet. The caller closes the client.

    Every method may raise ConsulUnavailable or ConsulRefused.

    Args:
        client: a client for the fleet's home datacenter.
        keys: the fleet's keys.
        consistent: read documents and catalogue in Consul's consistent mode, rather than from any server.
    """

    def __init__(self, client: ConsulClient, keys: Keys, *, consistent: bool = False) -> None:
        super().__init__(client)
        self._consistent = consistent
        self._mode = ("consistent" if consistent else "stale", "")
        self._keys = keys
        self._kv = ConsulKV(client)
        self._ids: Mapping[str, str] | None = None
        self._known: dict[str, tuple[int, Acknowledgement | str]] = {}

    # ------------------------------------------------------------------ documents

    def documents(self, index: int = 0, wait: float = 0.0) -> Documents:
        """All documents. With an index, waits until one of them has changed, but at most `wait` seconds.

        Lists the keys first, since Consul would need six times as much memory to return a gigabyte of junk.
        """
        try:
            index, every = self._list(index, wait)
        except ConsulTooLarge:
            usable = [self._keys.node(name) for name in self._catalogued() if is_node(name)]
            return self._read(0, self._some(usable), junk=MOST_KEYS)
        nodes = {key: node for key in every if (node := self._keys.node_of(key)) is not None}
        if self._are_few(nodes.values(), others=len(every) - len(nodes)):
            with suppress(ConsulTooLarge):
                return self._together(index)
        known = self._catalogued()
        wanted = sorted(nodes, key=lambda key: nodes[key] not in known)[:MOST_KEYS]
        pairs = self._some([self._keys.absences, *wanted])
        return self._read(index, pairs, len(every) - len(pairs))

    def _list(self, index: int, wait: float) -> tuple[int, list[str]]:
        """The index to wait on for the next change below the documents' prefix, and the keys there."""
        path = f"/v1/kv/{self._keys.nodes}"
        answer = self._client.get(path, (("keys", ""), self._mode), index, wait)
        if answer.odd:
            raise ConsulTooLarge(f"there are too many keys below {self._keys.nodes}")
        raw = [] if answer.raw is None else answer.raw
        if not isinstance(raw, list) or not all(isinstance(key, str) for key in raw):
            raise ConsulUnavailable(f"the answer to {path} has an unexpected form: is this a Consul agent?")
        return answer.index, raw

    def _are_few(self, nodes: Iterable[str], others: int) -> bool:
        """Whether there is little besides the documents of catalogued nodes."""
        names = list(nodes)
        if len(names) + others <= AT_ONCE:
            return True
        known = self._catalogued()
        return sum(name not in known for name in names) + others <= AT_ONCE

    def _together(self, index: int) -> Documents:
        path = f"/v1/kv/{self._keys.nodes}"
        answer = self._client.get(path, (("recurse", ""), self._mode))
        raw = [] if answer.raw is None else answer.raw
        if not isinstance(raw, list):
            raise ConsulUnavailable(f"the answer to {path} has an unexpected form: is this a Consul agent?")
        pairs = [one for one in map(_pair, raw) if one is not None]
        return self._read(index, pairs, len(answer.odd) + len(raw) - len(pairs))

    def _some(self, keys: Sequence[str]) -> list[Pair]:
        """Read the keys, up to `MOST_BYTES`."""
        pairs: list[Pair] = []
        size = 0
        for at in range(0, len(keys), AT_ONCE):
            if size > MOST_BYTES:
                break
            some = self._get(keys[at : at + AT_ONCE])
            size += sum(len(one.value) for one in some)
            pairs += some
        return pairs

    def _get(self, keys: Sequence[str]) -> list[Pair]:
        """Read the keys that still exist, in smaller requests if need be; skip a value that is too large."""
        wanted = list(keys)
        while wanted:
            try:
                answer = self._kv.transact(
                    [{"Verb": "get", "Key": key} for key in wanted], consistent=self._consistent
                )
            except ConsulTooLarge:
                if len(wanted) == 1:
                    return []
                half = len(wanted) // 2
                return self._get(wanted[:half]) + self._get(wanted[half:])
            gone = {at for at, _ in answer.failures}
            if not gone:
                return [one for one in map(_pair, answer.results) if one is not None]
            wanted = [key for at, key in enumerate(wanted) if at not in gone]
        return []

    def _read(self, index: int, pairs: Iterable[Pair], junk: int) -> Documents:
        found: dict[str, Acknowledgement] = {}
        unreadable: dict[str, str] = {}
        indexes: dict[str, int] = {}
        absences = Absences()
        for pair in pairs:
            node = self._keys.node_of(pair.key)
            if pair.key == self._keys.absences:
                absences = parse_absences(pair.value)
                continue
            if node is None:
                junk += pair.key != self._keys.nodes  # that is a "directory" made in Consul's UI
                continue
            indexes[node] = pair.index
            before = self._known.get(node)
            if before is None or before[0] != pair.index:
                before = self._known[node] = (pair.index, _parsed(pair.value))
            if isinstance(before[1], str):
                unreadable[node] = before[1]
            else:
                found[node] = before[1]
        self._known = {node: self._known[node] for node in indexes}
        return Documents(index, found, unreadable, indexes, junk, absences)

    # ------------------------------------------------------------------ catalogue

    def catalogue(self, elsewhere: Iterable[str] = ()) -> Catalogue:
        """The nodes in the catalogue, and the health of their Consul agents and of agentd.

        Args:
            elsewhere: datacenters to ask besides the home datacenter.
        """
        found = self._catalogue()
        self._ids = found.ids
        for datacenter in elsewhere:
            there = None
            with suppress(ConsulUnavailable, ConsulRefused), self._asking(datacenter):
                there = self._catalogue()  # else only this datacenter is out of reach
            found = found.with_datacenter(datacenter, there)
        return found

    def _catalogue(self) -> Catalogue:
        listed = NodesQuery().fetch(self._client, consistent=self._consistent).changes[0].raw or ()
        failing = (
            ChecksQuery(state=_CRITICAL).fetch(self._client, consistent=self._consistent).changes[0].raw or ()
        )
        return Catalogue(
            ids={one["Node"]: str(one.get("ID") or "") for one in listed},
            down=frozenset(str(one.get("Node")) for one in failing if one["CheckID"] == _SERF),
            critical=frozenset(
                str(one.get("ServiceID")) for one in failing if one.get("ServiceName") == SERVICE
            ),
        )

    def _catalogued(self) -> Mapping[str, str]:
        """The nodes in the catalogue when it was last read, with the IDs of their Consul agents."""
        return self.catalogue().ids if self._ids is None else self._ids

    def registered(self, nodes: Collection[str] | None = None) -> Registered:
        """The names under which daemons of this fleet are registered, by catalogued node.

        Args:
            nodes: the nodes to ask for; None for all.
        """
        some = None
        if nodes is not None and len(nodes) <= AT_ONCE and all(map(is_node, nodes)):
            some = " or ".join(f'Node.Node == "{node}"' for node in sorted(nodes))
        raw = ServiceQuery(SERVICE, passing=False, filter=some).fetch(self._client).changes[0].raw or ()
        found: dict[str, set[str]] = {}
        for one in raw:
            name = node_of(one["Service"], self._keys.fleet)
            if name is not None:
                found.setdefault(one["Node"]["Node"], set()).add(name)
        return found

    def members(
        self, documents: Documents, catalogue: Catalogue, expected: frozenset[str] | None = None
    ) -> list[Member]:
        """All nodes with a document or in the catalogue; see `members`."""
        told = {one.node_id for one in documents.found.values()}
        lacking = {
            node
            for node, identity in catalogue.ids.items()
            if node not in documents.indexes
            and identity not in told
            and (expected is None or node in expected)
        }
        registered: Registered = {}
        if documents.has_twins or lacking:
            registered = self.registered(None if documents.has_twins else lacking)
        return members(self._keys.fleet, documents, catalogue, registered, expected)

    def nodes_of(self, service: str) -> frozenset[str]:
        """The nodes with an instance of this service, healthy or not."""
        raw = ServiceQuery(service, passing=False).fetch(self._client).changes[0].raw or ()
        return frozenset(one["Node"]["Node"] for one in raw)

    # ------------------------------------------------------------------ heads

    def heads(self, names: Iterable[str] | None = None) -> Heads:
        """The heads of these names (None: of all names), with their newest messages."""
        if names is not None:
            return self._with_messages(self._some(list(map(self._keys.head, names))), 0)
        every = self._kv.keys(self._keys.names)
        wanted = [key for key in every if self._keys.name_of(key) is not None][:MOST_KEYS]
        ours = [key for key in every if key in (self._keys.record, self._keys.names)]
        found = self._some(wanted)
        return self._with_messages(found, len(every) - len(found) - len(ours))

    def _with_messages(self, pairs: Iterable[Pair], junk: int) -> Heads:
        heads: dict[str, Head] = {}
        unreadable: dict[str, str] = {}
        for pair in pairs:
            name = self._keys.name_of(pair.key)
            if name is None:
                junk += pair.key not in (self._keys.record, self._keys.names)
                continue
            try:
                heads[name] = parse_head(pair.value)
            except (BadDocument, UnknownFormat) as error:
                unreadable[name] = str(error)
        keys = {
            self._keys.message(name, head.newest): name for name, head in heads.items() if not head.is_empty
        }
        before = [self._keys.message(name, head.released) for name, head in heads.items() if head.released]
        messages: dict[str, Envelope] = {}
        released: dict[str, Envelope] = {}
        for pair in self._some([*keys, *before]):
            try:
                message = parse_envelope(pair.value)
            except (BadDocument, UnknownFormat) as error:
                if pair.key in keys:
                    unreadable[keys[pair.key]] = str(error)
            else:
                if message.lies_at(self._keys, pair.key):
                    (messages if pair.key in keys else released)[message.name] = message
        for name in set(keys.values()) - messages.keys() - unreadable.keys():
            unreadable[name] = "its head points to a message that is missing"
        return Heads(heads, messages, unreadable, junk, released)

    def newest(self, heads: Heads, nodes: Mapping[str, Acknowledgement | None]) -> dict[str, Newest]:
        """The newest message of each name, and which of these nodes it is for; see `asked_by`."""
        made: dict[str, Newest] = {}
        for name, head in heads.heads.items():
            message = heads.messages.get(name)
            if message is not None:
                made[name] = self.asked_by(message, nodes)
            elif head.newest:  # a forgotten message is for nobody
                made[name] = Newest(name, head.newest, addressed=frozenset() if head.is_empty else None)
            if head.released and name in made:
                before = heads.released.get(name)
                others = Newest(name, head.released) if before is None else self.asked_by(before, nodes)
                made[name] = replace(made[name], others=others)
        return made


def _parsed(value: bytes) -> Acknowledgement | str:
    """The document, or why it cannot be read."""
    try:
        return parse(value)
    except DocumentError as error:
        return f"its document cannot be read: {error}"


def _pair(raw: Any) -> Pair | None:  # noqa: ANN401 (any JSON)
    """The key and its value; None if the answer has something else."""
    try:
        return pair_of(raw)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None
