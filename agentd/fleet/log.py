"""The log of a fleet, with all that is done to it.

Owns what goes beyond appending: publishing until it is done, forgetting, writing back what Consul lost,
sweeping bodies. Whether and when is up to the callers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from agentd.backoff import Backoff
from agentd.errors import (
    BadDocument,
    ConsulRefused,
    ConsulUnavailable,
    Contended,
    FleetError,
    LogLost,
    UnknownFormat,
)
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.head import Head, Keep, parse_head
from agentd.fleet.held import Held, listing
from agentd.fleet.kv import MOST_READS, cas, delete
from agentd.fleet.writer import Writer, fitting
from agentd.watch.kv import Operation

PATIENCE: Final = 20.0
"""Seconds for which a command tries to write."""

_TRIES: Final = 50


class _Look(NamedTuple):
    """The head of a name, and its index, 0 for none; not sound: it is made of the messages that there are."""

    head: Head | None
    at: int
    is_sound: bool = True


class Log(Writer):
    """The log, to be read, written and kept in order; see `Writer` and `Reader` for arguments and errors."""

    def publish(
        self,
        name: str,
        draft: Draft,
        *,
        keep: Keep,
        patience: float = PATIENCE,
        pause: Callable[[float], object] = time.sleep,
    ) -> int:
        """Append one message, with as many tries as it takes; returns its number.

        Args:
            name: of the log.
            draft: the message.
            keep: see `append`.
            patience: seconds after which it gives up.
            pause: waits for so many seconds.

        Raises:
            ConsulUnavailable: not within `patience`; the message may have been written.
            Contended: not within `patience`; it was not written.
        """
        waits, until = Backoff(0.05, 2.0), time.monotonic() + patience
        for attempt in range(1, _TRIES + 1):
            try:
                return self.append(name, [draft], keep=keep)[draft.id].num
            except LogLost:
                self.resume(name, None)  # a command holds nothing to write back: the nodes do
            except (Contended, ConsulUnavailable):
                if attempt == _TRIES or time.monotonic() > until:
                    raise
            pause(waits.delay(attempt))
        raise Contended(f"Consul keeps losing the log of {name}: see the logs of its servers")

    # ------------------------------------------------------------------ forget

    def forgettable(self, name: str, before: int | None = None) -> int:
        """How many messages `forget` would delete now; raises as that does."""
        _, floor = _limit(name, self._look(name), before)
        return sum(num <= floor for num in self.numbers(name, consistent=True))

    def forget(self, name: str, before: int | None = None) -> int:
        """Forget all messages up to a number, for good: no node writes them back.

        Args:
            name: of the log.
            before: the highest that is forgotten; None for all that there are.

        Returns:
            How many were deleted.

        Raises:
            FleetError: there is no log of that name, or none that goes so far.
            Contended: others write to it again and again.
        """
        for _ in range(_TRIES):
            look = self._look(name)
            head, floor = _limit(name, look, before)
            numbers = self.numbers(name, consistent=True)
            there, ids = self._there(name, numbers)
            gone = [num for num in numbers if num <= floor]
            left = [num for num in there if floor < num <= head.newest]
            marks = replace(head, floor=max(head.floor, floor), base=max(head.base, floor))
            whole = listing(marks, left, head.inline if left and left[-1] == head.newest else None)
            forgotten = [identity for identity, num in ids.items() if num <= floor]
            operations = [
                cas(self.keys.head(name), whole.render(), look.at),
                self._remember(name, forgotten),
            ]
            if not self.kv.write(operations).failures:
                # Nobody reads them any more, so it does not matter if this ends half-way.
                for at in range(0, len(gone), MOST_READS):
                    some = gone[at : at + MOST_READS]
                    self.kv.write([delete(self.keys.message(name, num)) for num in some])
                return len(gone)
        raise Contended(f"others keep writing to the log of {name}: try again")

    def _look(self, name: str) -> _Look:
        """The head, or one made of the messages if what lies there is none that a node believes."""
        key = self.keys.head(name)
        pair = self.kv.pair(key, consistent=True)
        if pair is None:
            return _Look(None, 0)
        keep: Keep = "latest"
        try:
            head = parse_head(pair.value)
            if not head.count or self._there(name, [head.newest])[0]:
                return _Look(head, pair.index)
            keep = head.keep
        except BadDocument:
            pass
        there, _ = self._there(name, self.numbers(name, consistent=True))
        return _Look(listing(Head(keep), there, None), pair.index, is_sound=False)

    def _remember(self, name: str, ids: Sequence[str]) -> Operation:
        key = self.keys.pruned(name)
        return {
            "Verb": "set",
            "Key": key,
            "Value": self._pruned(self.kv.pair(key)).plus(ids, self._now()).render(),
        }

    # ------------------------------------------------------------------ write back

    def write_back(
        self,
        name: str,
        held: Held,
        *,
        body: Callable[[str], bytes | None] = lambda _: None,
        pause: Callable[[], object] = lambda: time.sleep(2.0),
        again: Callable[[], Held | None] = lambda: None,
    ) -> int:
        """Write back, verbatim, what Consul has lost of a name, if two consistent looks say that it has.

        A head that no node believes is made anew, too.

        Args:
            name: of the log.
            held: what this node holds of it.
            body: finds the body with that SHA-256 among what the node holds.
            pause: waits between the two looks.
            again: says what this node holds after the pause; None for the same.

        Returns:
            How many messages were written back.

        Raises:
            Contended: others write at the same time; call again, after a pause.
            ConsulRefused: also if all messages are written back, but not their bodies.
        """
        look = self._look(name)
        if not look.is_sound or held.is_lost(look.head, self._now()):
            pause()
            held = again() or held
            look = self._look(name)
            if not look.is_sound or held.is_lost(look.head, self._now()):
                return self._written_back(name, held, body)
        self._settle(name, held, look.head, {})
        return 0

    def _written_back(self, name: str, held: Held, body: Callable[[str], bytes | None]) -> int:
        done = 0
        refused: ConsulRefused | None = None
        ids: dict[str, int] = {}
        there: set[int] = set()
        for _ in range(len(held.messages) + _TRIES):
            look = self._look(name)
            head = look.head
            marks = held.merged(head)
            numbers = {num for num in self.numbers(name, consistent=True) if num > marks.floor}
            more, new_ids = self._there(name, sorted(numbers - there))
            there, ids = (there & numbers).union(more), ids | new_ids
            wanted = held.wanted(head, self._now())
            missing = [one for one in wanted if one.num not in there and one.id not in ids]
            some = missing[: fitting(one.raw for one in missing)]
            whole = listing(marks, there | {one.num for one in some}, _inline(head, some))
            is_whole = head is not None and (head.count, head.floor) == (whole.count, whole.floor)
            if not missing and is_whole and look.is_sound:
                self._settle(name, held, head, ids)
                if refused:
                    raise refused
                return done
            refused = self._put_bodies(some, body) or refused
            operations = [cas(self.keys.head(name), whole.render(), look.at)]
            junk = self.kv.pairs([self.keys.message(name, one.num) for one in some])
            for one in some:
                key = self.keys.message(name, one.num)
                operations.append(cas(key, one.raw, junk[key].index if key in junk else 0))
            if self.kv.write(operations).failures:
                raise Contended(f"others write to the log of {name} at the same time: try again")
            done += len(some)
        raise Contended(f"the log of {name} cannot be written back: others keep writing to it")

    def _put_bodies(
        self, messages: Sequence[Envelope], body: Callable[[str], bytes | None]
    ) -> ConsulRefused | None:
        """Write the bodies that are held; the error, if the token may not: the messages come back anyway."""
        try:
            for one in messages:
                if one.sha256 and (content := body(one.sha256)) is not None:
                    self.bodies.put(content)
        except ConsulRefused as error:
            return error
        return None

    # ------------------------------------------------------------------ clean up

    def sweep(self) -> int:
        """Delete the bodies that no message has referred to for a day; returns how many.

        The token must be allowed to read all messages: of what it may not see, nothing would be known.

        Raises:
            UnknownFormat: a newer agentd wrote a message, so that it is not known to what it refers.
        """
        referenced: set[str] = set()
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for name, num in filter(None, map(self.keys.place_of, self.kv.keys(self.keys.every_message))):
            numbers[name].append(num)
        for name, some in numbers.items():
            for reading in self.portions(name, some):
                for error in reading.troubles.values():
                    if isinstance(error, UnknownFormat):  # junk refers to nothing
                        raise error
                referenced |= {one.sha256 for one in reading.messages if one.sha256}
        return self.bodies.sweep(referenced)


def _inline(head: Head | None, some: Sequence[Envelope]) -> bytes | None:
    if head and head.count and (not some or some[-1].num < head.newest):
        return head.inline
    return some[-1].raw if some else None


def _limit(name: str, look: _Look, before: int | None) -> tuple[Head, int]:
    """The head, and the highest number that is to be forgotten. Raises FleetError."""
    if look.head is None:
        raise FleetError(f"there is no log of {name}: `agentd log` lists the messages that there are")
    floor = look.head.newest if before is None else before
    if floor > look.head.newest:
        raise FleetError(f"the newest message of {name} is {look.head.newest}, not {floor}")
    return look.head, floor
