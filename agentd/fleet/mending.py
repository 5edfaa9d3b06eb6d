"""Which head of a log counts, and what the messages show if none does.

A head counts if it can be read, the message that it names is there, and it has forgotten all that the list of
pruned messages says is forgotten. No mark of another head is believed: anybody may have written it. Nothing
is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from agentd.clock import unix_time
from agentd.errors import BadDocument, UnknownFormat
from agentd.fleet.head import LAST, Head, Keep, parse_head
from agentd.fleet.held import listing
from agentd.fleet.keys import Keys
from agentd.fleet.kv import KV
from agentd.fleet.pruning import Pruned, parse_pruned
from agentd.fleet.reader import Reader, Reading
from agentd.watch.kv import Operation


@dataclass(frozen=True, slots=True)
class Now:
    """What Consul has of a log at this moment: the head's check-and-set is void once any of it has changed.

    Attributes:
        head: None if there is none, or none that can be read.
        index: of the head's key, 0 if there is none.
        pruned: what was pruned lately.
        has_record: whether the fleet has its record.
    """

    head: Head | None
    index: int
    pruned: Pruned
    has_record: bool


class Found(NamedTuple):
    """What the messages themselves show: numbers, IDs with theirs, and the numbers at which there is junk."""

    numbers: list[int]
    ids: dict[str, int]
    junk: frozenset[int]


class Mender(Reader):
    """The log, to be read whatever its head says; see `Reader`.

    Args:
        kv: where it lies.
        keys: of the fleet.
        now: the clock, in unix seconds.
    """

    def __init__(self, kv: KV, keys: Keys, now: Callable[[], float] = unix_time) -> None:
        super().__init__(kv, keys)
        self._clock = now

    def _now(self, name: str, *, consistent: bool = False) -> Now:
        key, ids = self.keys.head(name), self.keys.pruned(name)
        pairs = self.kv.pairs([key, ids, self.keys.record], consistent=consistent)
        head, pruned = None, Pruned()  # what is damaged begins anew
        with suppress(BadDocument):
            head = parse_head(pairs[key].value) if key in pairs else None
        with suppress(BadDocument):
            pruned = parse_pruned(pairs[ids].value) if ids in pairs else Pruned()
        return Now(head, pairs[key].index if key in pairs else 0, pruned, self.keys.record in pairs)

    def _is_believed(self, name: str, now: Now) -> bool:
        """Whether the head counts; that there is none does if there never was a log."""
        if now.head is None:
            return not now.index and not now.pruned.floor
        return now.head.floor >= now.pruned.floor and shows(now.head, self._newest(name, now.head))

    def _newest(self, name: str, head: Head) -> Reading:
        """The message that the head names, if it names one."""
        return self.read(name, [] if head.is_empty else [head.newest])

    def _head_of(self, now: Now, found: Found, keep: Keep = "latest") -> Head:
        """The head if it counts, or one as the messages show it; `keep` is for a log that has no head."""
        head, floor = now.head or Head(keep), now.pruned.floor
        is_believed = head.is_empty or head.newest in found.numbers
        if now.head and is_believed and head.floor >= floor:
            return head
        head = head if is_believed else Head(head.keep)
        newest, base = max(head.newest, floor), max(head.base, floor)
        above = [num for num in found.numbers if num > floor]
        made = listing(replace(head, newest=newest, floor=floor, base=base), above)
        return self._stamped(made, head) if above else made

    def _stamped(self, head: Head, before: Head | None) -> Head:
        """With a time of mending that is not that of the head before."""
        stamp = int(self._clock() * 1000)
        return replace(head, mended=stamp + (before is not None and stamp == before.mended))

    def _found(self, name: str, floor: int = 0, known: Collection[int] = ()) -> Found:
        """What lies above the floor; those that are known are not read again."""
        listed = self.numbers(name, above=floor, upto=LAST, consistent=True)
        there, ids = self._there(name, [num for num in listed if num not in known])
        found = {*there, *known}
        numbers = [num for num in listed if num in found]
        return Found(numbers, ids, frozenset(listed).difference(numbers))

    def _there(self, name: str, numbers: Sequence[int]) -> tuple[list[int], dict[str, int]]:
        """At which of these numbers there is a message, and the IDs of those that can be read."""
        there: list[int] = []
        ids: dict[str, int] = {}
        for reading in self.portions(name, numbers, consistent=True):
            there += numbers_of(reading)
            ids |= {one.id: one.num for one in reading.messages}
        return there, ids

    def _remember(self, name: str, pruned: Pruned, ids: Sequence[str], floor: int) -> list[Operation]:
        """Write down what was pruned, and forgotten, unless it is written already."""
        if not ids and pruned.floor == floor:
            return []
        value = replace(pruned, floor=floor).plus(ids, self._clock()).render()
        return [{"Verb": "set", "Key": self.keys.pruned(name), "Value": value}]


def shows(head: Head, newest: Reading) -> bool:
    """Whether the message that the head names is there: else nobody has believed it."""
    return head.is_empty or head.newest in numbers_of(newest)


def numbers_of(reading: Reading) -> list[int]:
    """The numbers at which there is a message, also one that only a newer agentd can read."""
    waiting = (num for num, error in reading.troubles.items() if isinstance(error, UnknownFormat))
    return sorted([*(one.num for one in reading.messages), *waiting])
