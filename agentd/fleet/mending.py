"""Decides whether the head of a log counts, and rebuilds it from the messages if it does not.

A head counts if it can be read, its newest message is there, and its floor is not below that of the list of
pruned messages. Nothing is taken from any other head, which anybody may have written. Nothing is written
here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from agentd.clock import unix_time
from agentd.errors import BadDocument, FleetError, UnknownFormat
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import LAST, Head, Keep, parse_head
from agentd.fleet.held import listing
from agentd.fleet.keys import FAR, Keys
from agentd.fleet.kv import KV
from agentd.fleet.pruning import Pruned, parse_pruned
from agentd.fleet.reader import Reader, Reading
from agentd.fleet.rollout import Role
from agentd.watch.kv import Operation

if TYPE_CHECKING:
    from agentd.trust.keyring import Signer


@dataclass(frozen=True, slots=True)
class Now:
    """What Consul has of a log now; the head's check-and-set fails once any of it has changed.

    Attributes:
        head: the head; None if it is missing or malformed.
        index: ModifyIndex of the head's key; 0 if there is none.
        pruned: the recently pruned messages.
        has_record: whether the fleet's record is there.
    """

    head: Head | None
    index: int
    pruned: Pruned
    has_record: bool


class Found(NamedTuple):
    """The messages in a log: their numbers, the number of each ID, the numbers with junk, and the roles."""

    numbers: list[int]
    ids: dict[str, int]
    junk: frozenset[int]
    roles: dict[int, Role]


class Mender(Reader):
    """Reads the log regardless of its head; see `Reader`.

    Args:
        kv: the store that holds it.
        keys: the fleet's keys.
        now: the clock, in unix seconds.
    """

    def __init__(self, kv: KV, keys: Keys, now: Callable[[], float] = unix_time) -> None:
        super().__init__(kv, keys)
        self._clock = now

    def _now(self, name: str, *, consistent: bool = False) -> Now:
        key, ids = self.keys.head(name), self.keys.pruned(name)
        pairs = self.kv.pairs([key, ids, self.keys.record], consistent=consistent)
        head, pruned = None, Pruned()  # a damaged one counts as missing
        with suppress(BadDocument):
            head = parse_head(pairs[key].value) if key in pairs else None
        with suppress(BadDocument):
            pruned = parse_pruned(pairs[ids].value) if ids in pairs else Pruned()
        return Now(head, pairs[key].index if key in pairs else 0, pruned, self.keys.record in pairs)

    def _is_believed(self, name: str, now: Now) -> bool:
        """Whether the head counts. A missing head counts if there was never a log."""
        if now.head is None:
            return not now.index and not now.pruned.floor
        return now.head.floor >= now.pruned.floor and shows(now.head, self._newest(name, now.head))

    def _newest(self, name: str, head: Head) -> Reading:
        """The head's newest message, if it has one."""
        return self.read(name, [] if head.is_empty else [head.newest])

    def require_room(self, name: str, head: Head, signer: Signer | None) -> None:
        """Make sure that a signed message does not follow a number that was forged to leave no others.

        Nodes believe what is signed, and never go back: the name could not be used any more.

        Raises:
            FleetError: neither a clock nor a publisher gave the newest message its number.
        """
        if signer is None or head.is_empty or head.newest < FAR:
            return
        newest = self.message(name, head.newest)
        if newest is None or (newest.signed and signer.knows(newest.signed)):
            return
        raise FleetError(
            f"the newest message of {name} has the number {head.newest}, later than any clock, and no"
            " publisher known here signed it: find out who may write to the log, delete that message"
            f" (`consul kv delete {self.keys.message(name, head.newest)}`), and try again"
        )

    def _head_of(self, now: Now, found: Found, keep: Keep = "latest") -> Head:
        """The head if it counts, or one rebuilt from the messages; `keep` is for a log without a head."""
        head, floor = now.head or Head(keep), now.pruned.floor
        is_believed = head.is_empty or head.newest in found.numbers
        if now.head and is_believed and head.floor >= floor:
            return head
        head = head if is_believed else Head(head.keep)
        newest, base = max(head.newest, floor), max(head.base, floor)
        above = [num for num in found.numbers if num > floor]
        made = listing(replace(head, newest=newest, floor=floor, base=base), above, found.roles)
        return self._stamped(made, head) if above else made

    def _stamped(self, head: Head, before: Head | None) -> Head:
        """The head with a new time of mending, different from that of the head before."""
        stamp = int(self._clock() * 1000)
        return replace(head, mended=stamp + (before is not None and stamp == before.mended))

    def _found(
        self,
        name: str,
        floor: int = 0,
        known: Collection[int] = (),
        squats: Callable[[Envelope], bool] = lambda _: False,
    ) -> Found:
        """The messages above the floor; `known` numbers are not read again. For `squats` see `_there`."""
        listed = self.numbers(name, above=floor, upto=LAST, consistent=True)
        there, ids, roles = self._there(name, [num for num in listed if num not in known], squats)
        found = {*there, *known}
        numbers = [num for num in listed if num in found]
        return Found(numbers, ids, frozenset(listed).difference(numbers), roles)

    def _there(
        self, name: str, numbers: Sequence[int], squats: Callable[[Envelope], bool] = lambda _: False
    ) -> tuple[list[int], dict[str, int], dict[int, Role]]:
        """The numbers among these that have a message; of those that can be read, the IDs and the roles.

        A message that squats on the place of another one has none of these.
        """
        there: list[int] = []
        ids: dict[str, int] = {}
        roles: dict[int, Role] = {}
        for reading in self.portions(name, numbers, consistent=True):
            squatters = {one.num for one in reading.messages if squats(one)}
            there += [num for num in numbers_of(reading) if num not in squatters]
            ids |= {one.id: one.num for one in reading.messages if one.num not in squatters}
            roles |= {one.num: one.role for one in reading.messages if one.num not in squatters}
        return there, ids, roles

    def _remember(self, name: str, pruned: Pruned, ids: Sequence[str], floor: int) -> list[Operation]:
        """The operations that record what was pruned and forgotten; none if there is nothing new."""
        if not ids and pruned.floor == floor:
            return []
        value = replace(pruned, floor=floor).plus(ids, self._clock()).render()
        return [{"Verb": "set", "Key": self.keys.pruned(name), "Value": value}]


def shows(head: Head, newest: Reading) -> bool:
    """Whether the head's newest message is there; otherwise the head does not count."""
    return head.is_empty or head.newest in numbers_of(newest)


def numbers_of(reading: Reading) -> list[int]:
    """The numbers that have a message, including those that only a newer agentd can read."""
    waiting = (num for num, error in reading.troubles.items() if isinstance(error, UnknownFormat))
    return sorted([*(one.num for one in reading.messages), *waiting])
