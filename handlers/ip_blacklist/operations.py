"""The lines of an event: which list each is about, and what they do, all together or not at all.

Owns the order of what one event does, and what a later event spares an older one. Downloads go on beside the
attempt; `later_events` keeps those that end late from undoing what was done meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentd.handler import Context, Event, PermanentError, Task
from handlers.ip_blacklist.entries import Entries
from handlers.ip_blacklist.feeds import Feeds
from handlers.ip_blacklist.later_events import LaterEvents
from handlers.ip_blacklist.lists import Lists, Version
from handlers.ip_blacklist.options import DEFAULT, ENTRIES, BlacklistOptions
from handlers.ip_blacklist.payload import ListOperation, Operation, parse_payload
from handlers.ip_blacklist.ranges import format_address


class _Line(NamedTuple):
    """An operation, with the list and the reference that it is about; "" for none."""

    operation: Operation | ListOperation
    list: str = ""
    reference: str = ""


class Operations:
    """The operations of one event.

    Args:
        change: the event.
        operations: its lines.
        context: of the attempt.
        options: of the blacklist.
        lists: in force.
        feeds: that are fetched on schedule.

    Raises:
        PermanentError: a line names a list or a reference that there is not, or must not be, or it is not
            known any more what overtook the event.
    """

    def __init__(
        self,
        change: Event,
        operations: Sequence[Operation | ListOperation],
        context: Context,
        options: BlacklistOptions,
        lists: Lists,
        feeds: Feeds,
    ) -> None:
        self._change, self._context, self._lists, self._feeds = change, context, lists, feeds
        self._lines = [_line(one, options) for one in operations]
        self._later = LaterEvents(context.store, context.place)
        self._later.check()
        for line in self._lines:
            if line.operation.verb == "load":
                context.fetch.permitted(line.reference)

    def apply(self, current: Entries, *, force: bool) -> Entries:
        """The entries after all lines; what they do to lists is staged.

        Raises:
            UnderWay: a list is not there yet.
            PermanentError, TemporaryError: it cannot be fetched, or a guard refuses it.
        """
        downloads = self._downloads(force=force)
        for number, line in enumerate(self._lines, start=1):
            if isinstance(line.operation, Operation):
                current = self._operate(line.operation, current)
            elif line.list == ENTRIES:
                current = self._later.clear(current)
            elif line.list in self._later.lists:
                self._context.log.info("blacklist.overtaken", list=line.list, line=line.operation.verb)
            else:
                self._feeds.overtaken(line.list, self._context.now)
                if line.operation.verb == "clear":
                    self._lists.clear(line.list)
                else:
                    self._bring(line, downloads[number].result(), force=force)
        return current

    def record(self) -> None:
        """Have older events that still wait know what was done."""
        self._later.record([(line.list, line.operation) for line in self._lines], self._context.overtakes)

    def _downloads(self, *, force: bool) -> dict[int, Task[Version | None]]:
        """Those of all lines, by number, under way at the same time."""
        return {
            number: self._context.task(
                f"load {line.list} (line {number})",
                self._lists.fetching(line.list, line.reference, force=force),
            )
            for number, line in enumerate(self._lines, start=1)
            if line.operation.verb == "load" and line.list not in self._later.lists
        }

    def _bring(self, line: _Line, version: Version | None, *, force: bool) -> None:
        """Bring a list into force."""
        if version is None:
            raise TypeError("a load does not ask whether there is a newer version")
        made = self._lists.judged(line.list, version, line.reference, self._change.id, force=force)
        self._lists.replace(line.list, version, made)
        if made.overrode:
            self._context.log.warning("blacklist.forced", list=line.list, overrode=list(made.overrode))
        for one in self._later.removed:
            self._lists.remove(one.block, self._later.lists)

    def _operate(self, operation: Operation, current: Entries) -> Entries:
        if self._change.undated and operation.ttl is not None:
            address = format_address(operation.block.bits, operation.block.first)
            self._context.log.info("blacklist.undated", address=address, ttl=operation.ttl)
            return current  # it may be long over; what the tree still holds keeps its own expiry
        if operation.verb == "remove":
            self._lists.remove(operation.block, self._later.lists)
        return self._later.apply(current, operation, self._context.now, self._change.id)


def superseded(waiting: Sequence[Event], options: BlacklistOptions) -> Mapping[str, str]:
    """By ID, the events all of whose lines a later `clear` undoes: they need not be handled, or downloaded.

    Only a later event that cannot fail ends an older one: one of `clear` and `remove` lines.

    Args:
        waiting: in the order of their arrival.
        options: of the blacklist.
    """
    void: dict[str, str] = {}
    cleared: dict[str, str] = {}
    for event in reversed(waiting):
        try:
            lines = [_line(one, options) for one in parse_payload(event.payload, lambda _: None)]
        except PermanentError:
            continue  # it is refused when it is handled
        targets = {ENTRIES if line.operation.verb == "add" else line.list for line in lines}
        if targets <= cleared.keys():
            void[event.id] = cleared[min(targets)]
        elif all(line.operation.verb in ("clear", "remove") for line in lines):
            cleared = {line.list: event.id for line in lines if line.operation.verb == "clear"} | cleared
    return void


def _line(operation: Operation | ListOperation, options: BlacklistOptions) -> _Line:
    if isinstance(operation, Operation):
        return _Line(operation)
    if operation.name == ENTRIES and operation.verb == "clear":
        return _Line(operation, ENTRIES)
    lists = options.every_list
    name = operation.name
    if name is None:
        same = (one for one, its in lists.items() if its.reference == operation.reference)
        name = next(same, DEFAULT)
    if name not in lists:
        raise PermanentError(f"there is no list {name!r}; known lists: {', '.join(sorted(lists))}")
    reference = operation.reference or lists[name].reference
    if reference is None and operation.verb == "load":
        raise PermanentError(f"list {name} has no `reference`; give one: `load {name} REFERENCE`")
    return _Line(operation, name, reference or "")
