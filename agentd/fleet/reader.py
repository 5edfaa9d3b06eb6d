"""Reads the log: heads, messages by key, and bodies.

Owns the verification: a message counts only at its own key, a body only under its own digest. Never writes,
waits or retries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentd.errors import BadDocument, FleetError, Misplaced, UnknownFormat
from agentd.fleet.envelope import LARGEST, Envelope, parse_envelope
from agentd.fleet.head import FleetRecord, Head, parse_head, parse_record
from agentd.fleet.keys import POISONED, Keys
from agentd.fleet.kv import KV, MOST_READS

MOST_LISTED: Final = 8192
"""Most messages of one name to read: twice what the log keeps, so only junk can exceed it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found at the requested numbers of a name.

    Attributes:
        messages: the usable ones, ascending.
        troubles: for each unusable message its number and why: UnknownFormat (it has to wait) or BadDocument.
        missing: the numbers without a message: pruned in the meantime, or never written.
    """

    messages: tuple[Envelope, ...] = ()
    troubles: Mapping[int, FleetError] = field(default_factory=dict)
    missing: tuple[int, ...] = ()


class Reader:
    """Read access to a fleet's log. Every method may raise ConsulUnavailable or ConsulRefused."""

    def __init__(self, kv: KV, keys: Keys) -> None:
        self.kv = kv
        self.keys = keys

    # ------------------------------------------------------------------ heads

    def head(self, name: str, *, consistent: bool = False) -> Head | None:
        """The head of a name, None if it has none. Raises UnknownFormat or BadDocument."""
        pair = self.kv.pair(self.keys.head(name), consistent=consistent)
        try:
            return None if pair is None else parse_head(pair.value)
        except UnknownFormat as error:
            raise UnknownFormat(f"{name}: {error}; {if_forged(self.keys.head(name))}") from error

    def heads(self) -> dict[str, Head | FleetError]:
        """The head of every name, or why it is unusable; other keys among the heads are skipped."""
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
        """The fleet's record, None if nobody has written to its log yet. Raises what `head` raises."""
        pair = self.kv.pair(self.keys.record)
        try:
            return None if pair is None else parse_record(pair.value)
        except UnknownFormat as error:
            raise UnknownFormat(f"{error}; {if_forged(self.keys.record)}") from error

    # ------------------------------------------------------------------ messages

    def numbers(
        self, name: str, *, above: int = 0, upto: int = POISONED, consistent: bool = False
    ) -> list[int]:
        """The numbers of the newest `MOST_LISTED` messages in that range, ascending, with those of junk."""
        listed = self.kv.keys(self.keys.messages(name), consistent=consistent)
        numbers = (self.keys.number_of(name, key) for key in listed)
        return sorted(num for num in numbers if num and above < num <= upto)[-MOST_LISTED:]

    def message(self, name: str, num: int) -> Envelope | None:
        """The message with that number, None if there is none. Raises UnknownFormat or BadDocument."""
        found = self.read(name, [num])
        if found.troubles:
            raise found.troubles[num]
        return found.messages[0] if found.messages else None

    def after(self, name: str, num: int, head: Head | None) -> Iterator[Reading]:
        """Yield all messages above `num` up to the newest, in order, one transaction's worth at a time.

        What was forgotten is none of them, even if its key is still there.

        Args:
            name: the kept name.
            num: 0 for all messages.
            head: the head as read; if it lists the numbers, the keys need not be listed.
        """
        numbers: Sequence[int] | None = head.above(num) if head else None
        if numbers is None:
            marks = head or Head("all", POISONED)
            numbers = self.numbers(name, above=max(num, marks.floor), upto=marks.newest)
        yield from self.portions(name, numbers)

    def portions(self, name: str, numbers: Sequence[int], *, consistent: bool = False) -> Iterator[Reading]:
        """Yield the messages with these numbers, one transaction's worth at a time."""
        for at in range(0, len(numbers), MOST_READS):
            yield self.read(name, numbers[at : at + MOST_READS], consistent=consistent)

    def read(self, name: str, numbers: Iterable[int], *, consistent: bool = False) -> Reading:
        """Read the messages with these numbers."""
        wanted = {num: self.keys.message(name, num) for num in numbers}
        pairs = self.kv.pairs(wanted.values(), consistent=consistent)
        messages, missing = [], []
        troubles: dict[int, FleetError] = {}
        for num, key in wanted.items():
            if key not in pairs:
                missing.append(num)
                continue
            try:
                messages.append(self._believed(key, pairs[key].value))
            except UnknownFormat as error:
                troubles[num] = UnknownFormat(f"message {num} of {name}: {error}; {if_forged(key)}")
            except FleetError as error:
                troubles[num] = error
        return Reading(tuple(messages), troubles, tuple(missing))

    def _believed(self, key: str, raw: bytes) -> Envelope:
        found = parse_envelope(raw)
        if not found.lies_at(self.keys, key):
            raise Misplaced(f"{key} holds a message that was copied from another key")
        return found

    # ------------------------------------------------------------------ payloads

    def payload(self, message: Envelope) -> bytes | None:
        """The payload of a message; None if its body is missing (perhaps not replicated yet).

        Raises:
            BadDocument: the body does not match its digest, or the payload is sealed: see `Keyring.body`.
        """
        if message.is_sealed:
            raise BadDocument("its payload is sealed")
        if message.body is not None:
            return message.body
        pair = self.kv.pair(self.keys.body(message.sha256 or ""))
        if pair is None:
            return None
        if len(pair.value) > LARGEST or hashlib.sha256(pair.value).hexdigest() != message.sha256:
            raise BadDocument(f"{pair.key} holds a body that does not match its SHA-256")
        return pair.value


def if_forged(key: str) -> str:
    """What to do about a newer format: nobody can tell who wrote it, and it holds up all who read the key."""
    return f"if nobody publishes with a newer one, it is forged: `consul kv delete {key}`"
