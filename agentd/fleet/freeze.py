"""A freeze of the fleet: until a thaw, or until it expires, nodes hold back what is new in the log.

Owns the reserved name under which freezes and thaws are published, their body, and which of them counts: the
one with the highest number, provided that it is believed. What a node holds back, `followed_name` and `relay`
know.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agentd.errors import AgentdError, BadDocument, ConsulRefused, FleetError, UnknownFormat, Untrusted
from agentd.fleet.document import is_text
from agentd.fleet.envelope import Envelope
from agentd.fleet.reader import Reader
from agentd.printable import printable
from agentd.trust.pattern import FREEZE
from agentd.watch.parsing import parse

NAME: Final = FREEZE
"""The name of the log of freezes, which no handler can take."""
LONGEST_REASON: Final = 200
"""Most characters of a reason."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """A freeze, or the thaw that ended one.

    Attributes:
        num: the number of its message.
        frozen: whether it is a freeze.
        publisher: who published it: as verified if it is signed, otherwise by its own account.
        since: unix time at which it was published.
        until: unix time at which it ends by itself; None: at the next thaw.
        reason: as given; may be "".
    """

    num: int
    frozen: bool
    publisher: str
    since: float
    until: float | None = None
    reason: str = ""

    def holds(self, now: float) -> bool:
        """Whether it holds anything back at `now`, in unix seconds."""
        return self.frozen and (self.until is None or now < self.until)

    def __str__(self) -> str:
        return f"frozen by {self.publisher}{f': {self.reason}' if self.reason else ''}"


def render_freeze(reason: str, *, frozen: bool) -> bytes:
    """The body of a message that freezes or thaws."""
    return json.dumps({"frozen": frozen, **({"reason": reason} if reason else {})}).encode()


def parse_freeze(message: Envelope) -> Freeze:
    """What a message of this name says. Whether it is believed, the caller knows.

    Raises:
        BadDocument: neither a freeze nor a thaw.
    """
    if message.kind != "freeze" or message.body is None:
        raise BadDocument("it is neither a freeze nor a thaw")
    try:
        value: Any = parse(message.body).value
    except (ValueError, RecursionError) as error:
        raise BadDocument("its body is not JSON") from error
    if not isinstance(value, dict) or type(value.get("frozen")) is not bool:
        raise BadDocument("its body does not say whether to freeze or to thaw")
    reason = value.get("reason", "")
    if not is_text(LONGEST_REASON)(reason):
        raise BadDocument("its reason is not a short text")
    return Freeze(
        num=message.num,
        frozen=value["frozen"],
        publisher=printable(message.signed_by or message.publisher),
        since=message.issued,
        until=message.expires,
        reason=printable(reason),
    )


def read_freeze(
    log: Reader, verify: Callable[[Envelope], Envelope], *, consistent: bool = False
) -> Freeze | None:
    """The freeze or thaw that counts, None if there never was one; `holds` says whether the fleet is frozen.

    Args:
        log: of the fleet.
        verify: returns a message with its publisher, as `Gate.admit` and `Signing.admit` do, or raises
            Untrusted.
        consistent: ask Consul's leader.

    Raises:
        ConsulUnavailable, ConsulRefused: it cannot be read.
        UnknownFormat: a newer agentd wrote the last one.
        BadDocument: the head is unusable.
    """
    head = log.head(NAME, consistent=consistent)
    found: Freeze | None = None
    for reading in log.after(NAME, 0, head) if head else ():
        for message in reading.messages:
            try:
                found = parse_freeze(verify(message))
            except (BadDocument, Untrusted):  # as for a node, it does not count
                continue
        newer = [num for num, why in reading.troubles.items() if isinstance(why, UnknownFormat)]
        if newer and (found is None or max(newer) > found.num):
            raise reading.troubles[max(newer)]
    return found


def freeze_now(
    log: Reader, verify: Callable[[Envelope], Envelope], now: float
) -> tuple[Freeze | None, list[str]]:
    """The freeze that holds at `now`, in unix seconds; or what to note if that cannot be told.

    Raises:
        ConsulUnavailable: there is no answer.
    """
    try:
        found = read_freeze(log, verify)
    except (ConsulRefused, FleetError) as error:
        return None, [untold(error)]
    return (found if found and found.holds(now) else None), []


def untold(error: AgentdError) -> str:
    """What to note if the freeze cannot be read."""
    return f"cannot tell whether the fleet is frozen: {error}"
