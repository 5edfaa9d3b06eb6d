"""Blocks addresses in nginx: events add, remove and load, feeds come by schedule, entries expire on time.

Owns `blacklist/` in the tree: the entries and lists with all that is known of them, and what nginx reads,
which is made from them and never the other way round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final

from agentd.handler import (
    Change,
    Context,
    Event,
    Handler,
    HandlerError,
    Known,
    PermanentError,
    ServiceState,
    TemporaryError,
)
from handlers.ip_blacklist import answers, entries, outputs, render
from handlers.ip_blacklist.entries import Entries
from handlers.ip_blacklist.feeds import Feeds
from handlers.ip_blacklist.guards import Guards
from handlers.ip_blacklist.limits import GUARDS, Guarded
from handlers.ip_blacklist.lists import Lists, Loaded, path
from handlers.ip_blacklist.node import own_addresses
from handlers.ip_blacklist.options import DEFAULT, ENTRIES, BlacklistOptions
from handlers.ip_blacklist.payload import ListOperation, Operation, parse_payload
from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range, merge, parse_cidr, subtract
from handlers.ip_blacklist.render import Geo

_ENTRIES: Final = "blacklist/entries.tsv"
_IPV4: Final = "blacklist/ipv4.ranges"
_IPV6: Final = "blacklist/ipv6.cidrs"
_NEVER4: Final = "blacklist/never.ipv4"
_NEVER6: Final = "blacklist/never.ipv6"
_INCLUDE: Final = "blacklist/blacklist.conf"
_MODE: Final = 0o640  # who may connect to nginx may not read who may not
_LOCAL: Final = "local"  # the query of what the command line on this node owes; nothing from Consul has it


class IPBlacklist(Handler):
    """Keeps what events and feeds want blocked, and what nginx enforces in step with it."""

    class Options(BlacklistOptions):
        """What is never blocked, which lists there are, and what is written besides nginx's files."""

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._guards = Guards(options.never_block, private=options.never_block_private)
        self._refused: Counter[str] = Counter()  # since the last time that they were counted into the store
        self._untold: list[str] = []

    def initial(self, context: Context) -> None:
        """Make an empty list if there is none, and enforce the present options on those there are."""
        self._lists(context).refresh()
        self._feeds(context).prune()
        self._stage_entries(entries.expire(_load(context), context.now), context)
        self._stage(context)

    def handle(self, change: Change, context: Context) -> None:
        """Apply the operations of an event's payload, all of them or none; a service is never blocked."""
        if isinstance(change, ServiceState):
            addresses = {instance.address for instance in change.instances}
            context.store.setdefault("services", {})[change.query] = sorted(addresses)
        elif isinstance(change, Event):
            self._apply(change, context)
        else:
            raise PermanentError(f"ip_blacklist takes events and services, not a {change.kind!r}")
        self._stage(context)

    def due(self, now: float, context: Context) -> float | None:
        """Remove what has expired, all of it in one commit; fetch one feed; tell what went wrong."""
        if self._untold:
            raise PermanentError(self._untold.pop(0))
        expiry = self._expire(now, context)
        self._count(context)
        feeds = self._feeds(context)
        if (name := feeds.due(now)) is not None:
            self._fetch(name, now, context)
        if self._untold:
            return now
        return min((at for at in (expiry, feeds.next()) if at is not None), default=None)

    # ------------------------------------------------------------------ questions of the command line

    def listed(self, context: Context) -> dict[str, Any]:
        """What is in force: entries, lists and feeds."""
        return answers.listed(_load(context), self._lists(context).loaded(), self._feeds(context).all())

    def why(self, address: str, context: Context) -> dict[str, Any]:
        """Whether an address or CIDR is blocked, and by which entries of which lists.

        Raises:
            ValueError: it is no address or CIDR.
        """
        block = parse_cidr(address)
        never = self._never(context)[block.bits]
        return answers.why(
            block,
            _load(context),
            self._lists(context).loaded(),
            context,
            never=merge([*never, *self._guards.never(block.bits)]),
        )

    # ------------------------------------------------------------------ operations

    def _apply(self, change: Event, context: Context) -> None:
        local = change.query == _LOCAL
        try:
            operations = parse_payload(change.payload, self._guards.refuses)
            current = entries.expire(_load(context), context.now)
            for operation in operations:
                current = self._operate(operation, current, change, context, force=local and _forces(change))
        except Guarded as error:
            self._refused.update(error.guards)
            raise
        self._stage_entries(current, context)

    def _operate(
        self, operation: Operation | ListOperation, current: Entries, change: Event, context: Context, *,
        force: bool,
    ) -> Entries:  # fmt: skip
        if isinstance(operation, Operation):
            if operation.verb == "remove":
                self._lists(context).remove(operation.block)
            return entries.apply(current, [operation], context.now, change.id)
        if operation.verb == "clear" and operation.name == ENTRIES:
            return {}
        name, reference = self._named(operation)
        if operation.verb == "clear":
            self._lists(context).clear(name)
        else:
            fetched = context.fetch(reference)
            loaded = Loaded(reference, change.id, context.now, "plain", {})
            made = self._lists(context).replace(name, fetched, loaded, None, force=force)
            if made.overrode:
                context.log.warning("blacklist.forced", list=name, overrode=list(made.overrode))
        return current

    def _named(self, operation: ListOperation) -> tuple[str, str]:
        """The list and the reference that a line means."""
        lists = self.options.every_list
        name = operation.name
        if name is None:
            same = (one for one, options in lists.items() if options.reference == operation.reference)
            name = next(same, DEFAULT)
        if name not in lists:
            raise PermanentError(f"no list is called {name!r}; `lists:` has {', '.join(sorted(lists))}")
        reference = operation.reference or lists[name].reference
        if reference is None and operation.verb == "load":
            raise PermanentError(f"list {name} has no `reference`; name one: `load {name} REFERENCE`")
        return name, reference or ""

    # ------------------------------------------------------------------ timed work

    def _expire(self, now: float, context: Context) -> float | None:
        expiry: float | None = context.store.get("next_expiry")
        if expiry is not None and expiry <= now:
            self._stage_entries(entries.expire(_load(context), now), context)
            self._stage(context)
            expiry = context.store["next_expiry"]
        return expiry

    def _fetch(self, name: str, now: float, context: Context) -> None:
        """Fetch one feed; whatever goes wrong, what is in force stays."""
        feeds, lists = self._feeds(context), self._lists(context)
        feed, options = feeds.get(name), self.options.lists[name]
        known = Known(feed.etag, feed.last_modified) if name in lists.loaded() else Known()
        try:
            fetched = context.fetch.if_changed(options.reference or "", known)
            if fetched is not None:
                loaded = Loaded(options.reference or "", "feed", now, "plain", {})
                lists.replace(name, fetched.path, loaded, None, force=False)
                known = fetched.known
            feeds.succeeded(name, now, known.etag, known.last_modified)
        except HandlerError as error:
            if isinstance(error, Guarded):
                self._refused.update(error.guards)
                self._count(context)
            retry_after = error.retry_after if isinstance(error, TemporaryError) else None
            feeds.failed(name, now, str(error), retry_after)
            context.log.warning("blacklist.feed_failed", list=name, reason=str(error))
            self._untold.append(f"feed {name}: {error}")
        self._stage(context)

    def _count(self, context: Context) -> None:
        """Count into the store what was refused meanwhile: a refusal itself stores nothing."""
        if self._refused:
            refused = Counter(context.store.get("refused", {})) + self._refused
            context.store["refused"] = dict(refused)
            self._refused.clear()
            self._gauge(context)

    # ------------------------------------------------------------------ files

    def _stage_entries(self, current: Entries, context: Context) -> None:
        files = context.files
        files.write(_ENTRIES, entries.dump(current), _MODE)
        files.write(_IPV4, _text(render.geo_ranges(self._enforced(current, IPV4))), _MODE)
        files.write(_IPV6, _text(render.geo_cidrs(self._enforced(current, IPV6))), _MODE)
        context.store["next_expiry"] = entries.next_expiry(current)
        context.store["entries"] = len(current)

    def _enforced(self, current: Entries, bits: int) -> list[Range]:
        return subtract(merge(entries.ranges(current, bits)), self._guards.never(bits))

    def _stage(self, context: Context) -> None:
        """What joins the lists, and what none of them may block."""
        files, never = context.files, self._never(context)
        files.write(_NEVER4, _text(render.geo_ranges(never[IPV4])).replace(b" 1;", b" n;"), _MODE)
        files.write(_NEVER6, _text(render.geo_cidrs(never[IPV6])).replace(b" 1;", b" n;"), _MODE)
        geos = [
            Geo("never_v4", files.reference(_NEVER4), ranges=True, never=True),
            Geo("never_v6", files.reference(_NEVER6), ranges=False, never=True),
            Geo("v4", files.reference(_IPV4), ranges=True),
        ]
        if files.read(_IPV6):  # every variable costs each request some time
            geos.append(Geo("v6", files.reference(_IPV6), ranges=False))
        for name, loaded in self._lists(context).loaded().items():
            if loaded.report["ipv4_ranges"]:
                geos.append(Geo(f"list_{name}_v4", files.reference(path(name, "ipv4")), ranges=True))
            if loaded.report["ipv6_cidrs"]:
                geos.append(Geo(f"list_{name}_v6", files.reference(path(name, "ipv6")), ranges=False))
        files.write(_INCLUDE, render.configuration(self.options.prefix, geos))
        self._write_outputs(context, never)
        self._gauge(context)

    def _write_outputs(self, context: Context, never: dict[int, list[Range]]) -> None:
        names = list(self._lists(context).loaded())
        outputs.stage(
            context,
            self.options.outputs,
            [_IPV4, *(path(name, "ipv4") for name in names)],
            [_IPV6, *(path(name, "ipv6") for name in names)],
            {bits: merge([*never[bits], *self._guards.never(bits)]) for bits in never},
        )
        outputs.check_deny(context, self.options.outputs, self.options.most_deny)

    def _never(self, context: Context) -> dict[int, list[Range]]:
        """What is known only now: the addresses of this node and of the services that it must serve."""
        named = (one for many in context.store.get("services", {}).values() for one in many)
        blocks = [*_blocks(named), *(own_addresses() if self.options.never_block_node else ())]
        # nginx looks up every IPv6 client as 255.255.255.255; no node has that address.
        return {bits: merge(block.range for block in blocks if block.bits == bits) for bits in (IPV4, IPV6)}

    def _gauge(self, context: Context) -> None:
        store, feeds = context.store, self._feeds(context).all().values()
        lists = self._lists(context).loaded().values()
        context.store["gauges"] = {
            "blacklist_entries": store.get("entries", 0),
            "blacklist_lists": len(lists),
            "blacklist_list_entries": sum(loaded.entries for loaded in lists),
            "blacklist_lists_forced": sum(bool(loaded.overrode) for loaded in lists),
            "blacklist_feeds": len(feeds),
            "blacklist_feeds_failing": sum(feed.failures > 0 for feed in feeds),
        } | {f"blacklist_refused_{guard}": store.get("refused", {}).get(guard, 0) for guard in GUARDS}

    def _lists(self, context: Context) -> Lists:
        return Lists(context, self._guards, self.options.every_list)

    def _feeds(self, context: Context) -> Feeds:
        return Feeds(context.store, self.options.lists)


def _forces(change: Event) -> bool:
    return change.raw.get("Force") is True


def _load(context: Context) -> Entries:
    data = context.files.read(_ENTRIES)
    return {} if data is None else entries.load(data)


def _text(lines: Iterable[str]) -> bytes:
    return "".join(lines).encode()


def _blocks(addresses: Iterable[str]) -> Iterable[Block]:
    """Those of them that are addresses; an instance may be registered by a host's name."""
    for address in addresses:
        try:
            yield parse_cidr(str(ip_address(address)))
        except ValueError:
            continue
