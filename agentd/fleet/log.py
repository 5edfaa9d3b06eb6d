"""The log of a fleet, with all operations on it.

Owns what goes beyond appending: publishing with retries, forgetting, writing back what Consul lost, and
sweeping bodies. The callers decide whether and when.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agentd.backoff import Backoff
from agentd.clock import unix_time
from agentd.errors import (
    ConsulRefused,
    ConsulUnavailable,
    Contended,
    FleetError,
    LogLost,
    UnknownFormat,
)
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.head import Head, Keep
from agentd.fleet.held import Held, listing
from agentd.fleet.keys import Keys
from agentd.fleet.kv import KV, MOST_READS, cas, delete
from agentd.fleet.mending import Found, Now
from agentd.fleet.writer import Writer, fitting

if TYPE_CHECKING:
    from agentd.trust.keyring import Signer

PATIENCE: Final = 20.0
"""Seconds for which a command keeps trying to write."""

_TRIES: Final = 50


class Log(Writer):
    """Reads, writes and repairs the log; see `Writer` and `Reader` for the other arguments and the errors.

    Args:
        believes: whether this node believes a message; None: it believes every one. A message that it does
            not believe cannot keep one that it does out of the log: by taking its number or its ID, or by
            opening a rollout.
    """

    def __init__(
        self,
        kv: KV,
        keys: Keys,
        now: Callable[[], float] = unix_time,
        *,
        signer: Signer | None = None,
        believes: Callable[[Envelope], bool] | None = None,
    ) -> None:
        super().__init__(kv, keys, now, signer=signer)
        self._believes = believes

    def _counts(self, message: Envelope) -> bool:
        return self._believes is None or self._believes(message)

    def publish(  # noqa: PLR0913 (all but two named, and rarely given)
        self,
        name: str,
        draft: Draft,
        *,
        keep: Keep,
        above: int = 0,
        newest: int | None = None,
        patience: float = PATIENCE,
        pause: Callable[[float], object] = time.sleep,
    ) -> int:
        """Append one message, retrying until it is written. Returns its number.

        Args:
            name: the kept name.
            draft: the message.
            keep: see `append`.
            above: give it a higher number than this one, even if Consul has lost what had that.
            newest: see `append`.
            patience: seconds after which to give up.
            pause: waits for the given number of seconds.

        Raises:
            Overtaken, RolloutOpen, RolloutOver: see `append`.
            ConsulUnavailable: `patience` ran out; the message may have been written.
            Contended: `patience` ran out; the message was not written.
        """
        self._exceed(name, above)
        waits, until = Backoff(0.05, 2.0), time.monotonic() + patience
        for attempt in range(1, _TRIES + 1):
            try:
                return self.append(name, [draft], keep=keep, newest=newest)[draft.id].num
            except LogLost:
                self.resume(name, None)  # the nodes will write back what was lost; a command has no copy
            except (Contended, ConsulUnavailable):
                if attempt == _TRIES or time.monotonic() > until:
                    raise
            pause(waits.delay(attempt))
        raise Contended(f"Consul keeps losing the log of {name}: see the logs of its servers")

    # ------------------------------------------------------------------ forget

    def forgettable(self, name: str, before: int | None = None) -> int:
        """How many messages `forget` would delete now; raises what that raises."""
        _, floor = self._limit(name, self._now(name, consistent=True), self._found(name), before)
        return len(self.numbers(name, upto=floor, consistent=True))

    def _limit(self, name: str, now: Now, found: Found, before: int | None) -> tuple[Head, int]:
        """The head, and the highest number to forget. Raises FleetError."""
        if now.head is None and not found.numbers and not now.pruned.floor:
            raise FleetError(f"there is no log of {name}: `agentd log` lists the messages that there are")
        head = self._head_of(now, found)
        floor = head.newest if before is None else before
        if floor > head.newest:
            raise FleetError(f"the newest message of {name} is {head.newest}, not {floor}")
        return head, floor

    def forget(self, name: str, before: int | None = None) -> int:
        """Forget all messages up to a number for good: no node writes them back.

        Args:
            name: the kept name.
            before: the highest number to forget; None for all messages.

        Returns:
            How many messages were deleted.

        Raises:
            FleetError: there is no log of that name, or its newest message is older.
            Contended: other writers were faster every time.
        """
        for _ in range(_TRIES):
            now, found = self._now(name, consistent=True), self._found(name)
            head, floor = self._limit(name, now, found, before)
            marks = replace(head, floor=max(head.floor, floor), base=max(head.base, floor))
            numbers = [num for num in found.numbers if marks.floor < num <= head.newest]
            whole = listing(marks, numbers, found.roles)
            gone = [identity for identity, num in found.ids.items() if num <= floor]
            operations = [cas(self.keys.head(name), whole.render(), now.index)]
            operations += self._remember(name, now.pruned, gone, whole.floor)
            if not self.kv.write(operations).failures:
                return self._delete_forgotten(name, whole.floor)
        raise Contended(f"others keep writing to the log of {name}: try again")

    def _delete_forgotten(self, name: str, floor: int) -> int:
        """Delete what is forgotten. Nobody reads it any more, so an interruption does no harm."""
        gone = self.numbers(name, upto=floor, consistent=True)
        for at in range(0, len(gone), MOST_READS):
            self.kv.write([delete(self.keys.message(name, num)) for num in gone[at : at + MOST_READS]])
        return len(gone)

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
        """Write back verbatim what Consul has lost of a name, if two consistent reads confirm the loss.

        Also rebuilds a head that does not count.

        Args:
            name: the kept name.
            held: this node's copy of the log.
            body: returns the body with that SHA-256 from the node's copy; None if it has none.
            pause: waits between the two reads.
            again: returns the node's copy after the pause; None if it has not changed.

        Returns:
            How many messages were written back.

        Raises:
            Contended: others write at the same time; call again after a pause. ConsulRefused: the token lacks
            a right; perhaps the messages were written back, but not the bodies.
        """
        is_lost, head, ids = self._compared(name, held)
        if is_lost:
            pause()
            held = again() or held
            is_lost, head, ids = self._compared(name, held)
            if is_lost:
                return self._written_back(name, held, body)
        self._settle(name, held, head, ids)
        return 0

    def _compared(self, name: str, held: Held) -> tuple[bool, Head | None, dict[str, int]]:
        """Whether the log lacks messages of the copy; its head; the IDs of messages that the copy lacks."""
        now = self._now(name, consistent=True)
        numbers = self.numbers(name, above=now.pruned.floor, consistent=True)
        known = {one.num for one in held.messages}
        # Messages above the copy are read like any news; those in it only if they may be forged.
        late = [num for num in numbers if num <= held.head.newest and (self._believes or num not in known)]
        there, ids, _ = self._there(name, late, self._squatters(held))
        found = {*there, *(num for num in numbers if num not in late)}
        is_lost = (
            held.knows_more(now.head)
            or bool(held.missing(now.head, found, ids, self._clock()))
            or not self._is_believed(name, now)
        )
        return is_lost, now.head, ids

    def _squatters(self, held: Held) -> Callable[[Envelope], bool]:
        """Whether a message, which this node does not believe, has the number or ID of one that it holds."""
        believes = self._believes
        if believes is None:
            return lambda _: False
        numbers = {one.num: one for one in held.messages}
        ids = {one.id: one for one in held.messages}

        def squats(message: Envelope) -> bool:
            rivals = filter(None, (numbers.get(message.num), ids.get(message.id)))
            return any(one.raw != message.raw and believes(one) and not believes(message) for one in rivals)

        return squats

    def _written_back(self, name: str, held: Held, body: Callable[[str], bytes | None]) -> int:
        done = 0
        refused: ConsulRefused | None = None
        ids: dict[str, int] = {}
        there: set[int] = set()
        roles = {one.num: one.role for one in held.messages}
        squats = self._squatters(held)
        for _ in range(len(held.messages) + _TRIES):
            now = self._now(name, consistent=True)
            found = self._found(name, max(now.pruned.floor, held.head.floor), there, squats)
            there, ids, roles = set(found.numbers), ids | found.ids, roles | found.roles
            head = self._head_of(now, found) if now.index or now.pruned.floor or there else None
            marks = held.merged(head)
            missing = held.missing(head, there, ids, self._clock())
            some = missing[: fitting(one.raw for one in missing)]
            moved = [ids[one.id] for one in some if one.id in ids]
            numbers = there.union(one.num for one in some).difference(moved)
            whole = listing(marks, [num for num in numbers if num > marks.floor], roles)
            if some and some[-1].num == whole.newest:
                whole = replace(whole, inline=some[-1].raw)
            if now.head and not missing and now.head == _alike(whole, now.head):
                self._delete_forgotten(name, whole.floor)
                self._settle(name, held, now.head, ids)
                if refused:
                    raise refused
                return done
            refused = self._put_bodies(some, body) or refused
            operations = [cas(self.keys.head(name), self._stamped(whole, now.head).render(), now.index)]
            operations += self._remember(name, now.pruned, [], whole.floor)
            operations += [delete(self.keys.message(name, num)) for num in moved]
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
        """Write the bodies that the copy has. Returns a refusal, which must not hold up the messages."""
        try:
            for one in messages:
                if one.sha256 and (content := body(one.sha256)) is not None:
                    self.bodies.put(content)
        except ConsulRefused as error:
            return error
        return None

    # ------------------------------------------------------------------ clean up

    def sweep(self) -> int:
        """Delete the bodies that no message has referred to for a day. Returns how many.

        The token must be allowed to read all messages, or bodies that are still needed would be deleted.

        Raises:
            UnknownFormat: a newer agentd wrote a message, so it is unknown to which body it refers.
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


def _alike(head: Head, other: Head) -> Head:
    """The head with `mended` and `inline` of the other one, so that the rest can be compared."""
    return replace(head, mended=other.mended, inline=other.inline)
