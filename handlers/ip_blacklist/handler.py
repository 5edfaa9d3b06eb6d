"""The handler: applies what events and feeds want blocked, and has entries expire on time.

Owns `blacklist/` in the tree: the entries and lists with everything known about them, and what nginx reads,
which is made from them and never the other way round.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from agentd.handler import (
    Change,
    Context,
    Drift,
    Event,
    Handler,
    HandlerError,
    PermanentError,
    ServiceState,
    TemporaryError,
)
from handlers.ip_blacklist import enforcement, entries, fingerprint, inspection, operations
from handlers.ip_blacklist.coverage import Coverage
from handlers.ip_blacklist.entries import Entries
from handlers.ip_blacklist.exemptions import Exemptions, current_ranges, own_addresses
from handlers.ip_blacklist.feeds import Feed, Feeds, Unstaged
from handlers.ip_blacklist.guards import GUARDS, Guarded
from handlers.ip_blacklist.lists import FEED, MODE, Lists, Loaded
from handlers.ip_blacklist.operations import Operations
from handlers.ip_blacklist.options import BlacklistOptions
from handlers.ip_blacklist.payload import ListOperation, Operation, parse_payload
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, merge, parse_cidr, subtract
from handlers.ip_blacklist.unwritten import Unwritten

_ENTRIES: Final = "blacklist/entries.tsv"
LOCAL: Final = "local"
"""The query of a change from this node's command line; no answer from Consul has it."""
_HELD: Final = 4_096
"""Entries that are kept in memory from one commit to the next."""
_LOOK: Final = 60.0  # seconds between two looks at this node's addresses while nothing changes


