"""What may be fired at `tls_ticket_keys`."""

from __future__ import annotations

from agentd.errors import PermanentError
from agentd.testing import HandlerHarness, event, key
from handlers.tls_ticket_keys import TicketKeys
from tests.fuzz.target import target

_SHORT = 8  # bytes that may stand in any message by chance


@target()
def ticket_key(data: bytes) -> None:
    """A session ticket key, as an event and from KV; a refusal quotes nothing of it."""
    keys = HandlerHarness(TicketKeys, {"probe": [], "promote_after": "1s", "retire_after": "1m"})
    keys.initial()
    refused = ""
    try:
        keys.handle(event("tickets", data))
        keys.handle(key("tickets/new", data))
    except PermanentError as error:
        refused = str(error)
    text = data.decode("latin-1").strip()
    assert len(text) < _SHORT or text not in refused
    keys.advance(3600.0)
    assert all(len(secret) in (48, 80) for path, secret in keys.files.items() if path.endswith(".key"))
