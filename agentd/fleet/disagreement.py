"""Finds nodes whose results differ from those of nodes with the same options and the same messages.

Owns the choice of whom a node is compared with, and which side counts as wrong. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentd.fleet.past import Compared, Stay, began, compare, latest, stays

SETTLED: Final = 30.0
"""Seconds for which like nodes may differ, since timed work does not run on all of them at once."""
_MOST_CAMPS: Final = 8  # groups of agreeing nodes to distinguish


@dataclass(frozen=True, slots=True)
class Lived:
    """The past of a handler on one node.

    Attributes:
        node: the node's name.
        past: see `agentd.fleet.past`.
        until: unix time up to which its current state is known to have lasted.
    """

    node: str
    past: str
    until: float

    def stays(self) -> list[Stay]:
        """The states of its past."""
        return stays(self.past, self.until)

    def compared(self, reference: Sequence[Stay]) -> Compared:
        """Compare it with another node."""
        return compare(self.stays(), reference)


@dataclass(slots=True)
class _Camp:
    """Nodes that are not known to disagree with the first one.

    Attributes:
        first: the node with which the others are compared.
        nodes: all of them, including the first.
        size: how many of them are known to agree with it.
    """

    first: Lived
    nodes: list[Lived]
    size: int = 0


def disagreeing(alike: Iterable[Lived]) -> Iterator[tuple[str, str]]:
    """Yield the nodes that disagree with the majority, each with a sentence; without a majority, all of them.

    Args:
        alike: nodes on which one handler has the same options.
    """
    camps = list(_camps([one for one in alike if latest(one.past)]))
    if len(camps) < 2:  # noqa: PLR2004 (two that differ)
        return
    camps.sort(key=lambda one: one.size, reverse=True)
    right, second = camps[:2]
    tied = right.size == second.size
    for camp in camps:
        if camp is right and not tied:
            continue
        reference = (second if camp is right else right).first.stays()
        for one in camp.nodes:
            found = one.compared(reference)
            if found.differing >= SETTLED:
                others = (
                    "others on nodes like it" if tied else f"{found.theirs} on {right.size} nodes like it"
                )
                yield one.node, f"its state is {found.ours}, but {others}"


def _camps(nodes: Sequence[Lived]) -> Iterator[_Camp]:
    left = list(nodes)
    for _ in range(_MOST_CAMPS):
        if not left:
            return
        camp, left = _split(left)
        yield camp
    if left:
        yield _Camp(left[0], left)


def _split(nodes: Sequence[Lived]) -> tuple[_Camp, list[Lived]]:
    """Separate the nodes that disagree with the most common state from the others."""
    at: dict[tuple[str, str] | None, list[Lived]] = defaultdict(list)
    for one in nodes:
        at[latest(one.past)].append(one)
    oldest = {state: min(those, key=lambda one: began(one.past)) for state, those in at.items()}
    # Of equally common ones the oldest, as only the times that both nodes have lived through are compared.
    state = max(at, key=lambda one: (len(at[one]), -began(oldest[one].past)))
    most = at[state]
    camp, others = _Camp(oldest[state], [*most], len(most)), list[Lived]()
    reference = camp.first.stays()
    for one in (each for those in at.values() if those is not most for each in those):
        found = one.compared(reference)
        if found.differing >= SETTLED:
            others.append(one)
        else:
            camp.nodes.append(one)
            camp.size += found.agreed
    return camp, others
