"""The record of nodes that were missing from Consul's catalogue: how often they were looked for in vain.

Owns its form in Consul's KV store, and its bounds: whoever may write there chose every byte. `gone.py` writes
it, and says what it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentd.errors import FleetError
from agentd.fleet.document import check_shape, is_time, read_document, render_document
from agentd.fleet.keys import is_node

MOST: Final = 500
"""Nodes that are recorded; others have their turn once some of these are removed."""
_DAY: Final = 86400.0
_LARGEST: Final = 256 * 1024
_FORMATS: Final = range(1, 2)
_WHAT: Final = "the record of absent nodes"
_HIGHEST: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Absence:
    """One node that Consul does not know.

    Attributes:
        index: ModifyIndex of its document: with another one the node has acknowledged in the meantime.
        looks: how often it was missing, a day apart.
    """

    index: int
    looks: int = 1

    @property
    def days(self) -> int:
        """For how many days, at least, it has been missing."""
        return self.looks - 1


@dataclass(frozen=True, slots=True)
class Absences:
    """All of them.

    Attributes:
        looked: unix time of the last look.
        nodes: node -> its absence.
    """

    looked: float = 0.0
    nodes: Mapping[str, Absence] = field(default_factory=dict)

    def is_due(self, now: float) -> bool:
        """Whether the last look was a day ago; no clock is a day ahead, so such a time is junk."""
        return abs(now - self.looked) >= _DAY

    def render(self) -> bytes:
        """As it lies in Consul."""
        nodes = {node: [one.index, one.looks] for node, one in sorted(self.nodes.items())[:MOST]}
        return render_document({"format": 1, "looked": round(self.looked), "nodes": nodes})


def parse_absences(raw: bytes) -> Absences:
    """Read it; what cannot be read counts as never written, so that looking begins anew."""
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
