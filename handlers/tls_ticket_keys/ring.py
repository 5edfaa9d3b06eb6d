"""The ring of session ticket keys: which key encrypts, which only decrypt, and until when.

Pure functions: time is an argument, and the secrets are elsewhere. A key first only decrypts, so that every
node can decrypt with it before any node encrypts with it; then it is promoted, and later demoted by the next
one. Which key encrypts depends only on the keys' order, never on when they arrived, so nodes that received
the same keys in different orders end up with the same ring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from agentd.handler import LOG_EPOCH

Order = tuple[int, int, str]
"""Epoch, Lamport time and ID of the event that brought the key.

Two keys compare alike on every node, although an epoch has another number there: nodes count the losses of
Consul's data that they have seen.
"""
_SHORT: Final = 8  # hex digits of the key's SHA-256, with which its file's name begins
UNCOUNTED: Final = -1
"""The epoch of a key from before agentd counted them: whatever comes now is newer."""


@dataclass(frozen=True, slots=True)
class TicketKey:
    """What is known about one key, without its secret. Times are unix seconds.

    Attributes:
        name: the 16-byte key name, in hex.
        path: the key's file in the tree; the same only for the same key.
        received: when this node received it.
        promoted: when it first encrypted here, or None.
        demoted: when a newer key began to encrypt, or None.
    """

    order: Order
    name: str
    path: str
    received: float
    promoted: float | None = None
    demoted: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is in the store."""
        return {
            "epoch": self.order[0],
            "id": list(self.order[1:]),
            "name": self.name,
            "path": self.path,
            "received": self.received,
            "promoted": self.promoted,
            "demoted": self.demoted,
        }

    def report(self) -> dict[str, Any]:
        """What the fleet may know: a digest of the key, and times in whole seconds."""
        times = {"since": self.received, "promoted": self.promoted, "demoted": self.demoted}
        told = {name: round(at) for name, at in times.items() if at is not None}
        return {"key": PurePosixPath(self.path).name[:_SHORT], **told}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TicketKey:
        """The inverse of `to_json`."""
        ltime, event = value["id"]
        times = (value[field] for field in ("received", "promoted", "demoted"))
        order = int(value.get("epoch", UNCOUNTED)), int(ltime), str(event)
        return cls(order, value["name"], value["path"], *times)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The operator's rules. Times are seconds.

    Attributes:
        promote_after: from received to encrypting.
        retire_after: from demoted to removed.
        keep: the most keys besides the newest one (and the encrypting one, if that is even older).
    """

    promote_after: float
    retire_after: float
    keep: int


Ring = tuple[TicketKey, ...]
"""The key that encrypts, then the others from the newest to the oldest."""


def admit(ring: Ring, key: TicketKey) -> Ring:
    """Add a key. If it is already there, it only gets the lower of the two orders; that of the log counts.

    Raises:
        ValueError: another key in the ring has the same name, so tickets would find the wrong one.
    """
    for known in ring:
        if known.path == key.path:
            orders = [known.order, key.order]
            logged = [order for order in orders if order[0] >= LOG_EPOCH]
            older = replace(known, order=min(logged or orders))
            return tuple(older if other is known else other for other in ring)
        if known.name == key.name:
            raise ValueError(
                f"another key in the ring has the same name; it was received at {known.received:.0f}"
            )
    return (*ring, key)


def settle(ring: Ring, now: float, schedule: Schedule) -> Ring:
    """Promote, demote and remove what is due at `now`, and put the ring in order."""
    newest_first = sorted((not_after(key, now) for key in ring), key=lambda key: key.order, reverse=True)
    if not newest_first:
        return ()
    ripe = (key for key in newest_first if _ripe_at(key, schedule) <= now)
    encrypting = next(ripe, newest_first[0])
    stamped = (_stamp(key, encrypting, now) for key in newest_first)
    # By rank among all keys, not among the demoted ones: bursts are bounded, and all nodes drop the same.
    kept = [
        key
        for rank, key in enumerate(stamped)
        if key.order == encrypting.order or (rank <= schedule.keep and not _over(key, now, schedule))
    ]
    return tuple(sorted(kept, key=lambda key: key.order != encrypting.order))


def next_step(ring: Ring, schedule: Schedule) -> float | None:
    """When `settle` next has something to do, in unix seconds, or None."""
    return min(_steps(ring, schedule), default=None)


def _steps(ring: Ring, schedule: Schedule) -> Iterable[float]:
    for key in ring[1:]:
        yield _ripe_at(key, schedule) if key.demoted is None else key.demoted + schedule.retire_after


def _ripe_at(key: TicketKey, schedule: Schedule) -> float:
    # Once promoted it stays promoted, even if the operator has raised `promote_after` since then.
    return key.received + schedule.promote_after if key.promoted is None else key.promoted


def _stamp(key: TicketKey, encrypting: TicketKey, now: float) -> TicketKey:
    if key.order < encrypting.order:
        return replace(key, demoted=now if key.demoted is None else key.demoted)
    if key.order == encrypting.order:
        return replace(key, promoted=now if key.promoted is None else key.promoted, demoted=None)
    return replace(key, demoted=None)


def _over(key: TicketKey, now: float, schedule: Schedule) -> bool:
    return key.demoted is not None and key.demoted + schedule.retire_after <= now


def not_after(key: TicketKey, now: float) -> TicketKey:
    """The clock may have been set back: a time in the future would delay the key by that long."""
    promoted, demoted = (None if at is None else min(at, now) for at in (key.promoted, key.demoted))
    return replace(key, received=min(key.received, now), promoted=promoted, demoted=demoted)
