"""The lines of an event: which lists each is about, and what they do, all together or not at all.

Owns the order of what one event does, and what a later event spares an older one. Downloads go on beside the
attempt; `later_events` keeps those that end late from undoing what was done meanwhile.

A message of the fleet's log must leave all nodes alike, whenever each of them comes to it. So an entry whose
time is over then still replaces the one that was there, and is gone with it; a snapshot begins with
`replace`; and a message that expires, of which a later node never hears, may only add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from agentd.handler import Context, Event, Message, PermanentError, Task
from handlers.ip_blacklist import entries
from handlers.ip_blacklist.entries import Entries
from handlers.ip_blacklist.feeds import Feeds
from handlers.ip_blacklist.later_events import LaterEvents
from handlers.ip_blacklist.lists import Lists, Version
from handlers.ip_blacklist.options import DEFAULT, ENTRIES, BlacklistOptions
from handlers.ip_blacklist.origin import Origin
from handlers.ip_blacklist.payload import ListOperation, Operation, parse_payload
from handlers.ip_blacklist.ranges import Block, format_address

_REMOVED: Final = ""
"""Among the names of lists: what `remove` has done to entries and lists."""
_ADVICE: Final = "the log forgets them after 7 days: put them in a list, or publish a snapshot now and then"


class _Line(NamedTuple):
    """An operation, with the lists and the reference that it is about; "" for none."""

    operation: Operation | ListOperation
    lists: tuple[str, ...]
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

    Attributes:
        added: the blocks that it has added so far.

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
        self._origin = Origin.of(change, context.now)
        self._lines = [_line(one, options) for one in operations]
        if change.message:
            _check(change.message, operations)
        self._later = LaterEvents(context.store, context.place)
        self._later.check(only_lists=not any({ENTRIES, _REMOVED} & set(line.lists) for line in self._lines))
        self.added: set[Block] = set()
        self._over: list[Block] = []
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
        for removes, lines in groupby(enumerate(self._lines, start=1), key=_removes):
            if removes:
                current = self._remove([line.operation for _, line in lines], current)
                continue
            for number, line in lines:
                if isinstance(line.operation, Operation):
                    self._add(line.operation, current)
                elif line.operation.verb == "replace":
                    current = self._replace(line, current)
                elif ENTRIES in line.lists:
                    current = self._later.clear(current)
                else:
                    self._change_list(line, downloads.get(number), force=force)
        self._tell()
        return entries.expire(current, self._context.now) if self._over else current

    def record(self) -> None:
        """Have older events that still wait know what was done."""
        self._later.record([(line.lists, line.operation) for line in self._lines], self._context.overtakes)

    def _downloads(self, *, force: bool) -> dict[int, Task[Version | None]]:
        """Those of all lines, by number, under way at the same time.

        One that was overtaken is only spared if nothing else depends on whether the event is refused for it.
        """
        spared = self._later.lists if all(self._later.lists >= {*line.lists} for line in self._lines) else ()
        return {
            number: self._context.task(
                f"load {line.lists[0]} (line {number})",
                self._lists.fetching(line.lists[0], line.reference, force=force),
            )
            for number, line in enumerate(self._lines, start=1)
            if line.operation.verb == "load" and line.lists[0] not in spared
        }

    def _change_list(self, line: _Line, download: Task[Version | None] | None, *, force: bool) -> None:
        name = line.lists[0]
        if name in self._later.lists:
            if download is not None:
                download.result()
            self._context.log.info("blacklist.overtaken", list=name, line=line.operation.verb)
            return
        self._feeds.overtaken(name, self._context.now)
        if download is None:
            self._lists.clear(name)
        else:
            self._bring(name, line.reference, download.result(), force=force)

    def _bring(self, name: str, reference: str, version: Version | None, *, force: bool) -> None:
        """Bring a list into force."""
        if version is None:
            raise TypeError("a load does not ask whether there is a newer version")
        made = self._lists.judged(name, version, reference, self._change.id, force=force)
        self._lists.replace(name, version, made)
        if made.overrode:
            self._context.log.warning("blacklist.forced", list=name, overrode=list(made.overrode))
        self._lists.remove(self._later.removed, self._later.lists)

    def _replace(self, line: _Line, current: Entries) -> Entries:
        """Undo what earlier events did: what is fetched on schedule stays, without what was removed of it."""
        for name in self._lists.loaded():
            if name in self._later.lists:
                continue
            if name in line.lists:
                self._lists.clear(name)
            else:
                self._lists.restore(name)
        self._lists.remove(self._later.removed, self._later.lists)
        return self._later.clear(current)

    def _remove(self, operations: Iterable[Operation | ListOperation], current: Entries) -> Entries:
        gone = [one.block for one in operations if isinstance(one, Operation)]
        if not self._later.replaced:
            self._lists.remove(gone, self._later.lists)
        return self._later.remove(current, entries.holes(gone))

    def _add(self, operation: Operation, current: Entries) -> None:
        block = operation.block
        if self._change.undated and operation.ttl is not None:
            # It may be long over; what the tree still holds keeps its own expiry.
            self._context.log.info("blacklist.undated", address=_first(block), ttl=operation.ttl)
            return
        there = current.get(block)
        again = there is not None and there.change == self._origin.change and block not in self.added
        entry = self._origin.entry(operation, there if again else None)
        self.added.add(block)
        if not self._origin.shortens(entry, there):
            self._later.add(current, entry)
        if entry.until is not None and entry.until <= self._context.now:
            self._over.append(block)

    def _tell(self) -> None:
        """Tell what was over when it came, and what the log forgets before it ends."""
        log, message = self._context.log, self._change.message
        if self._over:
            since = self._origin.counts_from
            log.info(
                "blacklist.over", entries=len(self._over), address=_first(self._over[0]), counts_from=since
            )
        if message and not message.snapshot and message.expires is None:
            adds = [one for one, *_ in self._lines if isinstance(one, Operation) and one.verb == "add"]
            if lasting := [one for one in adds if one.ttl is None]:
                log.info("blacklist.for_good", entries=len(lasting), advice=_ADVICE)


def _removes(numbered: tuple[int, _Line]) -> bool:
    return numbered[1].operation.verb == "remove"


def _first(block: Block) -> str:
    return format_address(block.bits, block.first)


def _check(message: Message, operations: Sequence[Operation | ListOperation]) -> None:
    """Check that nodes which get the message and nodes that never do come to the same in the end."""
    if message.snapshot and operations[0].verb != "replace":
        raise PermanentError(
            "a snapshot stands for all that was published before: begin it with the line `replace`"
        )
    if message.expires is not None and any(one.verb != "add" for one in operations):
        raise PermanentError(
            "a message that expires may only `add`, since a node that comes later never hears of it:"
            " publish it without --ttl"
        )


def superseded(waiting: Sequence[Event], options: BlacklistOptions) -> Mapping[str, str]:
    """By ID, the events all of whose lines a later `clear` undoes: they need not be handled, or downloaded.

    Only a later event that cannot fail ends an older one: one of `clear`, `replace` and `remove` lines.

    Args:
        waiting: in the order of their arrival.
        options: of the blacklist.
    """
    void: dict[str, str] = {}
    cleared: dict[str, str] = {}
    for event in reversed(waiting):
        try:
            operations = parse_payload(event.payload, lambda _: None)
            lines = [_line(one, options) for one in operations]
            if event.message:
                _check(event.message, operations)
        except PermanentError:
            continue  # it is refused when it is handled
        targets = {name for line in lines for name in line.lists}
        if targets <= cleared.keys():
            void[event.id] = cleared[min(targets)]
        elif all(line.operation.verb in ("clear", "remove", "replace") for line in lines):
            done = [name for line in lines if line.operation.verb != "remove" for name in line.lists]
            cleared = dict.fromkeys(done, event.id) | cleared
    return void


def _line(operation: Operation | ListOperation, options: BlacklistOptions) -> _Line:
    if isinstance(operation, Operation):
        return _Line(operation, (ENTRIES if operation.verb == "add" else _REMOVED,))
    if operation.verb == "replace":
        fetched = (name for name, one in options.every_list.items() if one.every is None)
        return _Line(operation, (ENTRIES, _REMOVED, *fetched))
    if operation.name == ENTRIES and operation.verb == "clear":
        return _Line(operation, (ENTRIES,))
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
    return _Line(operation, (name,), reference or "")
