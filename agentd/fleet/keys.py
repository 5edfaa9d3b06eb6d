"""The layout of a fleet's data in Consul's KV store, all of it below `agentd/FLEET/`.

Owns the key names, and which fleet, event and node names may appear in one. Does no I/O. Keys use only
`A-Za-z0-9/_.-`, which Consul enforces as of 1.22.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from agentd.values import is_fleet_name

POISONED: Final = 9_000_000_000_000_000
"""Message numbers start at 1 and stay below this: anything larger would leave no room for the next one."""
FAR: Final = 10**14
"""A number that no clock gives: the year 5138 in unix milliseconds."""

_ROOT: Final = "agentd"
_DIGITS: Final = 16
_NODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_NUMBER: Final = re.compile(rf"[0-9]{{{_DIGITS}}}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DOTS: Final = (".", "..")  # an HTTP server would resolve them as directories


is_kept_name: Final = is_fleet_name
"""Whether events of that name can be kept; the rule is the same as for fleet names."""
is_fleet: Final = is_fleet_name


def is_node(name: str) -> bool:
    """Whether a node of that name can have a document: 1 to 253 characters from `A-Za-z0-9_.-`."""
    return _NODE.fullmatch(name) is not None and name not in _DOTS


def is_number(num: object) -> bool:
    """Whether this is a valid message number."""
    return type(num) is int and 0 < num < POISONED


def is_sha256(text: object) -> bool:
    """Whether this is a valid body name: 64 lower-case hex digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


class Keys:
    """The keys of one fleet.

    Args:
        fleet: the fleet's name; it separates staging from production on one Consul.

    Attributes:
        root: prefix of all the fleet's keys; like every prefix here, it ends in a slash.
        names: prefix of the heads, the one that nodes watch.
        every_message: prefix of the messages of all names.
        record: key of the fleet's own record, among the heads.
        bodies: prefix of the bodies.
        nodes: prefix of the nodes' documents.
        absences: key of the record of absent nodes, which no node's document can have.
        swept: key that records since when each body has been unreferenced.

    Raises:
        ValueError: from every method, if a name or number cannot be part of a key.
    """

    def __init__(self, fleet: str) -> None:
        if not is_fleet(fleet):
            raise ValueError(
                "a fleet name has 1 to 64 characters from A-Za-z0-9_.- and begins with a letter or digit:"
                f" {fleet!r}"
            )
        self.fleet = fleet
        self.root = f"{_ROOT}/{fleet}/"
        self.names = f"{self.root}names/"
        self.every_message = f"{self.root}messages/"
        self.record = f"{self.names}_fleet"
        self.bodies = f"{self.root}bodies/"
        self.nodes = f"{self.root}nodes/"
        self.absences = f"{self.nodes}_/absent"
        self.swept = f"{self.bodies}_swept"

    def head(self, name: str) -> str:
        """The key of a name's head."""
        return f"{self.names}{_kept(name)}"

    def messages(self, name: str) -> str:
        """The prefix of a name's messages."""
        return f"{self.every_message}{_kept(name)}/"

    def message(self, name: str, num: int) -> str:
        """The key of one message."""
        if not is_number(num):
            raise ValueError(f"not a message number: {num}")
        return f"{self.messages(name)}{num:0{_DIGITS}}"

    def pruned(self, name: str) -> str:
        """The key that lists the IDs of recently pruned messages; only writers read it."""
        return f"{self.root}pruned/{_kept(name)}/ids"

    def body(self, sha256: str) -> str:
        """The key of one body."""
        if not is_sha256(sha256):
            raise ValueError("a body's name is its SHA-256 in lower-case hex")
        return f"{self.bodies}{sha256}"

    def node(self, node: str) -> str:
        """The key of a node's document."""
        if not is_node(node):
            raise ValueError(
                f"a node name can only have characters from A-Za-z0-9_.- to be part of a key: {node!r};"
                " set another one with fleet.node"
            )
        return f"{self.nodes}{node}"

    # ------------------------------------------------------------------ back from a key

    def name_of(self, key: str) -> str | None:
        """The name whose head has this key; None for the fleet's record and for foreign keys."""
        name = key.removeprefix(self.names)
        return name if name != key and is_kept_name(name) else None

    def number_of(self, name: str, key: str) -> int | None:
        """The number of the message at this key; None if the key is not a message of that name."""
        text = key.removeprefix(self.messages(name))
        if text == key or not _NUMBER.fullmatch(text):
            return None
        num = int(text)
        return num if is_number(num) else None

    def place_of(self, key: str) -> tuple[str, int] | None:
        """The name and number of the message at this key; None if it is not a message's key."""
        name = key.removeprefix(self.every_message).partition("/")[0]
        num = self.number_of(name, key) if is_kept_name(name) else None
        return None if num is None else (name, num)

    def node_of(self, key: str) -> str | None:
        """The node whose document has this key; None if it is not a document's key."""
        node = key.removeprefix(self.nodes)
        return node if node != key and is_node(node) else None


@lru_cache(64)
def _kept(name: str) -> str:
    if not is_kept_name(name):
        raise ValueError(
            "a kept name has 1 to 64 characters from A-Za-z0-9_.- and begins with a letter or digit:"
            f" {name!r}"
        )
    return name


def unheard_of(fleet: str) -> str:
    """What to say of a fleet in which nobody acknowledges."""
    return f"no node acknowledges in the fleet {fleet!r}: is that its name?"
