"""Where a fleet's data lies in Consul's KV store: all of it below `agentd/FLEET/`.

Owns the names of keys, and which names of fleets, events and nodes may be part of one. It does no I/O. Keys
keep to `A-Za-z0-9/_.-`, which Consul enforces from 1.22 on.
"""

from __future__ import annotations

import re
from typing import Final

from agentd.values import is_fleet_name

POISONED: Final = 9_000_000_000_000_000
"""Message numbers begin at 1 and stay below this: one that is larger would leave no room for the next."""

_ROOT: Final = "agentd"
_DIGITS: Final = 16
_NODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_NUMBER: Final = re.compile(rf"[0-9]{{{_DIGITS}}}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DOTS: Final = (".", "..")  # an HTTP server takes them for directories


is_kept_name: Final = is_fleet_name
"""Whether the events of that name can be kept; the rule is that of a fleet's name."""
is_fleet: Final = is_fleet_name


def is_node(name: str) -> bool:
    """Whether a node of that name can have a document: 1 to 253 of `A-Za-z0-9_.-`."""
    return _NODE.fullmatch(name) is not None and name not in _DOTS


def is_number(num: object) -> bool:
    """Whether it can be the number of a message."""
    return type(num) is int and 0 < num < POISONED


def is_sha256(text: object) -> bool:
    """Whether it can be the name of a body: 64 lower-case hex digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


class Keys:
    """The keys of one fleet.

    Args:
        fleet: its name; it tells staging from production where both use one Consul.

    Attributes:
        root: what every key of the fleet begins with; like each prefix here it ends in a slash.
        names: the prefix of the heads: the one that is watched.
        every_message: the prefix of the messages of all names.
        record: the key of the fleet's own record, which stands among the heads.
        bodies: the prefix of the bodies.
        nodes: the prefix of the nodes' documents.
        swept: the key that says since when a body is not referenced.

    Raises:
        ValueError: from every method, for a name or number that cannot be part of a key.
    """

    def __init__(self, fleet: str) -> None:
        if not is_fleet(fleet):
            raise ValueError(
                f"a fleet's name has 1 to 64 of A-Za-z0-9_.-, a letter or digit first: {fleet!r}"
            )
        self.fleet = fleet
        self.root = f"{_ROOT}/{fleet}/"
        self.names = f"{self.root}names/"
        self.every_message = f"{self.root}messages/"
        self.record = f"{self.names}_fleet"
        self.bodies = f"{self.root}bodies/"
        self.nodes = f"{self.root}nodes/"
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
            raise ValueError(f"this cannot be the number of a message: {num}")
        return f"{self.messages(name)}{num:0{_DIGITS}}"

    def pruned(self, name: str) -> str:
        """The key that remembers the IDs of messages that were pruned lately; only writers read it."""
        return f"{self.root}pruned/{_kept(name)}/ids"

    def body(self, sha256: str) -> str:
        """The key of one body."""
        if not is_sha256(sha256):
            raise ValueError("a body is named by its SHA-256, in lower-case hex")
        return f"{self.bodies}{sha256}"

    def node(self, node: str) -> str:
        """The key of a node's document."""
        if not is_node(node):
            raise ValueError(
                f"a node has a document only if its name is of A-Za-z0-9_.-: {node!r};"
                " give it another one with fleet.node"
            )
        return f"{self.nodes}{node}"

    # ------------------------------------------------------------------ back from a key

    def name_of(self, key: str) -> str | None:
        """The name whose head has this key; None for the fleet's record, and for what is none of ours."""
        name = key.removeprefix(self.names)
        return name if name != key and is_kept_name(name) else None

    def number_of(self, name: str, key: str) -> int | None:
        """The number of the message of that name that has this key; None if it is not one."""
        text = key.removeprefix(self.messages(name))
        if text == key or not _NUMBER.fullmatch(text):
            return None
        return int(text) if is_number(int(text)) else None

    def place_of(self, key: str) -> tuple[str, int] | None:
        """The name and number of the message that has this key; None if it is not one."""
        name = key.removeprefix(self.every_message).partition("/")[0]
        num = self.number_of(name, key) if is_kept_name(name) else None
        return None if num is None else (name, num)

    def node_of(self, key: str) -> str | None:
        """The node whose document has this key; None if it is not one."""
        node = key.removeprefix(self.nodes)
        return node if node != key and is_node(node) else None


def _kept(name: str) -> str:
    if not is_kept_name(name):
        raise ValueError(
            f"a name is kept only if it is 1 to 64 of A-Za-z0-9_.-, a letter or digit first: {name!r}"
        )
    return name
