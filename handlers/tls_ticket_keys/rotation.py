"""The rotation of a fleet's ticket keys: which document follows the newest one, or what it waits for.

Pure: time, keys, and what the nodes acknowledge are arguments. Whoever has the fleet's keys may take the next
step, because a document is published only if the one that it follows from is still the newest.

    IDLE      due, asked for or rung -> STAGED: every node can decrypt with the next key
    STAGED    confirmed by all       -> PROMOTED: the next key encrypts
    PROMOTED  confirmed by all       -> IDLE; the former key counts as demoted from now on
    IDLE      a demoted key is over  -> IDLE without it
    any       revoked                -> PROMOTED with one new key alone
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias

from handlers.tls_ticket_keys.document import MARGIN, Document, key_digest
from handlers.tls_ticket_keys.payload import KEY_SIZE
from handlers.tls_ticket_keys.session_timeout import DEFAULT

OVERDUE: Final = 3600.0
"""Seconds after which a rotation that waits is an alarm."""
BELL_PAUSE: Final = 60.0
"""Seconds after a rotation in which events do not begin another."""

Bell: TypeAlias = tuple[int, str]
"""Lamport time and ID of an event."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that takes the name.

    Attributes:
        name: of the node.
        live: the number of the message in force there, as proved; 0 if none is.
        waits: why a newer one is not in force yet.
        session_timeout: seconds for which it lets a session be resumed; None if unknown.
        most: how many keys it can hold; None for any number.
        size: of how many bytes the keys are that it can hold, and has; None for any.
        is_mute: whether agentd is there, and what it acknowledges is not known.
    """

    name: str
    live: int = 0
    waits: str = ""
    session_timeout: int | None = None
    most: int | None = None
    size: int | None = None
    is_mute: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read of the fleet, at one moment.

    Attributes:
        newest: the number of the log's newest message, whoever wrote it; 0 if there never was one.
        num: the number of the newest document; 0 if there is none.
        document: that document; None if there is none.
        nodes: the nodes that take the name.
        now: unix seconds.
    """

    newest: int
    num: int
    document: Document | None
    nodes: Sequence[Node]
    now: float


@dataclass(frozen=True, slots=True)
class Policy:
    """How keys are rotated.

    Attributes:
        every: seconds between two rotations.
        keep: how many keys a node keeps besides the newest.
        proceed: whether a node that blocks for longer than `OVERDUE` is passed over.
        adopts: whether every new key comes with an event, because some nodes know no other way yet.
    """

    every: float = 43_200.0
    keep: int = 12
    proceed: bool = False
    adopts: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Attributes:
        key: the new key, if one is needed.
        begin: whether to begin although it is not due.
        revoke: whether to replace all keys at once.
        without: nodes that are not waited for.
        bell: the newest event of the name; None if none was heard.
        adopted: whether `key` came with that event.
        frozen: why nothing new may begin; "" if it may.
    """

    key: bytes = field(repr=False)
    begin: bool = False
    revoke: bool = False
    without: frozenset[str] = frozenset()
    bell: Bell | None = None
    adopted: bool = False
    frozen: str = ""


@dataclass(frozen=True, slots=True)
class Publish:
    """The next document, and what it does in a few words."""

    document: Document
    does: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The rotation cannot go on.

    Attributes:
        reason: why.
        since: unix seconds since when; None if that is unknown.
        nodes: the nodes that it waits for.
        lasting: whether it lasts until somebody thaws, or a key leaves.
    """

    reason: str
    since: float | None = None
    nodes: tuple[Node, ...] = ()
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Rest:
    """There is nothing to do, until `until` (unix seconds; None if unknown)."""

    until: float | None = None


Step: TypeAlias = Publish | Wait | Rest


def step(seen: Seen, policy: Policy, wish: Wish) -> Step:
    """The next step."""
    document = seen.document
    if wish.revoke and not (document and document.ring == (wish.key,)):
        return _unready(seen, wish, seen.now) or Publish(_revoked(seen, wish), "replace all keys")
    if document is None or document.phase == "idle":
        return _idle(seen, policy, wish)
    return _unready(seen, wish, document.since) or _under_way(document, seen, policy, wish)


