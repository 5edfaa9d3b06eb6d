"""How many addresses entries and lists cover together, and whether that is more than they may.

A few events with short prefixes could otherwise block everybody. Owns the figures in the store. They are
added up, which is quick; what is covered twice is looked for only if the sum is too much. What was covered
already, after an override or under other options, may stay: only what adds to it is refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.errors import HandlerError
from handlers.ip_blacklist import child
from handlers.ip_blacklist.count import COUNT, NETWORK, CountJob
from handlers.ip_blacklist.entries import FILE_IPV4, FILE_IPV6
from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range

if TYPE_CHECKING:
    from agentd.handler import Context
    from handlers.ip_blacklist.options import BlacklistOptions

_ENTRIES: Final = "covered_by_entries"
_TWICE: Final = "covered_twice"
_ALL: Final = "covered"
_NEARLY: Final = 0.9  # of what may be covered: `status` tells


class Figures(NamedTuple):
    """IPv4 addresses, and IPv6 /64 networks."""

    addresses: int
    networks: int


class Part(NamedTuple):
    """What one list covers, as its report says, and its files for nginx; `version` tells it from another."""

    version: str
    figures: Figures
    ipv4: Path | None
    ipv6: Path | None


class Coverage:
    """What is covered, as one attempt sees it.

    Args:
        context: of the attempt.
        options: of the blacklist.
    """

    def __init__(self, context: Context, options: BlacklistOptions) -> None:
        self._context = context
        self._most = Figures(options.most_addresses, options.most_networks)
        self._limits = options.limits.limits

    def note_entries(self, enforced: Mapping[int, Sequence[Range]]) -> None:
        """Note what entries cover, by address width, merged."""
        shift = IPV6 - NETWORK
        self._context.store[_ENTRIES] = [
            sum(last - first + 1 for first, last in enforced[IPV4]),
            sum((last >> shift) - (first >> shift) + 1 for first, last in enforced[IPV6]),
        ]

    def add(self, blocks: Collection[Block], lists: Sequence[Part]) -> bool:
        """Note that entries may cover these blocks as well, until `note_entries` says what they do cover.

        Returns:
            Whether that is not too much for certain, so that nothing needs to be counted.
        """
        shift = IPV6 - NETWORK
        more = Figures(
            sum(last - first + 1 for bits, first, last in blocks if bits == IPV4),
            sum((last >> shift) - (first >> shift) + 1 for bits, first, last in blocks if bits == IPV6),
        )
        entries = _sum([self._entries, more])
        self._context.store[_ENTRIES] = list(entries)
        return self._fits(_sum([entries, *(part.figures for part in lists)]))

    def note(self, lists: Sequence[Part]) -> None:
        """Note what is covered now; if it cannot be counted, what it is at most."""
        try:
            found = self._measured(lists)
        except HandlerError as error:
            self._context.log.warning("blacklist.not_counted", reason=str(error))
            found = _sum([self._entries, *(part.figures for part in lists)])
        self._context.store[_ALL] = list(found)

    def objection(self, lists: Sequence[Part]) -> str:
        """Why it is too much that entries and these lists would cover; "" if it is not."""
        covered, before = self._measured(lists), self._context.store.get(_ALL, (0, 0))
        for count, last, most, what, option in zip(
            covered, before, self._most, ("IPv4 addresses", "IPv6 /64 networks"), Figures._fields, strict=True
        ):
            if count > max(most, last):
                return (
                    f"entries and lists would cover {count} {what} together, more than most_{option}, {most}:"
                    " `clear` or `remove` some, or raise it"
                )
        return ""

    def gauges(self) -> dict[str, float]:
        """What is covered, and what may be."""
        covered = zip(Figures._fields, self._context.store.get(_ALL, (0, 0)), self._most, strict=True)
        return {
            f"blacklist_{kind}_{name}": float(count)
            for name, now, most in covered
            for kind, count in (("covered", now), ("most", most))
        }

    def trouble(self) -> str:
        """What `status` tells once there is little left; "" otherwise."""
        covered = self._context.store.get(_ALL, (0, 0))
        for name, count, most in zip(Figures._fields, covered, self._most, strict=True):
            if count > most * _NEARLY:
                return (
                    f"entries and lists cover {count} {name}, of most_{name}, {most}: more will be refused;"
                    " `clear` or `remove` some, or raise it"
                )
        return ""

    @property
    def _entries(self) -> Figures:
        return Figures(*self._context.store.get(_ENTRIES, (0, 0)))

    def _measured(self, lists: Sequence[Part]) -> Figures:
        entries = self._entries
        listed = _sum(part.figures for part in lists)
        if self._fits(both := _sum((entries, listed))):
            return both
        if self._fits(both := _sum((entries, self._together(lists)))):
            return both
        files = self._context.files
        added = Part("", entries, files.path(FILE_IPV4), files.path(FILE_IPV6))
        return self._counted([*lists, added])

    def _fits(self, figures: Figures) -> bool:
        return all(count <= most for count, most in zip(figures, self._most, strict=True))

    def _together(self, lists: Sequence[Part]) -> Figures:
        """What the lists cover; counted once for these versions of them."""
        versions = [part.version for part in lists]
        known: dict[str, Any] = self._context.store.get(_TWICE, {})
        if known.get("versions") != versions:
            known = {"versions": versions, "figures": list(self._counted(lists))}
            self._context.store[_TWICE] = known
        return Figures(*known["figures"])

    def _counted(self, parts: Sequence[Part]) -> Figures:
        ipv4 = [part.ipv4 for part in parts if part.ipv4]
        ipv6 = [part.ipv6 for part in parts if part.ipv6]
        with tempfile.TemporaryDirectory(prefix="agentd-blacklist-") as made:
            job = CountJob([*map(str, ipv4)], [*map(str, ipv6)], made)
            child.run(self._context, job, [*ipv4, *ipv6], self._limits)
            return Figures(*json.loads((Path(made) / COUNT).read_text()))


def _sum(some: Iterable[Figures]) -> Figures:
    every = list(some)
    return Figures(sum(one.addresses for one in every), sum(one.networks for one in every))
