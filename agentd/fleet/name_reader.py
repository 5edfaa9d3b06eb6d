"""Reads one kept name from the log, as far as this node can use it.

Owns which messages count: junk is skipped, and so is what the gate does not believe; a message of a newer
format blocks what comes after it, and one that has expired or is for other nodes is left out. Knows nothing
of handlers or the journal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from agentd.errors import BadDocument, FleetError, Misplaced, NoFleetKey, UnknownFormat, Untrusted
from agentd.fleet.envelope import Envelope, parse_envelope
from agentd.fleet.gate import EXPIRED, MALFORMED, REPLAYED, Gate
from agentd.fleet.head import Head
from agentd.fleet.keys import Keys
from agentd.fleet.log_budget import LogBudget
from agentd.fleet.reader import Reader, Reading, if_forged
from agentd.fleet.target import Services, matches

_UNUSABLE: Final = "fleet.message_unusable"
_DIGITS: Final = 8
_MOST_REPORTED: Final = 256  # messages of which is known that they were reported
_MOST_TOKENS: Final = 4096  # signatures of which is known to which message they belong

_log = structlog.get_logger()


class MustWait(Exception):  # noqa: N818 (nothing went wrong)
    """The next message cannot be queued yet; the text says why. "" if the journal has no room."""


class Refused(NamedTuple):
    """What lies at a number and is not believed; small, since there may be thousands, of up to 64 KiB each.

    Attributes:
        num: the number.
        digest: the same for the same message.
        reason: `Untrusted.reason`.
        text: what is wrong with it.
        is_message: whether it is a message, which other nodes may believe; junk is nobody's.
    """

    num: int
    digest: str
    reason: str
    text: str
    is_message: bool = True


class Usable(NamedTuple):
    """What of a reading counts.

    Attributes:
        messages: in order, up to the first that has to wait.
        waits: why that one waits; None if none does.
        refused: what is not believed among them.
    """

    messages: list[Envelope]
    waits: MustWait | None
    refused: list[Refused]


class Library(Protocol):
    """The log and the local agent, over one connection; used by one thread."""

    @property
    def reader(self) -> Reader:
        """Reads the log."""
        ...

    def services(self) -> Services:
        """The services on this node, from its agent. Raises ConsulError."""
        ...

    def lacking(self) -> str:
        """The ACL rules that the token lacks to read the log, "" if none. Raises ConsulError."""
        ...

    def close(self) -> None:
        """Close, from any thread; a request in flight fails."""
        ...


class NameReader:
    """Reads the messages of one kept name.

    Args:
        name: the kept name.
        keys: the fleet's keys.
        node: returns this node's name in the fleet.
        library: opens the connection, or returns the open one.
        clock: unix seconds.
        gate: what this node believes.
    """

    def __init__(
        self,
        name: str,
        keys: Keys,
        *,
        node: Callable[[], str],
        library: Callable[[], Library],
        clock: Callable[[], float],
        gate: Gate,
    ) -> None:
        self._name = name
        self._keys = keys
        self._node = node
        self._library = library
        self._clock = clock
        self._gate = gate
        self._signed: dict[bytes, int] = {}  # signature -> number of its message, the oldest first
        self._budget = LogBudget(clock)
        self._reported: dict[tuple[str, int], None] = {}  # what was reported of which message, oldest first

    def numbers(self) -> list[int]:
        """The numbers of all messages, ascending."""
        return self._library().reader.numbers(self._name)

    def portions(self, numbers: Sequence[int]) -> Iterable[Reading]:
        """The messages with these numbers, one transaction's worth at a time."""
        return self._library().reader.portions(self._name, numbers)

    def after(self, start: int, head: Head) -> Iterable[Reading]:
        """All messages above `start`. If only the newest is missing, its copy in the head saves a request."""
        if head.inline is not None and head.above(start) == (head.newest,):
            try:
                newest = parse_envelope(head.inline)
                if newest.lies_at(self._keys, self._keys.message(self._name, head.newest)):
                    return [Reading((newest,))]
            except FleetError:  # only the message at its own key counts
                pass
        return self._library().reader.after(self._name, start, head)

    def usable(self, reading: Reading, newest: int) -> Usable:
        """What counts of a reading, up to number `newest`."""
        found = Usable([], None, [])
        by_num = {one.num: one for one in reading.messages}
        for num in sorted({*by_num, *reading.troubles}):
            if num > newest:
                break
            if num in by_num:
                try:
                    found.messages.append(self._admitted(by_num[num]))
                except Untrusted as error:
                    refused = Refused(num, _digest(by_num[num].raw), error.reason, str(error))
                    found.refused.append(refused)
            elif isinstance(trouble := reading.troubles[num], UnknownFormat):
                self._report("fleet.waits_for_format", num, trouble)
                return found._replace(waits=MustWait(self._newer(num)))
            else:  # junk, which every node skips
                self._report(_UNUSABLE, num, trouble)
                if self._gate.judges:  # perhaps somebody altered a true message, or copied it to another key
                    reason = REPLAYED if isinstance(trouble, Misplaced) else MALFORMED
                    digest = _digest(str(trouble).encode())
                    found.refused.append(Refused(num, digest, reason, str(trouble), is_message=False))
        return found

    def _admitted(self, message: Envelope) -> Envelope:
        """The message as the gate admits it. Raises Untrusted."""
        signature = message.signed.token.signature if message.signed else b""
        try:
            admitted = self._gate.admit(message)
        except Untrusted as error:
            if (original := self._signed.get(signature)) is None:
                raise
            raise Untrusted(f"it is a copy of message {original}: {error}", REPLAYED) from error
        if signature:
            self._signed[signature] = message.num
            if len(self._signed) > _MOST_TOKENS:
                del self._signed[next(iter(self._signed))]
        return admitted

    def expired(self, messages: Iterable[Envelope], *, live: bool) -> list[Refused]:
        """The signed messages that were over before this node first saw them. For `live` see `concerns`."""
        text = "its time to live was over before this node saw it"
        return [
            Refused(one.num, _digest(one.raw), EXPIRED, text)
            for one in messages
            if one.signed_by and self._is_over(one, live=live) and self._is_for_us(one)
        ]

    def replayed(self, head: Head, pruned: int) -> list[Refused]:
        """The signed messages up to number `pruned` that were pruned or forgotten, and are listed again."""
        if not self._gate.judges:
            return []
        lowest = max(head.floor, head.base)
        numbers = [num for num in self.numbers() if lowest < num <= pruned]
        text = "it was pruned or forgotten before, and was put into the log again"
        return [
            Refused(one.num, _digest(one.raw), REPLAYED, text)
            for reading in self.portions(numbers)
            for one in self.usable(reading, pruned).messages
            if one.signed_by
        ]

    def _newer(self, num: int) -> str:
        text = f"message {num} has a newer format: upgrade agentd"
        if not self._gate.judges:
            return text
        # Nobody can tell who signed it, and whoever may write to the log can stop all nodes like this.
        return f"{text}; {if_forged(self._keys.message(self._name, num))}"

    def unusable(self, error: FleetError) -> str:
        """Why the head cannot be used."""
        text = f"its head cannot be used: {error}"
        if isinstance(error, UnknownFormat) and self._gate.judges:  # as above
            return f"{text}; {if_forged(self._keys.head(self._name))}"
        return text

    def newest(self, head: Head) -> int:
        """The number of the newest message that counts, among those that the head lists; 0 if none does."""
        reading = self._library().reader.read(self._name, head.recent)
        return max((one.num for one in self.usable(reading, head.newest).messages), default=0)

    def is_there(self, num: int) -> bool:
        """Whether there is a message with that number which counts; True for 0, which stands for none."""
        reading = self._library().reader.read(self._name, [num] if num else [])
        return not num or any(self.usable(reading, num).messages)

    def is_snapshot(self, num: int) -> bool:
        """Whether there is a message with that number which counts, and which is a snapshot."""
        reading = self._library().reader.read(self._name, [num])
        return any(one.snapshot for one in self.usable(reading, num).messages)

    def concerns(self, message: Envelope, *, live: bool) -> bool:
        """Whether this node's handlers should get the message.

        Args:
            message: a message of this name.
            live: whether this node was following the log when the message was written.
        """
        return not self._is_over(message, live=live) and self._is_for_us(message)

    def _is_over(self, message: Envelope, *, live: bool) -> bool:
        """Whether it had expired before this node saw it; never if it is new, whatever the clocks say."""
        is_new = live and not message.is_signed_again
        return not is_new and message.is_over(self._clock())

    def _is_for_us(self, message: Envelope) -> bool:
        if message.kind == "freeze":
            return False
        try:
            return matches(message, self._node, lambda: self._library().services())
        except BadDocument as error:
            self._report(_UNUSABLE, message.num, error)
            return False

    def payload(self, message: Envelope) -> bytes:
        """The payload of a message, wherever it is stored; b"" of one that is sealed, and stays so.

        Raises:
            MustWait: it is missing or damaged, or this node lacks the key that opens it.
        """
        try:
            self._gate.require_key(message)
        except NoFleetKey as error:
            self._report("fleet.waits_for_key", message.num, error)
            raise MustWait(str(error)) from error
        if message.is_sealed:
            return b""
        try:
            body = self._library().reader.payload(message)
        except BadDocument as error:
            raise MustWait(f"message {message.num}: {error}") from error
        if body is None:
            raise MustWait(
                f"the payload of message {message.num} is missing: if that persists, replace it by a snapshot"
                f" (`agentd publish {message.name} --snapshot`)"
            )
        return body

    def require_rights(self) -> None:
        """Rule out that messages are missing because the token may not read them. Raises MustWait."""
        if lacking := self._library().lacking():
            raise MustWait(f"the token may not read its messages: add to the token's policy: {lacking}")

    def _report(self, event: str, num: int, error: FleetError) -> None:
        """Log what is wrong with a message, once, however often it is read; of many, of some."""
        if (event, num) not in self._reported:
            self._reported[event, num] = None
            if len(self._reported) > _MOST_REPORTED:
                del self._reported[next(iter(self._reported))]
            if self._budget.take():
                _log.warning(event, event_name=self._name, num=num, reason=str(error))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