def key_size(seen: Seen) -> int:
    """Bytes of a new key: as many as the others have while a node cannot hold two lengths at once."""
    sizes = [one.size for one in seen.nodes if one.size is not None]
    if not sizes:
        return KEY_SIZE
    return len(seen.document.ring[0]) if seen.document and seen.document.ring else min(sizes)


def _counted(seen: Seen, wish: Wish) -> list[Node]:
    """The nodes that are not left out: what they acknowledge, nobody signed."""
    return [one for one in seen.nodes if one.name not in wish.without]


def _unready(seen: Seen, wish: Wish, since: float | None = None) -> Wait | None:
    """Why nothing may follow from what was read, though something was to since then."""
    mute = _mute(seen, wish)
    if seen.document is None and mute:  # if Consul was wiped, they have a document
        return Wait("nobody knows what these nodes have in force", since, mute)
    if all(one.is_mute for one in seen.nodes):
        return Wait("no node of the fleet acknowledges this name", since)
    highest = max(_counted(seen, wish), key=lambda one: one.live, default=None)
    if highest and seen.newest < highest.live:
        return Wait(
            f"the log is older than what nodes have in force (message {highest.live}, on {highest.name}):"
            f" waiting until they write it back; if that never was in the log, find out who writes for"
            f" {highest.name}, and leave it out with --without",
            since,
        )
    return None


def _mute(seen: Seen, wish: Wish) -> tuple[Node, ...]:
    return tuple(one for one in seen.nodes if one.is_mute and one.name not in wish.without)


# ---------------------------------------------------------------- idle


def _idle(seen: Seen, policy: Policy, wish: Wish) -> Step:
    document = seen.document
    over = () if _mute(seen, wish) else _over(seen, wish)  # they may let sessions live for longer
    due = _due(seen, policy, wish)
    if document is not None and over:
        ring = tuple(key for key in document.ring if key not in over)
        dropped = Publish(_with_ring(document, ring), f"drop {len(over)} expired keys")
        return _unready(seen, wish, min(due, seen.now)) or dropped
    if due > seen.now:
        return Rest(None if due == math.inf else due)
    return _hindered(seen, policy, wish, due) or Publish(_staged(seen, wish), "stage a new key")


def _due(seen: Seen, policy: Policy, wish: Wish) -> float:
    """When the next rotation begins."""
    document = seen.document
    if policy.adopts:
        return seen.now if wish.adopted and _is_rung(document, wish) else math.inf
    if wish.begin or document is None:
        return seen.now
    promoted = document.promoted
    is_known = promoted is not None and promoted <= seen.now + MARGIN  # else some clock was wrong
    dues = [promoted + policy.every if promoted is not None and is_known else seen.now]
    if _is_rung(document, wish):
        dues.append(document.since + BELL_PAUSE)
    return min(dues)


def _is_rung(document: Document | None, wish: Wish) -> bool:
    """Whether an event was heard that no rotation has answered yet."""
    if document is not None and wish.adopted and wish.key in document.ring:
        return False
    return wish.bell is not None and (document is None or (document.bell or (0, "")) < wish.bell)


def _hindered(seen: Seen, policy: Policy, wish: Wish, due: float) -> Wait | None:
    """Why a rotation that is due cannot begin."""
    since = min(due, seen.now)
    if wish.frozen:
        return Wait(f"{wish.frozen}: no rotation begins before `agentd thaw`", since, lasting=True)
    if len(seen.document.ring if seen.document else ()) >= (room := _room(seen, policy, wish)).keys:
        full = f"the ring is full: {room.whose} {room.keys} keys{_free(seen, wish)}"
        return Wait(full, since, lasting=True)
    return _unready(seen, wish, since)


class _Room(NamedTuple):
    keys: int
    whose: str


def _room(seen: Seen, policy: Policy, wish: Wish) -> _Room:
    """How many keys a ring can have with the next one, and what limits it."""
    limited = [one for one in _counted(seen, wish) if one.most is not None]
    rooms = [_Room(one.most or 0, f"{one.name} can hold") for one in limited]
    return min([_Room(policy.keep + 1, "`keep` allows"), *rooms])


