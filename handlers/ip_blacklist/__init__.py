"""Blocks addresses in nginx: events add and remove CIDRs, entries expire on time.

Owns `blacklist/` in the tree: the entries with all that is known of them, and what nginx reads, which is
made from the entries and never the other way round.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from agentd.handler import Change, Context, Event, Handler, HandlerOptions, PermanentError
from handlers.ip_blacklist import entries, render
from handlers.ip_blacklist.entries import Entries
from handlers.ip_blacklist.guards import Guards
from handlers.ip_blacklist.payload import parse_payload
from handlers.ip_blacklist.ranges import IPV4, IPV6, Range, merge, parse_cidr, subtract

_ENTRIES: Final = "blacklist/entries.tsv"
_IPV4: Final = "blacklist/ipv4.ranges"
_IPV6: Final = "blacklist/ipv6.cidrs"
_INCLUDE: Final = "blacklist/blacklist.conf"


def _checked(text: str) -> str:
    parse_cidr(text)
    return text


class IPBlacklist(Handler):
    """Keeps the entries that events add and remove, and what nginx enforces in step with them."""

    class Options(HandlerOptions):
        """What is never blocked, and how nginx's variables are called."""

        never_block: tuple[Annotated[str, AfterValidator(_checked)], ...] = Field(
            (),
            description="Addresses and CIDRs that no event can block, such as your own.",
        )
        prefix: str = Field(
            "agentd",
            pattern=r"^[a-z][a-z0-9_]{0,30}$",
            description="How the nginx variables' names begin: $PREFIX_blocked is 1 for a blocked client.",
        )

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._guards = Guards(options.never_block)

    def initial(self, context: Context) -> None:
        """Make an empty list if there is none, and enforce the present options on the one there is."""
        self._stage(entries.expire(_load(context), context.now), context)

    def handle(self, change: Change, context: Context) -> None:
        """Apply the operations of an event's payload, all of them or none."""
        if not isinstance(change, Event):
            raise PermanentError(f"ip_blacklist takes events, not a change of kind {change.kind!r}")
        operations = parse_payload(change.payload, self._guards.refuses)
        current = entries.expire(_load(context), context.now)
        self._stage(entries.apply(current, operations, context.now, change.id), context)

    def due(self, now: float, context: Context) -> float | None:
        """Remove what has expired, all of it in one commit."""
        expiry: float | None = context.store.get("next_expiry")
        if expiry is not None and expiry <= now:
            self._stage(entries.expire(_load(context), now), context)
            expiry = context.store["next_expiry"]
        return expiry

    def _stage(self, current: Entries, context: Context) -> None:
        files = context.files
        # Who may connect to nginx may not read who may not.
        files.write(_ENTRIES, entries.dump(current), mode=0o640)
        files.write(_IPV4, render.geo_ranges(self._enforced(current, IPV4)), mode=0o640)
        files.write(_IPV6, render.geo_cidrs(self._enforced(current, IPV6)), mode=0o640)
        include = render.configuration(self.options.prefix, files.reference(_IPV4), files.reference(_IPV6))
        files.write(_INCLUDE, include)
        context.store["next_expiry"] = entries.next_expiry(current)
        context.store["gauges"] = {"blacklist_entries": len(current)}

    def _enforced(self, current: Entries, bits: int) -> list[Range]:
        return subtract(merge(entries.ranges(current, bits)), self._guards.never(bits))


def _load(context: Context) -> Entries:
    data = context.files.read(_ENTRIES)
    return {} if data is None else entries.load(data)
