"""How many nodes of a fleet have confirmed a message, and how that is shown.

Owns the progress on standard error, since standard output belongs to the command, and the table at the end.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, TextIO

from agentd.commands.output import Output, shortened, span
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.fleet.newest import Newest
    from agentd.fleet.standing import Member, Progress

MOST_TOLD: Final = 10
"""Most nodes that refuse, and most reasons, to show to a person."""
_ERASE: Final = "\r\033[K"


@dataclass(frozen=True, slots=True)
class Tally:
    """How many nodes have confirmed, refused, or are waiting; `needed` confirmations are enough."""

    confirmed: tuple[Progress, ...]
    refused: tuple[Progress, ...]
    waiting: tuple[Progress, ...]
    quorum: float

    @property
    def nodes(self) -> int:
        """The number of nodes that count."""
        return len(self.confirmed) + len(self.refused) + len(self.waiting)

    @property
    def needed(self) -> int:
        """The number of nodes that must confirm."""
        return max(1, math.ceil(self.quorum * self.nodes - 1e-9))  # 0.07 * 100 is a little more than 7

    @property
    def enough(self) -> bool:
        """Whether enough have confirmed."""
        return len(self.confirmed) >= self.needed

    @property
    def hopeless(self) -> bool:
        """Whether enough no longer can."""
        return len(self.confirmed) + len(self.waiting) < self.needed

    @property
    def held(self) -> bool:
        """Whether enough cannot unless somebody resumes a handler, or thaws the fleet."""
        able = sum(not one.held for one in self.waiting)
        return len(self.confirmed) + able < self.needed


def tally(members: Sequence[Member], newest: Newest, now: float, quorum: float) -> Tally:
    """Count; `now` is the time of publishing, since the message may expire during the wait."""
    from agentd.fleet.standing import progress, takers  # noqa: PLC0415 (parsing does without)

    found = sorted((progress(one, newest) for one in takers(members, newest, now)), key=lambda one: one.node)
    states = {
        state: tuple(one for one in found if one.state == state)
        for state in ("confirmed", "refused", "waiting")
    }
    return Tally(states["confirmed"], states["refused"], states["waiting"], quorum)


class Teller:
    """Shows progress on standard error: on a terminal in one line, otherwise only final results.

    Args:
        stream: standard error.
        what: is being waited for.
        quiet: whether to show nothing, since a program reads.
    """

    def __init__(self, stream: TextIO, what: str, *, quiet: bool) -> None:
        self._stream = stream
        self._what = what
        self._quiet = quiet
        self._live = stream.isatty() and not quiet
        self._told: set[str] = set()

    def tell(self, found: Tally) -> None:
        """Show how far the nodes are now."""
        for one in found.refused:
            if one.node not in self._told and len(self._told) < MOST_TOLD and not self._quiet:
                self._told.add(one.node)
                line = printable(f"{one.node}: {one.reason}")
                self._write(f"{_ERASE if self._live else ''}agentd: {line}\n")
        for reason in sorted({one.reason for one in found.waiting if one.held} - self._told):
            if len(self._told) < MOST_TOLD and not self._quiet:
                self._told.add(reason)
                nodes = [one.node for one in found.waiting if one.reason == reason]
                more = f" and {len(nodes) - 1} more" if nodes[1:] else ""
                line = printable(f"{nodes[0]}{more}: {reason}")
                self._write(f"{_ERASE if self._live else ''}agentd: {line}\n")
        if self._live:
            waits = ", ".join(f"{one.node} ({one.reason})" for one in found.waiting[:3])
            line = f"{self._what}: {len(found.confirmed)} of {found.nodes}"
            line += f"; waits for {waits}" if waits else ""
            self._write(f"{_ERASE}{shortened(printable(line), shutil.get_terminal_size().columns - 1)}")

    def finish(self) -> None:
        """Leave the line to others."""
        if self._live:
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def print_tally(found: Tally, newest: Newest, took: float, output: Output) -> None:
    """Print how far the nodes are at the end of the wait, which took so many seconds."""
    if not found.nodes:
        output.line(f"{newest.name} {newest.num} is for none of the nodes that acknowledge.", "red")
        return
    enough = "" if found.needed == found.nodes else f" ({found.needed} are enough)"
    text = f"{newest.name} {newest.num}: in force on {len(found.confirmed)} of {found.nodes} nodes{enough}"
    output.line(f"{text} after {span(took)}", "green" if found.enough else "red")
    print_others(found, output)


def print_others(found: Tally, output: Output) -> None:
    """Print which nodes have not confirmed, and why; and what else there is to know of those that have."""
    from agentd.commands.fleet_report import listed  # noqa: PLC0415 (as above)

    rows = []
    remarks = (one for one in found.confirmed if one.reason)
    others = sorted((*found.refused, *found.waiting, *remarks), key=lambda one: (one.state, one.reason))
    for (state, reason), same in groupby(others, key=lambda one: (one.state, one.reason)):
        nodes = [one.node for one in same]
        rows.append([state, len(nodes), listed(nodes, 40), reason])
    if rows:
        output.table(("STATE", "NODES", "WHICH", "WHY"), rows[:MOST_TOLD])
    if rows[MOST_TOLD:]:
        output.line(f"... and {len(rows) - MOST_TOLD} other reasons: see --json")
