"""Rotates TLS session ticket keys: an event or a key in Consul's KV store brings a new one for nginx's ring.

Owns `tickets/` in the tree: one file of mode 0600 per key, and the include that names them, the encrypting
key first. Secrets are in those files and nowhere else: not in the store, the log or a message.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import Field, field_validator

from agentd.handler import (
    Change,
    Context,
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
from handlers.tls_ticket_keys.listeners import Listeners
from handlers.tls_ticket_keys.payload import NAME_SIZE, read_key
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
from handlers.tls_ticket_keys.session_timeout import longest

_DIRECTORY: Final = "tickets/"
_INCLUDE: Final = "tickets/tickets.conf"
_FINGERPRINT: Final = 32  # hex digits
_MOST_REPORTED: Final = 13  # keys: as many as the ring holds by default
_BEFORE_EVERY_EVENT: Final[Order] = (UNCOUNTED, 0, "")


class TicketKeys(Handler):
    """Keeps the ring of TLS session ticket keys: a new key first decrypts, then encrypts, then retires.

    Events are ordered by Lamport time and ID, KV keys by ModifyIndex and path, messages of the fleet's log by
    number. Keys of the first two cannot be compared, so a configured handler should be fed from only one of
    them. Both begin again when Consul's data is lost; a new epoch begins then, and its keys are newer than
    all before.
    """

    secret_payload: ClassVar[bool] = True

    class Options(HandlerOptions):
        """The timing of a rotation."""

        promote_after: Duration = Field(
            60.0,
            description="How long a new key only decrypts, so that every node has it before any node"
            " encrypts with it.",
        )
        retire_after: Duration = Field(
            43_200.0,
            description="How long a former encryption key still decrypts; at least nginx's"
            " ssl_session_timeout.",
        )
        keep: int = Field(
            12,
            ge=1,
            le=100,
            description="Maximum number of keys besides the newest; the oldest are removed first.",
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

        @field_validator("probe")
        @classmethod
        def _readable(cls, probe: list[str] | None) -> list[str] | None:
            Probe(probe)
            return probe

    options: Options

    def __init__(self, options: HandlerOptions) -> None:
        super().__init__(options)
        self._listeners = Listeners(self.options.probe)

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
        """Create a random key if there is none, so that nginx starts, and sessions survive reloads."""
        ring = _load(context)
        if ring:
            self._stage(settle(ring, context.now, self._schedule), context)
        else:
            self._add(secrets.token_bytes(80), _BEFORE_EVERY_EVENT, context)

    def handle(self, change: Change, context: Context) -> None:
        """Add the key that the change brings; a deleted KV key neither adds nor removes one."""
        if isinstance(change, Event):
            epoch, ltime, identity = change.order
            if change.undated and any(_BEFORE_EVERY_EVENT < key.order < (0,) for key in _load(context)):
                epoch = UNCOUNTED  # the ring was made by an earlier agentd, perhaps with this key in it
            self._add(read_key(change.payload), (epoch, ltime, identity), context)
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
        ring = settle(before, now, self._schedule)
        if ring != before:
            self._stage(ring, context)
        return next_step(ring, self._schedule)

    def verify(self, context: Context) -> Verdict:
        """Ask nginx, on its own listeners, whether the ring's first key encrypts."""
        names = [bytes.fromhex(key.name) for key in _load(context)]
        tree = (context.nginx.conf.parent / context.files.reference(_INCLUDE)).parents[1]
        return self._listeners.verdict(names, tree, context.nginx) if names else Verdict()

    def fingerprint(self, context: Context) -> str:
        """Of the key that encrypts, and those that will.

        Older ones differ: each node made one at its first start, and a joiner never gets those before it.
        """
        ring = _load(context)
        names = "".join(f"{key.path}\n" for key in ring if key.order >= ring[0].order)
        return hashlib.sha256(names.encode()).hexdigest()[:_FINGERPRINT]

    def report(self, context: Context) -> Mapping[str, Any]:
        """The ring, the encrypting key first: each key by a digest, and the times of what became of it.

        And for how many seconds nginx lets a session be resumed, if its files say so.
        """
        ring = [key.report() for key in _load(context)[:_MOST_REPORTED]]
        timeout = longest(context.nginx.conf)
        return {"ring": ring} | ({} if timeout is None else {"session_timeout": timeout})

    def _add(self, secret: bytes, order: Order, context: Context) -> None:
        path = f"{_DIRECTORY}{hashlib.sha256(secret).hexdigest()[:16]}.key"
        key = TicketKey(order, secret[:NAME_SIZE].hex(), path, context.now)
        try:
            ring = settle(admit(_load(context), key), context.now, self._schedule)
        except ValueError as error:
            raise PermanentError(f"the key ({digest(secret)}) is refused: {error}") from error
        if path in {kept.path for kept in ring}:
            context.files.write(path, secret, mode=0o600, secret=True)
        else:
            context.log.info("ticket_key.too_old", key=digest(secret), keep=self.options.keep)
        self._stage(ring, context)

    def _stage(self, ring: Ring, context: Context) -> None:
        wanted = {_INCLUDE, *(key.path for key in ring)}
        for path in context.files.paths(_DIRECTORY):
            if path not in wanted:
                context.files.remove(path)
        for key in ring:  # an earlier version did not say that they are secret
            if secret := context.files.read(key.path):
                context.files.write(key.path, secret, mode=0o600, secret=True)
        lines = (f"ssl_session_ticket_key {context.files.reference(key.path)};\n" for key in ring)
        context.files.write(_INCLUDE, "".join(lines).encode())
        context.store["ring"] = [key.to_json() for key in ring]
        context.store["status"] = [
            {"part": "encrypting key" if key is ring[0] else f"key {place}", "since": key.received}
            for place, key in enumerate(ring, 1)
        ]
        context.store["gauges"] = {
            "tls_ticket_key_promoted_timestamp_seconds": ring[0].promoted,
            "tls_ticket_keys": len(ring),
        }


def _load(context: Context) -> Ring:
    """The stored ring, without keys whose file is lost: nginx fails on an include that names one."""
    keys = (TicketKey.from_json(value) for value in context.store.get("ring", ()))
    return tuple(key for key in keys if context.files.read(key.path) is not None)
