"""Drives a rotation: reads the fleet, publishes what follows, and waits until the nodes confirm it.

Keeps nothing: whoever runs it next, here or elsewhere, goes on from the newest document. So it may be killed
at any point. After a lost race, or a write without an answer, it reads again and decides again.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from agentd.command import AgentdError, ConsulError, PermanentError
from handlers.tls_ticket_keys.document import Document, key_digest
from handlers.tls_ticket_keys.payload import KEY_SIZE, NAME_SIZE, SIZES, read_key
from handlers.tls_ticket_keys.rotation import (
    OVERDUE,
    Bell,
    Node,
    Policy,
    Publish,
    Rest,
    Seen,
    Step,
    Wait,
    Wish,
    key_size,
    step,
)

if TYPE_CHECKING:
    from agentd.command import CoordinatedName, State, Taker

_MOST_SECONDS: Final = 10**8
_MOST_KEYS: Final = 1000
_STALE: Final = 5.0  # seconds after which the log is read again, though no node has changed
_AGAIN: Final = 0.05  # seconds until the log is read again after a write that was overtaken


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked for.

    Attributes:
        due: do only what is due, rather than begin a rotation and see it through.
        revoke: replace all keys at once.
        without: nodes that are not waited for.
        dry: say what would be done, and do nothing.
    """

    due: bool = False
    revoke: bool = False
    without: frozenset[str] = frozenset()
    dry: bool = False


@dataclass(slots=True)
class Result:
    """What came of it.

    Attributes:
        seen: the fleet as it was read last.
        last: the last step: a `Publish` only of a dry run.
        due: whether only what is due was asked for.
        did: what was published: number, and what it does.
    """

    seen: Seen
    last: Step
    due: bool = False
    did: list[tuple[int, str]] = field(default_factory=list)

    @property
    def overdue(self) -> bool:
        """Whether it has waited for so long that somebody should look."""
        wait = self.last
        return isinstance(wait, Wait) and wait.since is not None and self.seen.now - wait.since >= OVERDUE


