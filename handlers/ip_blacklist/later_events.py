"""What later events did while an older one still waited for its download, so that it undoes none of it.

In the end everything is as if the events had been applied in the order of their arrival. Owns the records of
that in the store: they are made only while an older event waits, and dropped with it.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, Final

from agentd.handler import PermanentError
from handlers.ip_blacklist.entries import Entries, Entry, Holes, cut, holes
from handlers.ip_blacklist.options import ENTRIES
from handlers.ip_blacklist.payload import ListOperation, Operation
from handlers.ip_blacklist.ranges import Block

MOST: Final = 2_000
"""Records; an event that is overtaken by more operations than that is refused.

Of too many, the `add` lines are forgotten first, which do not matter to an event that is only about lists.
"""
_KEY: Final = "overtaking"
_FORGOTTEN: Final = "overtaking_forgotten"
_FORGOTTEN_ADDS: Final = "overtaking_forgotten_adds"


class LaterEvents:
    """What was done by events that arrived after this one, but were applied before it.

    Args:
        store: the handler's.
        place: of this event, see `Context`.

    Attributes:
        lists: that were loaded or cleared.
        cleared: whether all entries were.
        replaced: whether everything was that events did: also what they had removed from lists.
        added: CIDRs.
        removed: CIDRs, in order, since everything was replaced.
    """

    def __init__(self, store: MutableMapping[str, Any], place: int) -> None:
        self._store, self._place = store, place
        self.lists: set[str] = set()
        self.cleared = self.replaced = False
        self.added: set[Block] = set()
        self.removed: list[Block] = []
        for at, verb, what in store.get(_KEY, ()):
            if at > place:
                self._take(verb, what)
        self._gone = holes(self.removed)

    def _take(self, verb: str, what: Any) -> None:  # noqa: ANN401 (any JSON)
        match verb:
            case "list":
                self.lists.add(what)
            case "add":
                self.added.add(Block(*what))
            case "remove":
                self.removed.append(Block(*what))
            case "clear":
                self.cleared = True
            case "replace":
                self.cleared = self.replaced = True
                self.removed.clear()

    def check(self, *, only_lists: bool) -> None:
        """Raise PermanentError if what was done later is not known any more.

        Args:
            only_lists: whether this event leaves the entries alone.
        """
        forgotten = (_FORGOTTEN,) if only_lists else (_FORGOTTEN, _FORGOTTEN_ADDS)
        if any(self._store.get(key, 0) > self._place for key in forgotten):
            raise PermanentError(
                f"more than {MOST} operations of later events overtook it while it waited: fire it again"
            )

    def add(self, current: Entries, entry: Entry) -> None:
        """Add an entry of this event to `current`, which may be long, so it is changed itself."""
        if not self.cleared and entry.block not in self.added:
            current.pop(entry.block, None)
            current.update(cut({entry.block: entry}, self._gone))

    def remove(self, current: Entries, gone: Holes) -> Entries:
        """The entries after what this event removes."""
        kept = {block: current[block] for block in self.added if block in current}
        others = {block: entry for block, entry in current.items() if block not in kept} if kept else current
        return cut(others, gone) | kept

    def clear(self, current: Entries) -> Entries:
        """The entries after this event's `clear entries`."""
        return {block: entry for block, entry in current.items() if block in self.added}

    def record(
        self, operations: Iterable[tuple[Sequence[str], Operation | ListOperation]], overtakes: int | None
    ) -> None:
        """Note what this event does, if an older one waits; drop what nobody needs any more.

        Args:
            operations: each with the lists that it is about.
            overtakes: see `Context`.
        """
        oldest = self._place if overtakes is None else overtakes
        records = [record for record in self._store.get(_KEY, ()) if record[0] > oldest]
        if overtakes is not None:
            records += [[self._place, *done] for lists, one in operations for done in _records(lists, one)]
        if len(records) > MOST:
            self._forget(_FORGOTTEN_ADDS, [one for one in records if one[1] == "add"])
            records = [one for one in records if one[1] != "add"]
        self._forget(_FORGOTTEN, records[:-MOST])
        self._store[_KEY] = records[-MOST:]
        for key in (_KEY, _FORGOTTEN, _FORGOTTEN_ADDS):
            known = self._store.get(key)
            if not known or (key != _KEY and known <= oldest):
                self._store.pop(key, None)

    def _forget(self, key: str, records: Sequence[Sequence[Any]]) -> None:
        if records:
            self._store[key] = max(record[0] for record in records)


def _records(lists: Sequence[str], operation: Operation | ListOperation) -> list[list[Any]]:
    if isinstance(operation, Operation):
        return [[operation.verb, list(operation.block)]]
    if operation.verb == "replace":
        return [["replace", ""], *(["list", name] for name in lists if name not in ("", ENTRIES))]
    return [["clear", ""] if name == ENTRIES else ["list", name] for name in lists]
