"""Rotates TLS session ticket keys: as the fleet's document says, or by single keys from events or Consul KV.

Owns `tickets/` in the tree: one file of mode 0600 per key, the include that names them, the encrypting key
first, and the file for HAProxy. Secrets are in those files and nowhere else: not in the store, the log or a
message.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator

from agentd.handler import (
    Change,
    Context,
    Drift,
    Duration,
    Event,
    Handler,
    HandlerOptions,
    KeyState,
    PermanentError,
    Verdict,
    digest,
)
from agentd.nginx.probe import Probe
from handlers.tls_ticket_keys.coordinated import Taken, follow, lost, next_removal, path_of, succeed, take
from handlers.tls_ticket_keys.document import Document
from handlers.tls_ticket_keys.haproxy_options import FILE, HAProxyOptions
from handlers.tls_ticket_keys.listeners import Listeners
from handlers.tls_ticket_keys.payload import KEY_SIZE, NAME_SIZE, is_document, read_key
from handlers.tls_ticket_keys.ring import (
    UNCOUNTED,
    Order,
    Ring,
    Schedule,
    TicketKey,
    admit,
    next_step,
    settle,
)
from handlers.tls_ticket_keys.session_timeout import DEFAULT, longest

if TYPE_CHECKING:
    from handlers.tls_ticket_keys.haproxy import HAProxy
    from handlers.tls_ticket_keys.slots import Slots

_DIRECTORY: Final = "tickets/"
_INCLUDE: Final = "tickets/tickets.conf"
_FINGERPRINT: Final = 32  # hex digits
_MOST_REPORTED: Final = 16  # keys: more than the ring holds by default
_BEFORE_EVERY_EVENT: Final[Order] = (UNCOUNTED, 0, "")


class TicketKeys(Handler):
    """Keeps the ring of TLS session ticket keys: a new key first decrypts, then encrypts, then retires.

    In a fleet that rotates its keys together (`agentd rotate-tickets`), the fleet's log says which keys the
    ring has and which one encrypts; this node's own clock promotes none then.

    Otherwise the newest key counts. Of a key that came by an event and one from Consul's KV nobody can tell
    which is newer, so feed each entry from only one of them. When Consul's data is lost both begin again, and
    every key from then on is newer than all before.
    """

    # Events are ordered by Lamport time and ID, KV keys by ModifyIndex and path, messages by number.
    secret_payload: ClassVar[bool] = True
    urgent: ClassVar[bool] = True

    class Options(HandlerOptions):
        """The timing of a rotation."""

        promote_after: Duration = Field(
            60.0,
            description="How long a new key only decrypts, so that every node has it before any node"
            " encrypts with it. Without effect once the fleet coordinates its rotation.",
        )
        retire_after: Duration = Field(
            43_200.0,
            description="How long a former encryption key still decrypts; at least nginx's"
            " ssl_session_timeout. Once the fleet coordinates its rotation, only for keys that are not the"
            " fleet's.",
        )
        keep: int = Field(
            12,
            ge=1,
            le=100,
            description="Maximum number of keys besides the newest; the oldest are removed first.",
        )
        rotate_every: Duration = Field(
            43_200.0,
            ge=60,
            description="How old the encrypting key of a fleet becomes before `agentd rotate-tickets --due`"
            " rotates.",
        )
        on_dead: Literal["wait", "proceed"] = Field(
            "wait",
            description="What a rotation of the fleet does about a node that has not confirmed a step for an"
            " hour. wait: it waits for it, so that no session is lost; proceed: it goes on without.",
        )
        probe: list[str] | None = Field(
            None,
            description="Which listeners are asked, in a TLS 1.2 handshake, for the key that encrypts:"
            " `ADDRESS:PORT [SERVER NAME]`, or `except ADDRESS:PORT [SERVER NAME]` for one that is left out."
            " Unset, or exceptions only: all TLS listeners in nginx's files. An empty list: none.",
        )
        verify_every: Duration = Field(
            60.0, ge=1, description="How often the listeners are asked while nothing changes."
        )
        haproxy: HAProxyOptions | None = Field(
            None, description="A HAProxy on this node that has the same ring; null for none."
        )

        @field_validator("probe")
        @classmethod
        def _readable(cls, probe: list[str] | None) -> list[str] | None:
            Probe(probe)
            return probe

    options: Options

    def __init__(self, options: HandlerOptions) -> None:
        super().__init__(options)
        self._listeners = Listeners(self.options.probe)
        self._haproxy = _haproxy(self.options.haproxy) if self.options.haproxy else None

    @property
    def verify_every(self) -> float:
        """As the operator wants it."""
        return self.options.verify_every

    @property
    def _schedule(self) -> Schedule:
        return Schedule(self.options.promote_after, self.options.retire_after, self.options.keep)

    @property
    def payload_life(self) -> float:
        """No longer than the key itself may stay on the disk."""
        return self.options.retire_after

    def initial(self, context: Context) -> None:
        """Get back the keys that a boot took, or create a random key, so that nginx starts."""
        if _lost_some(context):
            self._get_back(context)
        self._stage(self._arranged(_load(context), context), context)

    def _get_back(self, context: Context) -> None:
        for event in context.recall():
            try:
                self.handle(event, context)
            except PermanentError as error:
                context.log.warning("ticket_keys.not_restored", reason=str(error))

    def handle(self, change: Change, context: Context) -> None:
        """Take the document or add the key that the change brings; a deleted KV key changes nothing."""
        if isinstance(change, Event):
            if is_document(change.payload):
                self._take(change, context)
            else:
                self._hear(change, context)
        elif isinstance(change, KeyState):
            if change.value is not None:
                self._add(read_key(change.value), change.order, context)
        else:
            raise PermanentError(
                f"tls_ticket_keys takes events and keys, not a change of kind {change.kind!r}"
            )

    def due(self, now: float, context: Context) -> float | None:
        """Promote and retire the keys that are due."""
        before = _load(context)
        ring = self._ordered(before, now, context)
        if ring and ring != before:
            self._stage(ring, context)
        taken = _taken(context)
        return next_removal(ring, taken, self._schedule) if taken else next_step(ring, self._schedule)

    def preflight(self, context: Context) -> Sequence[Drift]:  # noqa: ARG002 (HAProxy is asked)
        """A HAProxy that does not answer, and sockets of it on which others can read the keys."""
        doubts = self._haproxy.doubts() if self._haproxy else ()
        return [Drift("haproxy.socket", reason, warning=True) for reason in doubts]

    def verify(self, context: Context) -> Verdict:
        """Ask nginx and HAProxy whether the ring's first key encrypts; and look for lost keys.

        HAProxy is given what it lacks.
        """
        ring = _load(context)
        if not ring:
            return Verdict()
        found = [self._by_nginx(ring, context)]
        if self._haproxy:
            found.append(self._haproxy.verdict(_slots(ring, context), context))
        return Verdict(
            (*_lost_keys(ring, _taken(context)), *(drift for one in found for drift in one.drift)),
            tuple(drift for one in found for drift in one.mended),
            "; ".join(one.unasked for one in found if one.unasked),
        )

    def fingerprint(self, context: Context) -> str:
        """Of the document's keys; without one, of the key that encrypts, and those that will.

        Others differ: each node made one at its first start, and a joiner never gets those before it.
        """
        ring, taken = _load(context), _taken(context)
        if taken:
            same = [key for key in ring if key.path in taken.paths]
        else:
            same = [key for key in ring if key.order >= ring[0].order]
        names = "".join(f"{key.path}\n" for key in same)
        return hashlib.sha256(names.encode()).hexdigest()[:_FINGERPRINT]

    def report(self, context: Context) -> Mapping[str, Any]:
        """The ring, the encrypting key first: each key by a digest, and the times of what became of it.

        And for how many seconds a session may be resumed, if nginx's files say so; the phase of the fleet's
        rotation; and how many keys of it this node can hold, of how many bytes, if that is limited.
        """
        held, taken = _load(context), _taken(context)
        timeout = longest(context.nginx.conf)
        if self._haproxy:
            timeout = max(timeout or DEFAULT, self._haproxy.session_timeout)
        told = {
            "session_timeout": timeout,
            "rotation": taken.report() if taken else None,
            "most": self._haproxy.most if self._haproxy else None,
            "key_size": _size(held, context) if self._haproxy else None,
            "keys": len(held) if len(held) > _MOST_REPORTED else None,
        }
        ring = [key.report() for key in held[:_MOST_REPORTED]]
        return {"ring": ring} | {name: one for name, one in told.items() if one is not None}

    def _by_nginx(self, ring: Ring, context: Context) -> Verdict:
        nginx = context.nginx
        include = nginx.conf.parent / context.files.reference(_INCLUDE)
        # `nginx: null`: if there is one all the same, the tree is not below its directory.
        if self._haproxy and not (nginx.conf.exists() and include.exists()):
            return Verdict()
        names = [bytes.fromhex(key.name) for key in ring]
        return self._listeners.verdict(names, include.parents[1], nginx)

    def _take(self, event: Event, context: Context) -> None:
        """Take the document of the newest message; an older one never applies."""
        if event.message is None:
            raise PermanentError("a document of ticket keys comes only through the fleet's log")
        document, num, before = Document.parse(event.payload), event.message.num, _taken(context)
        if before and num < before.num:
            context.log.info("ticket_document.too_old", num=num, newest=before.num)
            return
        taken = succeed(_load(context), before, num, document)
        ring = take(_load(context), before, num, document, context.now)
        for secret in document.keys:
            context.files.write(path_of(secret), secret, mode=0o600, secret=True)
        context.store["document"] = taken.to_json()
        self._stage(self._arranged(ring, context), context)

    def _hear(self, event: Event, context: Context) -> None:
        """Add a single key; while the fleet has a document, one that was only heard never encrypts."""
        secret, (epoch, ltime, identity) = read_key(event.payload), event.order
        taken = _taken(context)
        if event.message and taken:
            raise PermanentError(
                "the fleet's ring of ticket keys is coordinated, so no single key is taken from the log:"
                " begin a rotation with `agentd rotate-tickets`"
            )
        if event.undated and taken and taken.distrusts(context.now):
            raise PermanentError(
                "the fleet's ticket keys were revoked, and nobody knows whether this event was fired before"
            )
        if event.undated and any(_BEFORE_EVERY_EVENT < key.order < (0,) for key in _load(context)):
            epoch = UNCOUNTED  # the ring was made by an earlier agentd, perhaps with this key in it
        self._add(secret, (epoch, ltime, identity), context)

    def _add(self, secret: bytes, order: Order, context: Context) -> None:
        key = _key(secret, order, context.now)
        if taken := _taken(context):
            if key.path in taken.burnt:
                raise PermanentError(f"the key ({digest(secret)}) is refused: it was revoked")
            key = replace(key, demoted=context.now)
        try:
            ring = self._arranged(admit(_load(context), key), context)
        except ValueError as error:
            raise PermanentError(f"the key ({digest(secret)}) is refused: {error}") from error
        if key.path in {kept.path for kept in ring}:
            context.files.write(key.path, secret, mode=0o600, secret=True)
        else:
            context.log.info("ticket_key.too_old", key=digest(secret), keep=self.options.keep)
        self._stage(ring, context)

    def _arranged(self, ring: Ring, context: Context) -> Ring:
        """The ring in order; with a new key if none may encrypt."""
        if found := self._ordered(ring, context.now, context):
            return found
        secret = secrets.token_bytes(KEY_SIZE)
        made = _key(secret, _BEFORE_EVERY_EVENT, context.now)
        context.files.write(made.path, secret, mode=0o600, secret=True)
        return self._ordered((*ring, made), context.now, context)

    def _ordered(self, ring: Ring, now: float, context: Context) -> Ring:
        taken = _taken(context)
        return follow(ring, taken, now, self._schedule) if taken else settle(ring, now, self._schedule)

    def _stage(self, ring: Ring, context: Context) -> None:
        wanted = {_INCLUDE, *(key.path for key in ring), *([FILE] if self._haproxy else [])}
        for path in context.files.paths(_DIRECTORY):
            if path not in wanted:
                context.files.remove(path)
        for key in ring:  # an earlier version did not say that they are secret
            if secret := context.files.read(key.path):
                context.files.write(key.path, secret, mode=0o600, secret=True)
        lines = (f"ssl_session_ticket_key {context.files.reference(key.path)};\n" for key in ring)
        context.files.write(_INCLUDE, "".join(lines).encode())
        if self._haproxy:
            context.files.write(FILE, _slots(ring, context).file(), mode=0o600, secret=True)
        context.store["ring"] = [key.to_json() for key in ring]
        taken = _taken(context)
        context.store["status"] = _status(ring, taken)
        context.store["gauges"] = {
            "tls_ticket_key_promoted_timestamp_seconds": ring[0].promoted,
            "tls_ticket_key_oldest_timestamp_seconds": min(key.received for key in ring),
            "tls_ticket_keys": len(ring),
        } | (taken.gauges(self.options.rotate_every) if taken else {})


def _status(ring: Ring, taken: Taken | None) -> list[dict[str, Any]]:
    keys = [{"part": _part(key, place, taken), "since": key.received} for place, key in enumerate(ring, 1)]
    if taken is None:
        return keys
    return [{"part": f"rotation ({taken.phase})", "since": taken.since}, *keys]


def _part(key: TicketKey, place: int, taken: Taken | None) -> str:
    if place == 1:
        return "encrypting key"
    if taken and key.path == taken.next:
        return "next key"
    return f"key {place}" if taken is None or key.path in taken.paths else f"key {place} (this node's own)"


def _lost_keys(ring: Ring, taken: Taken | None) -> list[Drift]:
    if taken is None or not (missing := lost(ring, taken)):
        return []
    reason = (
        f"{missing} of the {len(taken.paths)} keys of the fleet's document {taken.num} are lost on this node:"
        " `agentd replay` the newest change of this handler, or wait for the next document"
    )
    return [Drift("ticket keys", reason)]


def _lost_some(context: Context) -> bool:
    """Whether files of keys are gone: all, or some of the fleet's document."""
    ring, taken = _load(context), _taken(context)
    stored = context.store.get("ring", ())
    return bool(stored and not ring) or bool(taken and lost(ring, taken))


