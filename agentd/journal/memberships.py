"""The fleets of which this node may still have something in Consul.

A membership is recorded before anything is written to Consul, and removed once nothing is left there. So a
node leaves a fleet that was removed from its configuration even if agentd or Consul was down at the time.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Final

from agentd.errors import JournalError
from agentd.journal.journal import Journal
from agentd.journal.rows import parsed

_ROW: Final = "fleet memberships"


@dataclass(frozen=True, slots=True)
class Membership:
    """A fleet, its home datacenter, and this node's name in it."""

    fleet: str
    datacenter: str
    node: str


class Memberships:
    """The memberships in a journal; any thread may call any method.

    Raises:
        JournalError: from every method, if the file cannot be read or written.
    """

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database

    def every(self) -> list[Membership]:
        """Every membership, oldest first."""
        rows = self._database.rows("SELECT body FROM watched WHERE query = ?", _ROW)
        try:
            return [Membership(*map(str, one)) for row in rows for one in parsed(row["body"])]
        except TypeError as error:
            raise JournalError("the fleet memberships of this node cannot be read") from error

    def add(self, one: Membership) -> None:
        """Record a membership, unless it is recorded."""
        if one not in (known := self.every()):
            self._write([*known, one])

    def remove(self, one: Membership) -> None:
        """Remove a membership."""
        self._write([each for each in self.every() if each != one])

    def _write(self, every: list[Membership]) -> None:
        with self._database.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO watched VALUES (?, ?)", (_ROW, json.dumps([*map(astuple, every)]))
            )
