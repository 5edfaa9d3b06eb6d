"""What later events did while an older one still waited for its download, so that it undoes none of it.

In the end everything is as if the events had been applied in the order of their arrival. Owns the records of
that in the store: they are made only while an older event waits, and dropped with it.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any, Final

from agentd.handler import PermanentError
from handlers.ip_blacklist import entries
from handlers.ip_blacklist.entries import Entries
from handlers.ip_blacklist.options import ENTRIES
from handlers.ip_blacklist.payload import ListOperation, Operation
from handlers.ip_blacklist.ranges import Block

MOST: Final = 2_000
"""Records; an event that is overtaken by more operations than that is refused."""
_KEY: Final = "overtaking"
_FORGOTTEN: Final = "overtaking_forgotten"


class LaterEvents:
    """What was done by events that arrived after this one, but were applied before it.

    Args:
        store: the handler's.
        place: of this event, see `Context`.

    Attributes:
        lists: that were loaded or cleared.
        cleared: whether all entries were.
        added: CIDRs.
        removed: as operations, in order.
    """

    def __init__(self, store: MutableMapping[str, Any], place: int) -> None:
        self._store, self._place = store, place
        found = [record for at, *record in store.get(_KEY, ()) if at > place]
        self.lists = {what for verb, what in found if verb == "list"}
        self.cleared = any(verb == "clear" for verb, _ in found)
        self.added = {Block(*what) for verb, what in found if verb == "add"}
        self.removed = [Operation("remove", Block(*what)) for verb, what in found if verb == "remove"]

    def check(self) -> None:
        """Raise PermanentError if what was done later is not known any more."""
        if self._store.get(_FORGOTTEN, 0) > self._place:
            raise PermanentError(
                f"more than {MOST} operations of later events overtook it while it waited: fire it again"
            )

    def apply(self, current: Entries, operation: Operation, now: float, change: str) -> Entries:
        """The entries after an operation of this event; an `add` changes `current`, which may be long."""
        if operation.verb == "add":
            if not self.cleared and operation.block not in self.added:
                current.pop(operation.block, None)
                current.update(entries.apply({}, [operation, *self.removed], now, change))
            return current
        kept = {block: current[block] for block in self.added if block in current}
        others = {block: entry for block, entry in current.items() if block not in kept} if kept else current
        return entries.apply(others, [operation], now, change) | kept

    def clear(self, current: Entries) -> Entries:
        """The entries after this event's `clear entries`."""
        return {block: entry for block, entry in current.items() if block in self.added}

    def record(
        self, operations: Iterable[tuple[str, Operation | ListOperation]], overtakes: int | None
    ) -> None:
        """Note what this event does, if an older one waits; drop what nobody needs any more.

        Args:
            operations: each with the list that it is about, "" for none.
            overtakes: see `Context`.
        """
        oldest = self._place if overtakes is None else overtakes
        records = [record for record in self._store.get(_KEY, ()) if record[0] > oldest]
        if overtakes is not None:
            records += [[self._place, *_record(name, one)] for name, one in operations]
        if gone := records[:-MOST]:
            self._store[_FORGOTTEN] = max(record[0] for record in gone)
        if records:
            self._store[_KEY] = records[-MOST:]
        else:
            self._store.pop(_KEY, None)
            self._store.pop(_FORGOTTEN, None)


def _record(name: str, operation: Operation | ListOperation) -> list[Any]:
    if isinstance(operation, Operation):
        return [operation.verb, list(operation.block)]
    return ["clear", ""] if name == ENTRIES else ["list", name]
