"""The page `/fleet`: do all nodes run the same? Differences come first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.freeze import Freeze
from agentd.fleet.groups import Group, grouped
from agentd.fleet.reading import Reading
from agentd.fleet.standing import TROUBLES, Difference
from agentd.page.html import HTML, Content, age, badge, element, facts, local, section, table, told, verdict

MOST_NODES: Final = 1000
"""Most nodes in the table of all, and most that are named for one difference."""
_NAMED: Final = 12  # nodes of a group that are named at once
_REASONS: Final = 4  # per kind of trouble


def content(reading: Reading, here: str | None) -> Iterator[HTML]:
    """The main part.

    Args:
        reading: of the fleet.
        here: this node's name in the fleet, if it is known.
    """
    standing = reading.standing
    differing = len(standing.nodes) - len(standing.agreeing)
    yield element("h1", "Fleet ", told(reading.fleet))
    yield element("p", "As of ", element("time", local(reading.now)), class_="as-of")
    yield _verdict(len(standing.nodes), differing)
    if reading.freeze:
        yield element("p", told(_frozen(reading.freeze)), class_="note")
    for note in reading.notes:
        yield element("p", told(note), class_="note")
    yield facts(_facts(reading, differing))
    if standing.differences:
        yield section("differences", "Differences", _differences(standing.differences))
    yield section("nodes", "Nodes", _nodes(reading, here))
    yield section("names", "Kept names", _names(reading))


def _verdict(nodes: int, differing: int) -> HTML:
    if not nodes:
        return verdict("doubtful", "There is no node to compare")
    if differing:
        return verdict("bad", f"{differing} of {nodes} nodes {'differs' if differing == 1 else 'differ'}")
    return verdict("good", "The only node is as it should be" if nodes == 1 else f"All {nodes} nodes agree")


def _facts(reading: Reading, differing: int) -> Iterator[tuple[str, Content]]:
    standing = reading.standing
    yield "Nodes", len(standing.nodes)
    yield "Agree", len(standing.nodes) - differing
    yield "Differ", differing
    yield "Kept names", len(reading.names)


def _frozen(freeze: Freeze) -> str:
    until = f", until {local(freeze.until)}" if freeze.until else ""
    why = f": {freeze.reason}" if freeze.reason else ""
    return f"Frozen by {freeze.publisher} since {local(freeze.since)}{until}{why}; to end it: `agentd thaw`"


def _differences(differences: Iterable[Difference]) -> HTML:
    rows = [
        (badge(one.trouble), _which(one), told(one.subject) if one.subject else None, told(one.text))
        for one in grouped(differences, _REASONS)
    ]
    return table("The worst first", ("Trouble", "Nodes", "Subject", "Why"), rows, "")


def _which(group: Group) -> HTML:
    """The names of the nodes, of many only some at first, and of very many only some."""
    some, rest = group.nodes[:_NAMED], group.nodes[_NAMED:]
    shown, left = rest[: MOST_NODES - _NAMED], group.nodes[MOST_NODES:]
    named = _listed(some)
    if not rest:
        return named
    more = element("summary", f"and {len(rest)} more")
    identity = f"more-{TROUBLES.index(group.trouble)}-{some[0]}-{group.subject}"
    hidden = f", and {len(left)} more, see `agentd fleet`" if left else None
    return element("div", named, element("details", more, _listed(shown), hidden, id=identity))


def _listed(nodes: Sequence[str]) -> HTML:
    first, *others = map(told, nodes)
    return element("span", first, *(part for one in others for part in (", ", one)))


def _nodes(reading: Reading, here: str | None) -> HTML:
    """All nodes, those in trouble first."""
    worst: dict[str, Difference] = {}
    for one in reading.standing.differences:
        worst.setdefault(one.node, one)
    documents = {one.node: one.document for one in reading.members}
    order = sorted(
        reading.standing.nodes,
        key=lambda node: (TROUBLES.index(worst[node].trouble) if node in worst else len(TROUBLES), node),
    )
    rows = [_node(node, worst.get(node), documents[node], reading.now, here) for node in order[:MOST_NODES]]
    left = len(order) - len(rows)
    hidden = f"; {left} more are not shown, see `agentd fleet`" if left else ""
    caption = f"Those that differ come first{hidden}"
    columns = ("Node", "State", "Generation", "Acknowledged", "agentd")
    return table(caption, columns, rows, "No node acknowledges, and Consul knows none.")


def _node(
    node: str, worst: Difference | None, document: Acknowledgement | None, now: float, here: str | None
) -> Sequence[Content]:
    name = element("span", told(node), element("span", " this node", class_="here") if node == here else None)
    state = badge(worst.trouble if worst else "agrees")
    if document is None:
        return (name, state, None, None, None)
    return (name, state, document.generation or None, age(document.written, now), told(document.agentd))


def _names(reading: Reading) -> HTML:
    rows = []
    for name in reading.names:
        newest = reading.newest.get(name)
        current, there = reading.standing.confirmed.get(name, (0, 0))
        note = reading.heads.unreadable.get(name, "")
        rows.append(
            (
                told(name),
                newest.num if newest and newest.num else None,
                badge("current" if newest and current >= there else "behind" if newest else "no message"),
                f"{current} of {there}" if newest else None,
                age(newest.issued, reading.now) if newest else None,
                told(note or (newest.publisher if newest else "")),
            )
        )
    columns = ("Name", "Newest", "State", "In force on", "Published", "By")
    caption = "The newest message of each, and how many nodes have it in force"
    return table(caption, columns, rows, "No name is kept.")
