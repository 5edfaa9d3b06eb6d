"""The ring of a node in a fleet that coordinates it: exactly the document's keys, and those it had before.

Pure functions, like `ring`. Nothing is promoted here by a clock: the document says which key encrypts. Keys
that no document has are foreign; they only decrypt, and leave in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from agentd.handler import LOG_EPOCH, PermanentError
from handlers.tls_ticket_keys.document import MARGIN, PHASES, Document, key_digest
from handlers.tls_ticket_keys.payload import NAME_SIZE
from handlers.tls_ticket_keys.ring import UNCOUNTED, Order, Ring, Schedule, TicketKey, not_after

_NEXT: Final[Order] = (UNCOUNTED, -1, "")  # nobody promotes it by a clock
_MOST_BURNT: Final = 1000  # keys
_REMEMBERED: Final = 86_400.0  # seconds for which a revoked key may still be among Consul's events


def path_of(secret: bytes) -> str:
    """The key's file in the tree."""
    return f"tickets/{key_digest(secret)}.key"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a node remembers of the document that is in force on it: no secret. Times are unix seconds.

    Attributes:
        num: the number of its message.
        phase: see `Document`.
        since: when the phase began, by the coordinator's clock.
        ring: the files of its ring.
        next: the file of the key that is only to decrypt yet, or None.
        revoked: when the keys before were revoked, or None.
        promoted: when the ring's first key was promoted, or None.
        burnt: the files of keys that were revoked, the latest at the end.
    """

    num: int
    phase: str
    since: int
    ring: tuple[str, ...]
    next: str | None = None
    revoked: int | None = None
    promoted: int | None = None
    burnt: tuple[str, ...] = ()

    @classmethod
    def of(cls, num: int, document: Document) -> Taken:
        """That of a document."""
        following = None if document.next is None else path_of(document.next)
        ring = tuple(map(path_of, document.ring))
        return cls(num, document.phase, document.since, ring, following, document.revoked, document.promoted)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Taken:
        """The inverse of `to_json`."""
        return cls(**value | {name: tuple(value.get(name, ())) for name in ("ring", "burnt")})

    def to_json(self) -> dict[str, Any]:
        """As it is in the store."""
        return asdict(self)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of all its keys."""
        return self.ring if self.next is None else (*self.ring, self.next)

    def order(self, path: str) -> Order:
        """Of a key of its ring; such that an agentd that knows no documents encrypts with the same key."""
        return LOG_EPOCH, self.num, f"{len(self.ring) - self.ring.index(path):03}"

    def distrusts(self, now: float) -> bool:
        """Whether a key of which this node does not know how old it is may be one of those revoked."""
        return self.revoked is not None and now < self.revoked + _REMEMBERED

    def report(self) -> dict[str, Any]:
        """What the fleet may know."""
        return {"phase": self.phase, "since": self.since, "num": self.num}

    def gauges(self, every: float) -> dict[str, float]:
        """For an alarm if a rotation does not go on, or begin: 0 is idle, 1 staged, 2 promoted.

        Args:
            every: seconds after which the next one is due.
        """
        return {
            "tls_ticket_rotation_phase": PHASES.index(self.phase),
            "tls_ticket_rotation_since_timestamp_seconds": self.since,
            "tls_ticket_rotation_due_timestamp_seconds": (self.promoted or self.since) + every,
        }


def succeed(ring: Ring, before: Taken | None, num: int, document: Document) -> Taken:
    """What is to be remembered of a document that follows another one on a node with this ring.

    Raises:
        PermanentError: it has a key that was revoked: somebody had an old document signed anew.
    """
    taken, burnt = Taken.of(num, document), before.burnt if before else ()
    if not set(taken.paths).isdisjoint(burnt):
        raise PermanentError(
            "the document of the ticket keys is refused: it has a key that was revoked. Perhaps an old log"
            " was put back (`agentd log`): `agentd rotate-tickets --revoke` makes a new ring"
        )
    if document.revoked is not None and (before is None or document.revoked != before.revoked):
        burnt = (*burnt, *(key.path for key in ring if key.path not in taken.paths))
    return replace(taken, burnt=burnt[-_MOST_BURNT:])


