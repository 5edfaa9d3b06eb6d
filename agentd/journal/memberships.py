"""Of which fleets this node may still have something in Consul.

A membership is recorded before anything of it is written there, and forgotten once nothing is left. So a node
leaves a fleet that was taken out of its configuration even if agentd was stopped, or Consul away, meanwhile.
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
    """As which node of which fleet, and that fleet's home datacenter."""

    fleet: str
    datacenter: str
    node: str


class Memberships:
    """The memberships in a journal; any thread may call.

    Raises:
        JournalError: from every method, when the file cannot be read or written.
    """

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database

    def every(self) -> list[Membership]:
        """All of them, the oldest first."""
        rows = self._database.rows("SELECT body FROM watched WHERE query = ?", _ROW)
        try:
            return [Membership(*map(str, one)) for row in rows for one in parsed(row["body"])]
        except TypeError as error:
            raise JournalError("what is kept of the fleets of this node cannot be read") from error

    def add(self, one: Membership) -> None:
        """Record one, if it is not."""
        if one not in (known := self.every()):
            self._write([*known, one])

    def remove(self, one: Membership) -> None:
        """Forget one."""
        self._write([each for each in self.every() if each != one])

    def _write(self, every: list[Membership]) -> None:
        with self._database.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO watched VALUES (?, ?)", (_ROW, json.dumps([*map(astuple, every)]))
            )