class Coordinator:
    """Rotates the keys of one name.

    Args:
        name: of the log.
        policy: how.
        asked: what for.
        tell: called with what is published and with what is waited for, as they come.
        clock: unix seconds.
    """

    def __init__(
        self,
        name: CoordinatedName,
        policy: Policy,
        asked: Asked,
        tell: Callable[[Seen, Step, int | None], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._policy = policy
        self._asked = asked
        self._tell = tell
        self._clock = clock
        self._key = secrets.token_bytes(KEY_SIZE)
        self._former: bytes | None = None  # what encrypted before the rotation that is seen through
        self._revoked = 0  # when keys had been revoked before
        self._is_based = False

    def run(self) -> Result:
        """Go on until nothing is left to do, or the time is over.

        Raises:
            AgentdError: nothing can be decided by what the log has, or no node would understand it.
            ConsulUnavailable, ConsulRefused: Consul cannot be read or written.
        """
        seen = self._read()
        self._require_known(seen)
        result = Result(seen, Rest(), self._asked.due)
        while True:
            last = result.last = step(seen, self._policy, self._wish(seen))
            result.seen = seen
            if (
                isinstance(last, Publish)
                and last.document.phase == "staged"
                and self._asked.due
                and result.did
            ):
                last = result.last = Rest(seen.now)  # one rotation a run
            if isinstance(last, Wait):
                self._tell(seen, last, None)
            if isinstance(last, Rest) or self._asked.dry or self._name.left() <= 0:
                return result
            if isinstance(last, Wait) and last.lasting:
                return result
            seen = self._publish(seen, last, result) if isinstance(last, Publish) else self._await(seen, last)

    def _require_known(self, seen: Seen) -> None:
        """Refuse to leave out a node that there is not: it was mistyped, or is gone already."""
        if unknown := sorted(self._asked.without.difference(one.name for one in seen.nodes)):
            raise AgentdError(
                f"no node {unknown[0]!r} of the fleet takes {self._name.name!r}, so it cannot be left out:"
                " `agentd tickets` shows the nodes"
            )

    def _publish(self, seen: Seen, following: Publish, result: Result) -> Seen:
        try:
            payload = following.document.render()
        except ValueError as error:
            raise AgentdError(f"the next document cannot be published: {error}") from error
        num = self._name.publish_after(seen.newest, payload)
        if num is None:
            self._name.pause(_AGAIN)
        else:
            result.did.append((num, following.does))
            self._tell(seen, following, num)
        return self._read()

    # ------------------------------------------------------------------ what is asked for

    def _wish(self, seen: Seen) -> Wish:
        document = seen.document
        if not self._is_based:
            self._former = _former(document)
            self._revoked = _revoked(document)
            self._is_based = bool(seen.nodes) and self._is_whole(seen.newest, seen.nodes)
        is_used = document is not None and self._key in document.ring
        if self._asked.revoke and (is_used or _revoked(document) > self._revoked):  # perhaps by another run
            return Wish(self._key, without=self._asked.without)
        if is_used:
            self._key = b""
        if len(self._key) != (size := key_size(seen)):
            self._key = secrets.token_bytes(size)
        wish = Wish(self._key, without=self._asked.without)
        idle = document is None or document.phase == "idle"
        if not (idle or self._asked.revoke):
            return wish
        bell, heard = self._heard(document)
        wish = replace(wish, bell=bell, revoke=self._asked.revoke, frozen=self._name.frozen())
        if self._policy.adopts and heard is not None and not self._asked.revoke:
            return replace(wish, key=heard, adopted=True)
        begins = not (self._asked.due or self._asked.revoke) and _former(document) == self._former
        return replace(wish, begin=begins)

    def _heard(self, document: Document | None) -> tuple[Bell | None, bytes | None]:
        """The newest empty event; or, if keys come with events, the newest with one, and the key."""
        names = {key[:NAME_SIZE] for key in document.ring} if document else set()
        for event in reversed(self._name.patiently(self._name.heard)):
            bell = int(event.raw["LTime"]), event.id
            if not self._policy.adopts:
                if not event.raw.get("Payload"):
                    return bell, None
                continue
            try:
                key = read_key(event.payload)
            except PermanentError:
                continue
            if key[:NAME_SIZE] not in names:  # else it is there already, or somebody forged it
                return bell, key
        return None, None

    # ------------------------------------------------------------------ what there is

    def _read(self) -> Seen:
        state = self._name.read()
        nodes = list(map(_node, state.takers))
        document = self._document(state, nodes)
        return Seen(state.newest, state.num if document else 0, document, nodes, self._clock())

    def _document(self, state: State, nodes: Sequence[Node]) -> Document | None:
        """The document that was read; None if there never was one.

        Raises:
            AgentdError: it cannot be read, or is not the newest message that nodes have.
        """
        trouble = state.doubt if state.payload is None else ""
        if state.payload is not None and state.payload.startswith(b"{"):
            try:
                return Document.parse(state.payload)
            except PermanentError as error:
                trouble = f"message {state.num}: {error}"
        if self._is_whole(state.newest, nodes) and any(one.reported("rotation") for one in state.takers):
            trouble = trouble or "nodes have a document of a rotation, and the newest message is none"
        if trouble and not self._asked.revoke:
            raise AgentdError(
                f"{self._name.name}: {trouble}: if the document cannot be had back, start anew with"
                " `agentd rotate-tickets --revoke`, at the price of the sessions that are open now"
            )
        return None

    def _is_whole(self, newest: int, nodes: Sequence[Node]) -> bool:
        """Whether the log has all that nodes have, but for those that are left out."""
        return all(one.live <= newest for one in nodes if one.name not in self._asked.without)

    def _await(self, seen: Seen, wait: Wait) -> Seen:
        """Wait until there may be something to do, and read all of it again."""
        try:
            if wait.nodes:
                self._watch(seen)
            else:
                self._name.pause(1.0)
            return self._read()
        except ConsulError:
            if self._name.left() > 0:
                raise
            return replace(seen, now=self._clock())  # the time is over

    def _watch(self, seen: Seen) -> None:
        """Wait until the nodes that any server knows seem to have confirmed."""
        until = time.monotonic() + _STALE
        while self._name.left() > 0 and time.monotonic() < until:
            takers = self._name.watch(seen.num, len(seen.nodes))
            news = replace(seen, nodes=list(map(_node, takers)), now=self._clock())
            following = step(news, self._policy, Wish(self._key, without=self._asked.without))
            if not (isinstance(following, Wait) and following.nodes):
                return
            self._tell(news, following, None)


def _former(document: Document | None) -> bytes | None:
    """The key that encrypted before the rotation that is under way or comes next; None if none did."""
    ring = document.ring if document else ()
    return next(iter(ring[1:] if document and document.phase == "promoted" else ring), None)


def _revoked(document: Document | None) -> int:
    return (document and document.revoked) or 0


def _node(taker: Taker) -> Node:
    """A node by what it acknowledges, of which nothing is believed that cannot be."""
    timeouts = [_whole(one, _MOST_SECONDS) for one in taker.reported("session_timeout")]
    rooms = [_whole(one, _MOST_KEYS) for one in taker.reported("most")]
    sizes = [one for one in taker.reported("key_size") if type(one) is int and one in SIZES]
    return Node(
        taker.node,
        taker.live,
        taker.waits,
        max(filter(None, timeouts), default=None),
        min(filter(None, rooms), default=None),
        min(sizes, default=None),
        taker.is_mute,
    )


def _whole(value: Any, most: int) -> int | None:  # noqa: ANN401 (any JSON)
    return min(math.floor(value), most) if type(value) in (int, float) and value > 0 else None


def summary(document: Document | None) -> dict[str, Any]:
    """What a program is told of a document: no secret."""
    if document is None:
        return {"phase": None, "since": None, "ring": [], "next": None, "without": []}
    return {
        "phase": document.phase,
        "since": document.since,
        "ring": [key_digest(key) for key in document.ring],
        "next": key_digest(document.next) if document.next else None,
        "without": list(document.without),
    }
