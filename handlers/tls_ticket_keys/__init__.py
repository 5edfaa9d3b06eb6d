"""Rotates TLS session ticket keys: an event or a key of Consul's KV store brings one, nginx gets the ring.

Owns `tickets/` in the tree: one file of mode 0600 a key, and the include that names them, the encrypting key
first. Secrets are in those files and nowhere else: not in the store, the log or a message.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from pydantic import Field

from agentd.handler import (
    Change,
    Context,
    Duration,
    Event,
    Handler,
    HandlerOptions,
    KeyState,
    PermanentError,
)
from handlers.tls_ticket_keys.payload import NAME_SIZE, read_key, short_digest
from handlers.tls_ticket_keys.ring import Order, Ring, Schedule, TicketKey, admit, next_step, settle

_DIRECTORY: Final = "tickets/"
_INCLUDE: Final = "tickets/tickets.conf"
_BEFORE_EVERY_EVENT: Final[Order] = (0, "")


class TicketKeys(Handler):
    """Keeps the ring of session ticket keys; see `ring` for the rules.

    An event is ordered by its Lamport time and ID, a KV key by its ModifyIndex and path. The two do not
    compare, so feed one configured handler from one of them.
    """

    class Options(HandlerOptions):
        """The times of a rotation."""

        promote_after: Duration = Field(
            60.0,
            description="How long a new key only decrypts, so that every node has it before one encrypts.",
        )
        retire_after: Duration = Field(
            43_200.0,
            description="How long a demoted key still decrypts; at least nginx's ssl_session_timeout.",
        )
        keep: int = Field(
            12, ge=1, le=100, description="The most keys besides the newest; the oldest are removed first."
        )

    options: Options

    @property
    def _schedule(self) -> Schedule:
        return Schedule(self.options.promote_after, self.options.retire_after, self.options.keep)

    def initial(self, context: Context) -> None:
        """Make a random key if there is none, so that nginx loads and reloads keep sessions."""
        ring = _load(context)
        if ring:
            self._stage(settle(ring, context.now, self._schedule), context)
        else:
            self._add(secrets.token_bytes(80), _BEFORE_EVERY_EVENT, context)

    def handle(self, change: Change, context: Context) -> None:
        """Add the key that the change brings; a deleted KV key brings none and takes none away."""
        if isinstance(change, Event):
            self._add(read_key(change.payload), (change.ltime, change.id), context)
        elif isinstance(change, KeyState):
            if change.value is not None:
                order = int(change.raw["ModifyIndex"]), str(change.raw["Key"])
                self._add(read_key(change.value), order, context)
        else:
            raise PermanentError(
                f"tls_ticket_keys takes events and keys, not a change of kind {change.kind!r}"
            )

    def due(self, now: float, context: Context) -> float | None:
        """Promote and retire what is due."""
        before = _load(context)
        ring = settle(before, now, self._schedule)
        if ring != before:
            self._stage(ring, context)
        return next_step(ring, self._schedule)

    def _add(self, secret: bytes, order: Order, context: Context) -> None:
        path = f"{_DIRECTORY}{hashlib.sha256(secret).hexdigest()[:16]}.key"
        key = TicketKey(order, secret[:NAME_SIZE].hex(), path, context.now)
        try:
            ring = settle(admit(_load(context), key), context.now, self._schedule)
        except ValueError as error:
            raise PermanentError(f"key {short_digest(secret)} is refused: {error}") from error
        if path in {kept.path for kept in ring}:
            context.files.write(path, secret, mode=0o600)
        else:
            context.log.info("ticket_key.too_old", key=short_digest(secret), keep=self.options.keep)
        self._stage(ring, context)

    def _stage(self, ring: Ring, context: Context) -> None:
        wanted = {_INCLUDE, *(key.path for key in ring)}
        for path in context.files.paths(_DIRECTORY):
            if path not in wanted:
                context.files.remove(path)
        lines = (f"ssl_session_ticket_key {context.files.reference(key.path)};\n" for key in ring)
        context.files.write(_INCLUDE, "".join(lines).encode())
        context.store["ring"] = [key.to_json() for key in ring]
        context.store["gauges"] = {
            "tls_ticket_key_promoted_timestamp_seconds": ring[0].promoted,
            "tls_ticket_keys": len(ring),
        }


def _load(context: Context) -> Ring:
    """The ring as it was left, without keys whose file is lost: nginx would load nothing that names one."""
    keys = (TicketKey.from_json(value) for value in context.store.get("ring", ()))
    return tuple(key for key in keys if context.files.read(key.path) is not None)
