"""What this node believes: which messages of the log count here, and which events that were heard.

Owns how the section `trust:` is put to use. What is in the log is the business of every node; what is
believed is a matter of one node's configuration, so two nodes may judge a message differently. Nothing here
reads the log. Any thread may call any method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from agentd.errors import (
    BadDocument,
    FleetError,
    NoFleetKey,
    PermanentError,
    Untrusted,
)
from agentd.fleet.envelope import Envelope, parse_envelope
from agentd.trust.options import TrustOptions
from agentd.watch.changes import Event

if TYPE_CHECKING:
    from agentd.trust.keyring import Keyring, Verified
    from agentd.trust.keys import FleetKey

UNSIGNED: Final = "unsigned"
CLEAR: Final = "clear"
MALFORMED: Final = "malformed"
EXPIRED: Final = "expired"
REPLAYED: Final = "replayed"


class Gate:
    """Admits messages to this node's handlers.

    Args:
        options: the section `trust:`; None: every message is believed, and none can be opened.
        fleet_keys: the keys that open what is sealed.
    """

    def __init__(self, options: TrustOptions | None, fleet_keys: Sequence[FleetKey] = ()) -> None:
        self._options = options
        self._fleet_keys = tuple(fleet_keys)

    @cached_property
    def _keyring(self) -> Keyring:
        from agentd.trust.configured import make_keyring  # noqa: PLC0415 (only the first signed message needs it)

        return make_keyring(self._options or TrustOptions(), self._fleet_keys)

    @property
    def judges(self) -> bool:
        """Whether there is anything that this node does not believe."""
        return self._options is not None

    @property
    def requires_signatures(self) -> bool:
        """Whether nothing counts that no publisher signed."""
        return self._options is not None and self._options.require is not None

    def must_be_signed(self, name: str) -> bool:
        """Whether messages of that name count only if a publisher signed them."""
        return self._options is not None and self._options.must_be_signed(name)

    def seals(self, name: str) -> bool:
        """Whether messages of that name must be signed and sealed."""
        return self._options is not None and self._options.seals(name)

    # ------------------------------------------------------------------ messages

    def admit(self, message: Envelope) -> Envelope:
        """The message, with its publisher in `signed_by` if it is signed.

        It may be sealed with a key that this node lacks: that shows once it is to be opened.

        Raises:
            Untrusted: this node does not believe it.
            BadKey: no signature can be verified, because PyNaCl is not installed.
        """
        verified = self._judged(message)
        if verified is None:
            return message
        if self._has_key(message):
            self._keyring.body(verified)  # a payload that was sealed for another message is found out here
        return replace(message, signed_by=verified.publisher)

    def believes(self, message: Envelope) -> bool:
        """Whether `admit` takes the message. Raises BadKey, as that does."""
        try:
            self.admit(message)
        except Untrusted:
            return False
        return True

    def _judged(self, message: Envelope) -> Verified | None:
        """The message as its publisher signed it; None if it counts without that. Raises as `admit` does."""
        if self._options is None:
            return None
        if message.signed is None:
            if self._options.must_be_signed(message.name):
                raise Untrusted("nobody signed it", UNSIGNED)
            return None
        verified = self._keyring.verify(message.signed)
        if self.seals(message.name) and not message.is_sealed:
            raise Untrusted("its payload is not sealed, although `trust.seal` has its name", CLEAR)
        return verified

    def require_key(self, message: Envelope) -> None:
        """Make sure that a message can be opened if it is sealed. Raises NoFleetKey."""
        if message.signed and message.is_sealed and not self._has_key(message):
            raise NoFleetKey(
                f"message {message.num} is sealed with the fleet key {message.signed.fleet_kid}, which this"
                " node lacks: add its file to trust.fleet_keys, and reload (restart for a credential)"
            )

    def _has_key(self, message: Envelope) -> bool:
        kid = message.signed.fleet_kid if message.signed else None
        return any(kid == key.kid for key in self._fleet_keys)

    def opened(self, event: Event) -> Event:
        """The event with its payload, if that came sealed. It must not be stored: the journal has it sealed.

        Raises:
            NoFleetKey: this node lacks the key.
            BadKey: PyNaCl is not installed.
            PermanentError: it is not believed any more.
        """
        if event.sealed is None:
            return event
        try:
            message = parse_envelope(event.sealed.encode())
            verified = self._judged(message)
            self.require_key(message)
            if verified is None or (message.name, message.num) != (event.name, event.index):
                raise BadDocument("what is sealed is another message")
            payload = self._keyring.body(verified)
        except NoFleetKey:
            raise
        except FleetError as error:
            raise PermanentError(f"not believed: {error}") from error
        return event.opened(payload or b"")

    # ------------------------------------------------------------------ events that were heard

    def refuses(self, event: Event, *, kept: bool) -> str:
        """Why an event that was heard must not be applied or written to the log; "" if it may.

        An empty one only says "now", which is as much as anybody may say who can fire events.

        Args:
            event: as Consul lists it.
            kept: whether its name has a log, to which it would be written readably.
        """
        if not event.raw.get("Payload") or (self._options and self._options.accepts_events(event.name)):
            return ""
        if self.requires_signatures:
            return "events with a payload are not accepted (`trust.require`): use `agentd publish`"
        if kept and self.seals(event.name):
            return "its payload would be readable in the log (`trust.seal`): use `agentd publish`"
        return ""
