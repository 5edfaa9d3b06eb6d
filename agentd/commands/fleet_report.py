"""Prints what `agentd fleet` shows: the differences, worst first, and the rest in one line.

Owns how a thousand nodes fit on one screen: nodes with the same trouble share a line, and lists end in a
count. In a pipe nothing is cut, so that `grep` finds every node. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from agentd.commands.output import Output, moment, one_line, shortened, span, universal
from agentd.fleet.freeze import Freeze
from agentd.fleet.groups import Group, grouped
from agentd.fleet.reading import Reading

_COLUMNS: Final = ("TROUBLE", "NODES", "SUBJECT", "WHICH", "WHY")
_NAMES: Final = ("NAME", "NEWEST", "IN FORCE ON", "AGE", "PUBLISHED", "BY")
_WIDE: Final = 100  # characters of a screen that has room for a date
_LINES: Final = 4  # per trouble: as many reasons, and one line for all others
_SUBJECT: Final = 24  # characters, on a screen that is wide enough
_WHICH: Final = 40
_LEAST: Final = 16  # characters of a column, however narrow the screen
_BY: Final = 60
_VIA: Final = {"event": "an event", "publish": "publish", "again": "publish --again"}


def document(found: Reading) -> dict[str, Any]:
    """The whole reading as JSON types."""
    standing = found.standing
    nodes = {one.node: one for one in found.members}
    return {
        "fleet": found.fleet,
        "now": found.now,
        "frozen": asdict(found.freeze) if found.freeze else None,
        "nodes": len(standing.nodes),
        "differences": [asdict(one) for one in standing.differences],
        "agreeing": list(standing.agreeing),
        "names": [_name(name, found) for name in found.names],
        "documents": {
            node: asdict(told) for node in standing.nodes if (told := nodes[node].document) is not None
        },
        "notes": list(found.notes),
    }


def _name(name: str, found: Reading) -> dict[str, Any]:
    newest = found.newest.get(name)
    head = found.heads.heads.get(name)
    confirmed, there = found.standing.confirmed.get(name, (0, 0))
    return {
        "name": name,
        "keep": head.keep if head else None,
        "newest": newest.num if newest else None,
        "issued": newest.issued if newest else None,
        "expires": newest.expires if newest else None,
        "for": there,
        "confirmed": confirmed,
        "publisher": newest.publisher if newest else None,
        "via": newest.source if newest else None,
        "rollout": (newest.rollout or None) if newest else None,
        "released": head.released if head else None,
        "live": [
            {"num": num, "nodes": count}
            for num, count in sorted(found.standing.live.get(name, {}).items(), key=lambda one: one[0] or 0)
        ],
    }


# ---------------------------------------------------------------- for a person


def show(found: Reading, output: Output) -> None:
    """Print it."""
    standing = found.standing
    differing = len(standing.nodes) - len(standing.agreeing)
    many = "1 node" if len(standing.nodes) == 1 else f"{len(standing.nodes)} nodes"
    verdict = f"{differing} of them {'differs' if differing == 1 else 'differ'}" if differing else "all agree"
    output.line(f"{found.fleet}: {many}, {verdict if standing.nodes else 'so there is nothing to compare'}")
    if found.freeze:
        output.line(_frozen(found.freeze), "yellow")
    for note in found.notes:
        output.line(f"! {note}", "yellow")
    width = output.width
    if standing.differences:
        output.line()
        rows = _rows(grouped(standing.differences, None if width is None else _LINES))
        if width is None:  # the names come last, as there may be a thousand of them
            names_last = [[*row[:3], row[4], ", ".join(row[3])] for row in rows]
            output.table([*_COLUMNS[:3], _COLUMNS[4], _COLUMNS[3]], names_last)
        else:
            output.table(_COLUMNS, _fitted(rows, width))
    if standing.agreeing and differing:
        output.line()
        some = ", ".join(standing.agreeing)
        if width is not None:
            some = listed(standing.agreeing, max(_LEAST, width - 18))
        output.line(f"{len(standing.agreeing)} agree: {some}", "green")
    names = found.names
    if names:
        output.line()
        wide = width is None or width >= _WIDE
        shown = [
            at for at in range(len(_NAMES)) if wide or _NAMES[at] != "PUBLISHED"
        ]  # the age is there as well
        rows = [_row(one, found, None if width is None else _BY) for one in names]
        output.table([_NAMES[at] for at in shown], [[row[at] for at in shown] for row in rows])


def _frozen(freeze: Freeze) -> str:
    until = f", until {universal(freeze.until)}" if freeze.until else ""
    why = f": {freeze.reason}" if freeze.reason else ""
    since = universal(freeze.since)
    return f"FROZEN by {freeze.publisher} since {since}{until} (UTC){why}; end it: `agentd thaw`"


def _row(name: str, found: Reading, most: int | None) -> list[object]:
    newest = found.newest.get(name)
    current, there = found.standing.confirmed.get(name, (0, 0))
    if newest is None:
        return [name, None, f"- of {there}", None, None, found.heads.unreadable.get(name)]
    age = None if newest.issued is None else span(max(0.0, found.now - newest.issued))
    by = f"{newest.publisher}, {_VIA.get(newest.source, newest.source)}" if newest.source else None
    if newest.rollout:
        by = f"rollout open: {by}"
    why = found.heads.unreadable.get(name)
    return [
        name,
        newest.num or None,
        f"{current} of {there}",
        age,
        moment(newest.issued),
        why or by if most is None else shortened(one_line(why or by), most),
    ]


def _rows(groups: Iterable[Group]) -> list[list[Any]]:
    return [[one.trouble, len(one.nodes), one.subject, one.nodes, one.text] for one in groups]


def _fitted(rows: Sequence[Sequence[Any]], width: int) -> list[list[object]]:
    """Subject, names and reason cut so that a line fits."""
    names = max(_LEAST, min(_WHICH, width // 3))
    subject = max(8, min(_SUBJECT, width // 6))
    made = [
        [one[0], one[1], shortened(one_line(one[2]), subject), listed(one[3], names), one[4]] for one in rows
    ]
    used = sum(max(len(_COLUMNS[at]), *(len(str(row[at])) for row in made)) + 2 for at in range(4))
    for row in made:
        row[4] = shortened(one_line(row[4]), max(_LEAST, width - used))
    return made


def listed(nodes: Sequence[str], room: int) -> str:
    """As many names as fit, at least one, and how many more there are."""
    shown: list[str] = []
    used = 0
    for at, node in enumerate(nodes):
        name = shortened(node, max(_LEAST, room))
        left = len(nodes) - at - 1
        ending = len(f" and {left} more") if left else 0
        if shown and used + len(name) + 2 + ending > room:
            return f"{', '.join(shown)} and {left + 1} more"
        shown.append(name)
        used += len(name) + 2 * (at > 0)
    return ", ".join(shown)
