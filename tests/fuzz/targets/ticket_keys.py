"""What may be fired at `tls_ticket_keys`, and published."""

from __future__ import annotations

from agentd.errors import PermanentError
from agentd.testing import HandlerHarness, event, key, message
from handlers.tls_ticket_keys import TicketKeys
from handlers.tls_ticket_keys.document import Document
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


@target(PermanentError, structured=True)
def ticket_document(data: bytes) -> None:
    """A document of a coordinated ring, before and after another one."""
    keys = HandlerHarness(TicketKeys, {"probe": [], "promote_after": "1s", "retire_after": "1m"})
    keys.initial()
    document = Document.parse(data)
    assert Document.parse(document.render()) == document
    first = Document("staged", (), bytes(range(80)), since=1)
    for num, payload in enumerate((data, first.render(), data), 1):
        keys.handle(message("tickets", payload, num=num))
        keys.advance(3600.0)
        names = _included(keys)
        assert sorted(names) == sorted(path for path in keys.files if path.endswith(".key"))
    secrets = [keys.files[name] for name in _included(keys)]
    assert tuple(secrets[-len(document.keys) :]) == document.keys


def _included(keys: HandlerHarness) -> list[str]:
    """The files of keys that nginx loads, in order; at least one."""
    lines = keys.files["tickets/tickets.conf"].decode().splitlines()
    assert lines
    return [line.partition("agentd/current/")[2].removesuffix(";") for line in lines]
