"""The record of how often nodes were missing from Consul's catalogue; `gone.py` writes it and says why.

Owns its form in Consul's KV store and its limits, since anybody with write access chooses every byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentd.errors import FleetError
from agentd.fleet.document import check_shape, is_time, read_document, render_document
from agentd.fleet.keys import is_node

MOST: Final = 500
"""Most nodes to record; others follow once some of these are removed."""
_DAY: Final = 86400.0
_LARGEST: Final = 256 * 1024
_FORMATS: Final = range(1, 2)
_WHAT: Final = "the record of absent nodes"
_HIGHEST: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Absence:
    """One missing node.

    Attributes:
        index: ModifyIndex of its document; if that changes, the node has acknowledged again.
        looks: how often it was missing, in checks a day apart.
    """

    index: int
    looks: int = 1

    @property
    def days(self) -> int:
        """For how many days at least it has been missing."""
        return self.looks - 1


@dataclass(frozen=True, slots=True)
class Absences:
    """All missing nodes.

    Attributes:
        looked: unix time of the last check.
        nodes: node -> its absence.
    """

    looked: float = 0.0
    nodes: Mapping[str, Absence] = field(default_factory=dict)

    def is_due(self, now: float) -> bool:
        """Whether the last check was a day ago. A time more than a day ahead is junk, and counts as due."""
        return abs(now - self.looked) >= _DAY

    def render(self) -> bytes:
        """The document for Consul."""
        nodes = {node: [one.index, one.looks] for node, one in sorted(self.nodes.items())[:MOST]}
        return render_document({"format": 1, "looked": round(self.looked), "nodes": nodes})


def parse_absences(raw: bytes) -> Absences:
    """Parse the record; a malformed one counts as missing, so that counting starts over."""
    try:
        value = read_document(raw, largest=_LARGEST, formats=_FORMATS, what=_WHAT)
        check_shape(value, {"looked": is_time, "nodes": _are_nodes}, _WHAT)
    except FleetError:
        return Absences()
    return Absences(float(value["looked"]), {node: Absence(*one) for node, one in value["nodes"].items()})


def _are_nodes(value: object) -> bool:
    return isinstance(value, dict) and all(is_node(node) and _is_absence(one) for node, one in value.items())


def _is_absence(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2  # noqa: PLR2004 (index and looks)
        and all(type(one) is int and 0 < one < _HIGHEST for one in value)
    )
