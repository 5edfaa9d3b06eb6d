"""Rollouts: a payload that reaches the nodes of a fleet step by step.

Owns which nodes a step admits, how that is written in a message, and which log has a rollout open. Every
message of a rollout carries its payload, so a node always takes the newest message that is for it. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agentd.errors import BadDocument
from agentd.fleet.document import Rule, is_text, optional
from agentd.fleet.keys import is_kept_name, is_node, is_number

ALL: Final = 1 << 32
"""`Admission.below` that admits every node."""
LONGEST_NODES: Final = 4096
"""Most characters of the names of nodes that one message admits, with the commas between them."""
SHAPE: Final[Mapping[str, Rule]] = {
    "rollout": optional(lambda value: isinstance(value, str) and is_kept_name(value)),
    "below": optional(lambda value: type(value) is int and 0 <= value <= ALL),
    "nodes": optional(is_text(LONGEST_NODES)),
    "among": optional(is_text(128)),
    "restores": optional(is_number),
}
"""The fields of a message about its rollout, each with its rule."""
KINDS: Final = ("admit", "release", "abort")
"""The kinds of messages that belong to a rollout."""

Role = Literal["all", "admit", "some"]
"""Whom a message is for: all nodes, those that a rollout admits, or those that its filters match."""

_FIELDS: Final = ("rollout", "below", "nodes", "among", "restores")
_FILTERS: Final = ("node", "service", "tag", "snapshot", "expires")


def share(node: str, rollout: str) -> int:
    """Where a node stands in a rollout, uniform in `range(ALL)`, and the same wherever it is computed.

    A step that admits all nodes below a threshold keeps those of every lower threshold. Another rollout
    begins with other nodes.
    """
    found = hashlib.sha256(f"{rollout}/{node}".encode()).digest()  # no node's name has a slash
    return int.from_bytes(found[:4], "big")


@dataclass(frozen=True, slots=True)
class Admission:
    """Whom a step of a rollout admits: every node to which any of these applies.

    Attributes:
        below: nodes whose `share` is below this number; 0 for none, `ALL` for all.
        nodes: nodes by their names in the fleet.
        tag: nodes with a Consul service that has this very tag; "" for none.
    """

    below: int = 0
    nodes: tuple[str, ...] = ()
    tag: str = ""

    def __str__(self) -> str:
        """Whom it admits, for people."""
        part = f"{self.below / ALL:.3%}".rstrip("%").rstrip("0").rstrip(".")
        found = [f"{part}% of the nodes"] if self.below else []
        found += [f"nodes with a service tagged {self.tag}"] if self.tag else []
        return ", ".join([*found, *self.nodes]) or "no node"

    def admits(self, node: str, tags: Iterable[str], rollout: str) -> bool:
        """Whether it admits a node.

        Args:
            node: its name in the fleet.
            tags: those of all services on it; read only if there is a `tag`.
            rollout: the rollout's ID.
        """
        if node in self.nodes or share(node, rollout) < self.below:
            return True
        return bool(self.tag) and self.tag in tags

    def covers(self, other: Admission) -> bool:
        """Whether it admits at least every node that the other one admits, whatever their tags."""
        if self.below >= ALL:
            return True
        return (
            self.below >= other.below
            and set(self.nodes).issuperset(other.nodes)
            and other.tag in ("", self.tag)
        )


def write_fields(rollout: str, admission: Admission | None, restores: int) -> dict[str, Any]:
    """The fields of a message about its rollout, None for those that it lacks."""
    return {
        "rollout": rollout or None,
        "below": None if admission is None else admission.below,
        "nodes": (",".join(admission.nodes) or None) if admission else None,
        "among": (admission.tag or None) if admission else None,
        "restores": restores or None,
    }


def parse_fields(value: Mapping[str, Any]) -> tuple[str, Admission | None, int]:
    """The rollout, the admission and the restored number of a message whose single fields are valid.

    Raises:
        BadDocument: its kind lacks one of these fields, or has one that it must not have.
    """
    kind = value["kind"]
    expected = {
        "admit": {"rollout", "below", "nodes", "among"},
        "release": {"rollout"},
        "abort": {"rollout", "restores"},
    }.get(kind, set())
    found = {name for name in _FIELDS if value.get(name) is not None}
    if not found <= expected or not expected - found <= {"nodes", "among"}:
        raise BadDocument(f"the message, of the kind {kind!r}, has too little or too much about a rollout")
    if kind not in KINDS:
        return "", None, 0
    if any(value.get(name) is not None for name in _FILTERS):
        raise BadDocument("a message of a rollout has no filters, does not expire, and is no snapshot")
    if kind != "admit":
        return value["rollout"], None, value.get("restores") or 0
    text = value.get("nodes")
    nodes = tuple(text.split(",")) if text else ()
    if not all(map(is_node, nodes)):
        raise BadDocument("the message admits nodes by names that no node can have")
    return value["rollout"], Admission(value["below"], nodes, value.get("among") or ""), 0


def released(roles: Mapping[int, Role]) -> int | None:
    """The newest message for all nodes, while a rollout is open; None if none is open.

    One is open if it admitted nodes after the newest message for all; 0 if there is no such message.

    Args:
        roles: by number, the messages of a log.
    """
    newest = max((num for num, role in roles.items() if role == "all"), default=0)
    return newest if any(num > newest for num, role in roles.items() if role == "admit") else None
