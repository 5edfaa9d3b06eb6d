"""Reading the log: heads, messages by their keys, bodies.

Owns that nothing is believed which is not what it claims to be: a message counts at its own key only, a body
under its own digest only. It writes nothing, and neither waits nor repeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentd.errors import BadDocument, FleetError
from agentd.fleet.envelope import LARGEST, Envelope, parse_envelope
from agentd.fleet.head import FleetRecord, Head, parse_head, parse_record
from agentd.fleet.keys import POISONED, Keys
from agentd.fleet.kv import KV, MOST_READS

MOST_LISTED: Final = 8192
"""Messages of one name that are read; the log keeps half as many, so there are more only if others write."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found at some numbers of a name.

    Attributes:
        messages: ascending.
        troubles: of a number, why there is no usable message: UnknownFormat (it waits), or BadDocument.
        missing: the numbers at which there is nothing: pruned meanwhile, or never there.
    """

    messages: tuple[Envelope, ...] = ()
    troubles: Mapping[int, FleetError] = field(default_factory=dict)
    missing: tuple[int, ...] = ()


class Reader:
    """The log of a fleet, to be read. Each method may raise ConsulUnavailable or ConsulRefused."""

    def __init__(self, kv: KV, keys: Keys) -> None:
        self.kv = kv
        self.keys = keys

    # ------------------------------------------------------------------ heads

    def head(self, name: str, *, consistent: bool = False) -> Head | None:
        """The head of a name, None if it has none. Raises UnknownFormat or BadDocument."""
        pair = self.kv.pair(self.keys.head(name), consistent=consistent)
        return None if pair is None else parse_head(pair.value)

    def heads(self) -> dict[str, Head | FleetError]:
        """The head of every name, or why it cannot be used; what else lies there is passed over."""
        wanted = [key for key in self.kv.keys(self.keys.names) if self.keys.name_of(key)]
        found: dict[str, Head | FleetError] = {}
        for key, pair in self.kv.pairs(wanted).items():
            name = self.keys.name_of(key) or ""
            try:
                found[name] = parse_head(pair.value)
            except FleetError as error:
                found[name] = error
        return found

    def record(self) -> FleetRecord | None:
        """The fleet's record, None if nobody has written to its log yet. Raises as `head`."""
        pair = self.kv.pair(self.keys.record)
        return None if pair is None else parse_record(pair.value)

    # ------------------------------------------------------------------ messages

    def numbers(self, name: str, *, consistent: bool = False) -> list[int]:
        """The numbers at which there are messages, ascending; the newest `MOST_LISTED` of them."""
        listed = self.kv.keys(self.keys.messages(name), consistent=consistent)
        numbers = (self.keys.number_of(name, key) for key in listed)
        return sorted(num for num in numbers if num)[-MOST_LISTED:]

    def message(self, name: str, num: int) -> Envelope | None:
        """The message of that number, None if there is none. Raises UnknownFormat or BadDocument."""
        found = self.read(name, [num])
        if found.troubles:
            raise found.troubles[num]
        return found.messages[0] if found.messages else None

    def after(self, name: str, num: int, head: Head | None) -> Iterator[Reading]:
        """All messages above `num`, up to the newest, in order, as many at a time as one transaction reads.

        Args:
            name: of the log.
            num: 0 for all messages.
            head: as it was read; it may name the numbers, which saves a listing of the keys.
        """
        numbers = head.above(num) if head else None
        if numbers is None:
            last = head.newest if head else POISONED
            numbers = tuple(one for one in self.numbers(name) if num < one <= last)
        yield from self.portions(name, numbers)

    def portions(self, name: str, numbers: Sequence[int], *, consistent: bool = False) -> Iterator[Reading]:
        """The messages of these numbers, as many at a time as one transaction reads."""
        for at in range(0, len(numbers), MOST_READS):
            yield self.read(name, numbers[at : at + MOST_READS], consistent=consistent)

    def read(self, name: str, numbers: Iterable[int], *, consistent: bool = False) -> Reading:
        """The messages of these numbers."""
        wanted = {num: self.keys.message(name, num) for num in numbers}
        pairs = self.kv.pairs(wanted.values(), consistent=consistent)
        messages, troubles, missing = [], {}, []
        for num, key in wanted.items():
            if key not in pairs:
                missing.append(num)
                continue
            try:
                messages.append(self._believed(key, pairs[key].value))
            except FleetError as error:
                troubles[num] = error
        return Reading(tuple(messages), troubles, tuple(missing))

    def _believed(self, key: str, raw: bytes) -> Envelope:
        found = parse_envelope(raw)
        if not found.lies_at(self.keys, key):
            raise BadDocument(f"{key} holds a message that belongs elsewhere: it was copied there")
        return found

    # ------------------------------------------------------------------ payloads

    def payload(self, message: Envelope) -> bytes | None:
        """The payload of a message; None if its body is not there (yet).

        Raises:
            BadDocument: something else lies in its place.
        """
        if message.body is not None:
            return message.body
        pair = self.kv.pair(self.keys.body(message.sha256 or ""))
        if pair is None:
            return None
        if len(pair.value) > LARGEST or hashlib.sha256(pair.value).hexdigest() != message.sha256:
            raise BadDocument(f"{pair.key} holds another body than the one that is named so")
        return pair.value