class IPBlacklist(Handler):
    """Blocks addresses that events, lists and feeds name: in nginx, and optionally in kernel or HAProxy."""

    class Options(BlacklistOptions):
        """What is never blocked, which lists exist, and what is written besides nginx's own files."""

    options: Options
    urgent: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._exemptions = Exemptions(
            options.never_block,
            private=options.never_block_private,
            shortest={IPV4: options.shortest_ipv4, IPV6: options.shortest_ipv6},
        )
        self._refused: Counter[str] = Counter()  # since they were last added to the store
        self._unreported: list[str] = []
        self._expired = False  # by the last call of `due`
        self._unstaged: dict[str, str] = {}  # by name of a feed
        self._alone = False  # whether feeds come into force one by one
        self._asked = 0.0  # what is due
        self._read: tuple[bytes, Entries] = b"", {}  # the entries that were last written, as they are read
        self._unwritten = Unwritten(self._written)

    def initial(self, context: Context) -> None:
        """Start with an empty blacklist, or enforce the present options on the one that exists."""
        self._lists(context).refresh()
        self._feeds(context).prune(context.now)
        self._feeds(context).interrupted(context.now)
        current = entries.expire(self._load(context), context.now)
        try:
            self._see_node(context)
        except TemporaryError:
            # What blocks nothing cannot block this node, and nginx needs the files to start.
            if current or self._lists(context).loaded():
                raise
        self._stage_entries(current, context)
        self._stage(context)

    def handle(self, change: Change, context: Context) -> None:
        """Apply an event's operations, all of them or none; exempt the instances of a service."""
        if isinstance(change, ServiceState):
            addresses = {instance.address for instance in change.instances}
            services, now = context.store.setdefault("services", {}), sorted(addresses)
            if services.get(change.query) != now:
                services[change.query] = now
                enforcement.forget_denies(context)
        elif isinstance(change, Event):
            self._apply(change, context)
        else:
            raise PermanentError(f"ip_blacklist handles events and services, not a {change.kind!r}")

    def render(self, context: Context) -> None:
        """Write the entries and what nginx and others read, once for all changes of a commit."""
        self._see_node(context)
        self._stage_unwritten(context)
        self._stage(context)
        self._unwritten.written(context)
        self._read = self._read if len(self._read[1]) <= _HELD else (b"", {})

    def due(self, now: float, context: Context) -> float | None:
        """Remove everything that has expired, in one commit; have feeds fetched; report what went wrong.

        Exempts addresses that this node took over since the last look, such as a virtual one.
        """
        if self._unreported:
            told, self._unreported = "; ".join(self._unreported), []
            raise PermanentError(told)
        self._stage_unwritten(context)  # of events with which it is committed
        feeds = self._feeds(context)
        fetches = feeds.tasks(now)
        look = self._look(now, context)
        expired = (context.store.get("next_expiry") or math.inf) <= now
        expiry = self._expire(now, context)
        self._count(context)
        self._expired = expired and not self._expired
        if self._expired:
            return now  # every other time in a commit of its own, should there be no room for a list
        before = self._lists(context).loaded(), feeds.all()
        try:
            failed = feeds.step(fetches, now, self._unstaged, alone=self._alone)
        except Unstaged as unstaged:
            self._unstaged[unstaged.name] = unstaged.reason
            raise
        for name, error in failed.items():
            self._note(error)
            if self._unstaged.pop(name, None) is None:  # that was told when it was tried
                self._unreported.append(f"feed {name}: {context.store['feeds'][name]['error']}")
        self._count(context)
        changed = [name for name, one in self._lists(context).loaded().items() if one != before[0].get(name)]
        self._alone = self._alone and bool(changed)
        if changed:
            self._stage_lists(changed, context)
        elif feeds.all() != before[1]:
            self._gauge(context)
        if self._unreported:
            return now
        return min((at for at in (expiry, feeds.next(now), look) if at is not None), default=None)

    def _stage_lists(self, changed: Sequence[str], context: Context) -> None:
        """Stage what feeds have changed. Raises Unstaged once it is known which of them is too much."""
        try:
            self._stage(context)
        except HandlerError as error:
            self._alone = True
            if len(changed) > 1:
                raise PermanentError(f"feeds {', '.join(changed)}, now one by one: {error}") from error
            self._note(error)
            self._unstaged[changed[0]] = str(error)
            raise Unstaged(changed[0], str(error)) from error

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:  # noqa: ARG002 (the interface)
        """Those that a later `clear` undoes."""
        return operations.superseded(waiting, self.options)

    def fingerprint(self, context: Context) -> str:
        """Of what events and lists have blocked, whenever they came; see `fingerprint`."""
        current = entries.expire(self._load(context), context.now)
        lists = self._lists(context).loaded()
        return fingerprint.of(current, {name: one for name, one in lists.items() if self._fixed(name, one)})

    def _fixed(self, name: str, loaded: Loaded) -> bool:
        """Whether only events and options decide what is in a list, and not when it is fetched."""
        options = self.options.every_list.get(name)
        return loaded.change != FEED and options is not None and options.every is None

    def preflight(self, context: Context) -> Sequence[Drift]:
        """The lists whose reference may not be fetched, or cannot be one."""
        found = []
        for name, one in self.options.lists.items():
            try:
                if one.reference is not None:
                    context.fetch.permitted(one.reference)
            except PermanentError as error:
                found.append(Drift(f"lists.{name}.reference", str(error)))
        return found

    # ------------------------------------------------------------------ questions of the command line

    def listed(self, context: Context) -> dict[str, Any]:
        """What is in force: entries, lists and feeds."""
        return inspection.listed(
            self._load(context), self._lists(context).loaded(), self._feeds(context).all()
        )

    def why(self, address: str, context: Context) -> dict[str, Any]:
        """Whether an address or CIDR is blocked, and by which entries of which lists.

        Raises:
            ValueError: it is not an address or CIDR.
        """
        block = parse_cidr(address)
        return inspection.why(
            block,
            self._load(context),
            self._lists(context).loaded(),
            context,
            fixed=self._exemptions.ranges(block.bits),
        )

    # ------------------------------------------------------------------ operations

    def _apply(self, change: Event, context: Context) -> None:
        force = change.query == LOCAL and change.raw.get("Force") is True
        try:
            lines = parse_payload(change.payload, self._exemptions.refuses)
            lists, feeds = self._lists(context), self._feeds(context)
            event = Operations(change, lines, context, self.options, lists, feeds)
            counts = any(isinstance(one, ListOperation) for one in lines)
            if counts and self._unwritten(context):  # a list is judged by what is blocked beside it
                self._stage_unwritten(context)
                self._coverage(context).note(lists.parts())
            before = self._unwritten.current(context)
            current = event.apply(before.copy(), force=force)
            if current != before:
                self._unwritten.change(current, context)
                counts = not self._coverage(context).add(event.added, lists.parts()) or counts
            if counts:
                self._stage_unwritten(context)
            if not force:
                self._limit(len(before), len(current), context)
            if counts:
                self._coverage(context).note(lists.parts())
            if (current != before or counts) and not self._denies_fit(lines, context):
                self._stage_unwritten(context)
                self._see_node(context)
                self._stage(context)
        except PermanentError as error:
            self._note(error)
            raise
        event.record()

    def _limit(self, before: int, now: int, context: Context) -> None:
        """Check how many entries there are now, and what they and the lists cover."""
        most = self.options.most_entries
        if now > max(most, before):
            why = f"there would be {now} entries, more than most_entries, {most}"
            raise Guarded(f"{why}: `remove` some, `clear entries`, or raise it", ("entries",))
        if why := self._coverage(context).objection(self._lists(context).parts()):
            raise Guarded(why, ("addresses",))

    def _denies_fit(self, lines: Sequence[Operation | ListOperation], context: Context) -> bool:
        """Whether there are few enough `deny` lines for certain; of a list nobody knows before."""
        more = math.inf if any(isinstance(one, ListOperation) for one in lines) else len(lines)
        holes = sum(map(len, self._never(context).values()))
        return enforcement.denies_fit(context, self.options, more, holes)

    # ------------------------------------------------------------------ timed work

    def _look(self, now: float, context: Context) -> float | None:
        """Look at this node's addresses; without an answer those last seen stay exempt, and status tells."""
        if not self.options.never_block_node:
            return None
        before = context.store.get("node"), context.store.get("node_trouble", "")
        try:
            self._see_node(context)
        except TemporaryError as error:
            context.store["node_trouble"] = str(error)
        if (context.store.get("node"), context.store["node_trouble"]) != before:
            self._stage(context)
        return now + _LOOK

    def _expire(self, now: float, context: Context) -> float | None:
        expiry: float | None = context.store.get("next_expiry")
        set_back, self._asked = now < self._asked, now
        if expiry is not None and (expiry <= now or set_back):
            self._stage_entries(entries.expire(self._load(context), now), context)
            try:
                self._stage(context)
            except (
                Guarded
            ) as error:  # an end without a wide entry may have more lines; it is due all the same
                context.log.warning("blacklist.expired_beyond_limit", reason=str(error))
                self._gauge(context)
            expiry = context.store["next_expiry"]
        return expiry

    def _note(self, error: Exception) -> None:
        """Note which guards refused."""
        if isinstance(error, Guarded):
            self._refused.update(error.guards)

    def _count(self, context: Context) -> None:
        """Add refusals to the store's count: the attempt that was refused stored nothing."""
        if self._refused:
            refused = Counter(context.store.get("refused", {})) + self._refused
            context.store["refused"] = dict(refused)
            self._refused.clear()
            self._gauge(context)

    # ------------------------------------------------------------------ files

    def _stage_unwritten(self, context: Context) -> None:
        if self._unwritten(context):
            self._stage_entries(entries.expire(self._unwritten.current(context), context.now), context)

    def _written(self, context: Context) -> Entries:
        """The entries as they are written, those that have expired left out; held for the batch."""
        data = context.files.read(_ENTRIES) or b""
        self._read = data, self._load(context)
        return entries.expire(self._read[1], context.now)

    def _load(self, context: Context) -> Entries:
        data, damaged = context.files.read(_ENTRIES) or b"", list[int]()
        if data == self._read[0]:
            return self._read[1]
        found = entries.load(data, damaged)
        if damaged:
            # One line must neither unblock the others nor keep agentd from starting; it is not written again.
            context.log.warning("blacklist.entries_damaged", lines=damaged[:10], left=len(found))
        return found

    def _stage_entries(self, current: Entries, context: Context) -> None:
        data = entries.dump(current)
        self._read = (data, current) if len(current) <= _HELD else (b"", {})
        context.files.write(_ENTRIES, data, MODE)
        blocked = {bits: merge(entries.ranges(current, bits)) for bits in (IPV4, IPV6)}
        enforced = {bits: subtract(many, self._exemptions.ranges(bits)) for bits, many in blocked.items()}
        enforcement.stage_entries(context, enforced)
        self._coverage(context).note_entries(enforced)
        context.store["next_expiry"] = entries.next_expiry(current)
        context.store["entries"] = len(current)

    def _stage(self, context: Context) -> None:
        self._coverage(context).note(self._lists(context).parts())
        never, lists = self._never(context), self._lists(context).loaded()
        enforcement.stage(context, self.options, self._exemptions, never, lists)
        self._gauge(context)

    def _see_node(self, context: Context) -> None:
        """Note this node's addresses in the store. Raises TemporaryError if they cannot be read."""
        context.store["node"] = own_addresses() if self.options.never_block_node else []
        context.store["node_trouble"] = ""

    def _never(self, context: Context) -> dict[int, list[Range]]:
        """The exemptions that are only known now: this node, and the services that it must serve."""
        addresses = (one for many in context.store.get("services", {}).values() for one in many)
        return current_ranges(addresses, context.store.get("node", ()))

    def _gauge(self, context: Context) -> None:
        store, feeds = context.store, self._feeds(context).all()
        trouble = store.get("node_trouble", "")
        troubles = {"own addresses": trouble, "coverage": self._coverage(context).trouble()}
        store["status"] = [{"part": part, "trouble": one} for part, one in troubles.items() if one] + [
            {
                "part": f"feed {name}",
                "since": feed.checked or None,
                "next": None if feed.asked else feed.next,
                "trouble": feed.error or _unfetched(feed),
            }
            for name, feed in feeds.items()
        ]
        lists = self._lists(context).loaded().values()
        context.store["gauges"] = (
            {
                "blacklist_entries": store.get("entries", 0),
                "blacklist_lists": len(lists),
                "blacklist_list_entries": sum(loaded.entries for loaded in lists),
                "blacklist_lists_forced": sum(bool(loaded.overrode) for loaded in lists),
                "blacklist_feeds": len(feeds),
                "blacklist_feeds_failing": sum(feed.failures > 0 for feed in feeds.values()),
                "blacklist_feeds_under_way": sum(feed.asked > 0 for feed in feeds.values()),
                "blacklist_feed_failures": store.get("feed_failures", 0),
            }
            | {
                f"blacklist_feed_{name}_success_timestamp_seconds": feed.checked
                for name, feed in feeds.items()
                if feed.checked
            }
            | self._coverage(context).gauges()
            | {f"blacklist_refused_{guard}": store.get("refused", {}).get(guard, 0) for guard in GUARDS}
        )

    def _coverage(self, context: Context) -> Coverage:
        return Coverage(context, self.options)

    def _lists(self, context: Context) -> Lists:
        return Lists(context, self._exemptions, self.options)

    def _feeds(self, context: Context) -> Feeds:
        return Feeds(context, self._lists(context), self.options.lists)


def _unfetched(feed: Feed) -> str:
    """Why a feed is not there yet that never failed; "" if it is there."""
    if feed.checked:
        return ""
    return "not fetched yet; the download is under way" if feed.asked else "not fetched yet"
