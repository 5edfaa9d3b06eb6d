"""Folds the differences of a fleet, so that a thousand nodes with one trouble make one line. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from agentd.fleet.standing import Difference, Trouble


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes for which the same is wrong.

    Attributes:
        trouble: what kind of trouble.
        subject: the name of the log, or the handler; "" for nodes as a whole.
        nodes: their names, sorted.
        text: why, with what is known of all of them; may be "".
    """

    trouble: Trouble
    subject: str
    nodes: tuple[str, ...]
    text: str


def grouped(differences: Iterable[Difference], most: int | None = None) -> Iterator[Group]:
    """One group for each trouble and reason, the most frequent reason of a trouble first.

    Args:
        differences: worst first, as in `Standing`.
        most: so many reasons for each trouble, and one group for all others; None: no limit.
    """
    for trouble, those in groupby(differences, key=lambda one: one.trouble):
        groups: dict[tuple[str, str], list[Difference]] = {}
        for one in those:
            groups.setdefault((one.subject, one.text), []).append(one)
        largest = sorted(groups.items(), key=lambda one: (-len({each.node for each in one[1]}), one[0]))
        yield from (_group(trouble, subject, same, text) for (subject, text), same in largest[:most])
        if most is not None and (rest := largest[most:]):
            others = [one for _, same in rest for one in same]
            yield _group(trouble, "", others, f"for {len(rest)} other reasons: see --json")


def _group(trouble: Trouble, subject: str, same: Sequence[Difference], text: str) -> Group:
    nodes = tuple(sorted({one.node for one in same}))
    return Group(trouble, subject, nodes, "; ".join(filter(None, (_gone(same), text, _held(subject, same)))))


def _gone(same: Sequence[Difference]) -> str:
    """For how many days these nodes have been missing from the catalogue."""
    days = {one.gone for one in same if one.gone}
    if not days:
        return ""
    few, many = min(days), max(days)
    return (
        f"gone for {few} to {many} days"
        if few != many
        else "gone for 1 day"
        if few == 1
        else f"gone for {few} days"
    )


def _held(subject: str, same: Sequence[Difference]) -> str:
    """The number that these nodes have in force."""
    numbers = {one.live for one in same if one.live is not None}
    if not subject or not numbers:
        return ""
    if len(numbers) == 1:
        return f"has {min(numbers)}"
    return f"has {min(numbers)} to {max(numbers)}"