def _key(secret: bytes, order: Order, now: float) -> TicketKey:
    return TicketKey(order, secret[:NAME_SIZE].hex(), path_of(secret), now)


def _size(ring: Ring, context: Context) -> int | None:
    """Bytes of the key that encrypts; None if there is none."""
    return len(context.files.read(ring[0].path) or b"") or None if ring else None


def _haproxy(options: HAProxyOptions) -> HAProxy:
    from handlers.tls_ticket_keys.haproxy import HAProxy  # noqa: PLC0415 (most nodes do without)

    return HAProxy(options)


def _slots(ring: Ring, context: Context) -> Slots:
    """What of the ring belongs into HAProxy. Keys whose file is lost are not in a ring."""
    from handlers.tls_ticket_keys.slots import Slots  # noqa: PLC0415 (as above)

    taken = _taken(context)
    own = [
        key.path
        for key in ring
        if (key.path not in taken.paths if taken else key.order == _BEFORE_EVERY_EVENT)
    ]
    return Slots.of(ring, [context.files.read(key.path) or b"" for key in ring], own)


def _taken(context: Context) -> Taken | None:
    """The document that is in force here."""
    stored = context.store.get("document")
    return Taken.from_json(stored) if stored else None


def _load(context: Context) -> Ring:
    """The stored ring, without keys whose file is lost: nginx fails on an include that names one."""
    keys = (TicketKey.from_json(value) for value in context.store.get("ring", ()))
    return tuple(key for key in keys if context.files.read(key.path) is not None)
