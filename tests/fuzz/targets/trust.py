"""Signed messages, which anybody may have written, and their claims, which a publisher may have got wrong."""

from __future__ import annotations

from agentd.errors import BadDocument
from agentd.trust.claims import parse_claims, render_claims
from agentd.trust.message import LARGEST, parse_message
from tests.fuzz.target import target


@target(BadDocument)
def signed_message(data: bytes) -> None:
    """A message: there is no other way to write what can be read, as far as it is not signed."""
    message = parse_message(data)
    assert len(data) <= LARGEST
    place = message.place
    begin = (
        f'{{"format":2,"fleet":"{place.fleet}","name":"{place.name}","num":{place.num},"prev":{place.prev},'
    )
    assert data.startswith(begin.encode())
    assert parse_claims(render_claims(message.claims)) == message.claims


@target(BadDocument, structured=True)
def signed_claims(data: bytes) -> None:
    """The claims of a message: what can be read can be written, and is then read as the same."""
    claims = parse_claims(data)
    assert parse_claims(render_claims(claims)) == claims
    assert all(type(value) in (str, int, bool) for value in claims.values())