def _free(seen: Seen, wish: Wish) -> str:
    """When the oldest key leaves a full ring, and whose sessions need it until then."""
    document, longest = seen.document, _longest(seen, wish)
    ends = [_ends(document, key, longest) for key in document.ring[1:]] if document else []
    whose = f", after the sessions of {longest.whose}" if longest.whose else ""
    return f"; the oldest leaves in {max(0.0, min(ends) - seen.now) / 60:.0f} min{whose}" if ends else ""


def _over(seen: Seen, wish: Wish) -> list[bytes]:
    """The keys that no session needs any more."""
    document, longest = seen.document, _longest(seen, wish)
    if document is None:
        return []
    return [key for key in document.ring[1:] if _ends(document, key, longest) <= seen.now]


class _Longest(NamedTuple):
    seconds: int
    whose: str


def _longest(seen: Seen, wish: Wish) -> _Longest:
    """For how long a session may be resumed, and the node that says so if it is longer than usual."""
    told = [_Longest(one.session_timeout, one.name) for one in _counted(seen, wish) if one.session_timeout]
    unknown = len(told) < len(_counted(seen, wish)) or not told
    longest = max([*told, *([_Longest(DEFAULT, "")] if unknown else [])])
    return longest if longest.seconds > DEFAULT else _Longest(longest.seconds, "")


def _ends(document: Document, key: bytes, longest: _Longest) -> float:
    """When a key is no longer needed: each session begun with it is over by then, whatever clock counted."""
    return document.demoted.get(key_digest(key), document.since) + longest.seconds + MARGIN


# ---------------------------------------------------------------- under way


def _under_way(document: Document, seen: Seen, policy: Policy, wish: Wish) -> Step:
    without = wish.without.union(document.without)
    waiting = [one for one in seen.nodes if one.name not in without and one.live < seen.num]
    if waiting and policy.proceed and seen.now - document.since >= OVERDUE:
        without |= {one.name for one in waiting}
        waiting = []
    if waiting:
        return Wait(f"{document.phase} is not in force everywhere", document.since, tuple(waiting))
    if all(one.live < seen.num for one in seen.nodes):
        return Wait("no node is left that could confirm", document.since, tuple(seen.nodes))
    left_out = tuple(sorted(without.intersection(one.name for one in seen.nodes if one.live < seen.num)))
    made = replace(document, since=int(seen.now), without=tuple(sorted({*left_out, *document.without})))
    if document.phase == "staged":
        assert document.next is not None  # noqa: S101 (parsing refuses it otherwise)
        return Publish(_promoted(made, document.next), "encrypt with it")
    return Publish(_confirmed(made), "confirm")


def _staged(seen: Seen, wish: Wish) -> Document:
    document, since = seen.document, int(seen.now)
    if document is None:
        return Document("staged", (), since=since, next=wish.key, bell=wish.bell)
    # Whoever begins by hand also begins a new count: Lamport times start over in a rebuilt cluster.
    newest = max(filter(None, (document.bell, wish.bell)), default=None)
    bell = wish.bell if wish.begin and wish.bell else newest
    return replace(document, phase="staged", since=since, next=wish.key, bell=bell, without=())


def _promoted(document: Document, key: bytes) -> Document:
    ring = (key, *document.ring)
    return replace(document, phase="promoted", ring=ring, next=None, promoted=document.since)


def _confirmed(document: Document) -> Document:
    former = {key_digest(key): document.since for key in document.ring[1:2]}
    return replace(document, phase="idle", demoted={**document.demoted, **former})


def _revoked(seen: Seen, wish: Wish) -> Document:
    since = int(seen.now)
    bell = wish.bell or (seen.document.bell if seen.document else None)
    return Document("promoted", (wish.key,), since=since, promoted=since, bell=bell, revoked=since)


def _with_ring(document: Document, ring: tuple[bytes, ...]) -> Document:
    kept = {key_digest(key) for key in ring}
    demoted = {name: at for name, at in document.demoted.items() if name in kept}
    return replace(document, ring=ring, demoted=demoted)