def take(ring: Ring, before: Taken | None, num: int, document: Document, now: float) -> Ring:
    """The ring with the document's keys instead of those of the document before; `follow` puts it in order.

    The first document of all has an empty ring, and takes no key away: it might be the one that encrypts.
    """
    taken = Taken.of(num, document)
    left = before.paths if before and taken.ring else ()
    names = {secret[:NAME_SIZE].hex() for secret in document.keys}  # a ticket finds its key by name
    others = [key for key in ring if key.path not in (*taken.paths, *left) and key.name not in names]
    if before is None and taken.ring and taken.distrusts(now):
        others = []
    held = {key.path: key for key in ring}
    return (*others, *(_added(secret, taken, held, now) for secret in document.keys))


def _added(secret: bytes, taken: Taken, held: Mapping[str, TicketKey], now: float) -> TicketKey:
    path = path_of(secret)
    order = _NEXT if path == taken.next else taken.order(path)
    known = held.get(path)
    if known is None:
        return TicketKey(order, secret[:NAME_SIZE].hex(), path, now)
    return known if path == taken.next and _encrypts(known) else replace(known, order=order)


def follow(ring: Ring, taken: Taken, now: float, schedule: Schedule) -> Ring:
    """Put the ring in order: the document's ring, `next`, the foreign keys; remove what is due at `now`.

    If the document's ring is empty, what encrypted goes on, also if the document has it as the next key; if
    all keys of the ring are lost, a foreign key takes over that is not waiting to be removed. The result is
    empty if there is none: then a new one has to be added.
    """
    held = {key.path: not_after(key, now) for key in ring}
    fleet = [held[path] for path in taken.ring if path in held]
    following = [held[path] for path in (taken.next,) if path in held]
    foreign = [key for path, key in held.items() if path not in taken.paths]
    going_on = [key for key in (*foreign, *following) if _encrypts(key)]
    fresh = [key for key in foreign if key.demoted is None]
    encrypting = next(iter((*fleet, *going_on, *fresh)), None)
    if encrypting is None:
        return ()
    others = [_demoted(key, now) for key in foreign if key is not encrypting]
    staying = [key for key in others if not _over(key, taken, now, schedule)]
    staying.sort(key=lambda key: key.order, reverse=True)
    promoted = now if encrypting.promoted is None else encrypting.promoted
    return (
        replace(encrypting, promoted=promoted, demoted=None),
        *(_demoted(key, now) for key in fleet[1:]),
        *(replace(key, promoted=None, demoted=None) for key in following if key is not encrypting),
        *staying[: schedule.keep],
    )


def next_removal(ring: Ring, taken: Taken, schedule: Schedule) -> float | None:
    """When `follow` next has something to do, in unix seconds, or None."""
    foreign = (key for key in ring if key.path not in taken.paths)
    return min(
        (key.demoted + schedule.retire_after for key in foreign if key.demoted is not None), default=None
    )


def lost(ring: Ring, taken: Taken) -> int:
    """How many of the document's keys this node does not have."""
    return len(set(taken.paths) - {key.path for key in ring})


def _encrypts(key: TicketKey) -> bool:
    return key.promoted is not None and key.demoted is None


def _demoted(key: TicketKey, now: float) -> TicketKey:
    return replace(key, demoted=now if key.demoted is None else key.demoted)


def _over(key: TicketKey, taken: Taken, now: float, schedule: Schedule) -> bool:
    revoked = taken.revoked is not None and key.received <= taken.revoked + MARGIN
    return revoked or (key.demoted is not None and key.demoted + schedule.retire_after <= now)
