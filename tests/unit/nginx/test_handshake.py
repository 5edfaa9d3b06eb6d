"""What is read in the bytes of a handshake."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.nginx.handshake import alert, ticket_name

NAME = b"0123456789abcdef"
HELLO = b"\x02\x00\x00\x04abcd"


def record(kind: int, body: bytes) -> bytes:
    """A record of TLS 1.2."""
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


def ticket(content: bytes) -> bytes:
    """A NewSessionTicket."""
    body = (300).to_bytes(4, "big") + len(content).to_bytes(2, "big") + content
    return b"\x04" + len(body).to_bytes(3, "big") + body


FLIGHT = record(22, HELLO) + record(22, ticket(NAME + b"x" * 160)) + record(20, b"\x01")


def test_the_ticket_begins_with_the_name() -> None:
    """The rest of it is encrypted."""
    assert ticket_name(FLIGHT) == NAME


@given(st.integers(1, 64))
def test_messages_may_be_split_into_any_records(size: int) -> None:
    """A record is no unit of meaning."""
    messages = HELLO + ticket(NAME + b"x" * 160)
    parts = [messages[place : place + size] for place in range(0, len(messages), size)]

    assert ticket_name(b"".join(record(22, part) for part in parts)) == NAME


@given(st.integers(0, len(FLIGHT)))
def test_a_flight_that_is_cut_off_has_the_name_or_none(length: int) -> None:
    """Never part of it."""
    assert ticket_name(FLIGHT[:length]) in (None, NAME)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd(received: bytes) -> None:
    """Whatever is sent, there is an answer."""
    name = ticket_name(received)

    assert name is None or 0 < len(name) <= 16
    assert alert(received) in (None, *range(256))


def test_an_empty_ticket_is_none() -> None:
    """RFC 5077 allows a server to change its mind."""
    assert ticket_name(record(22, HELLO + ticket(b""))) is None


def test_what_is_encrypted_is_not_read() -> None:
    """After ChangeCipherSpec nothing is in the clear."""
    assert ticket_name(record(20, b"\x01") + FLIGHT) is None
    assert alert(record(20, b"\x01") + record(21, b"\x02\x46")) is None


def test_an_alert_is_read() -> None:
    """Its description says why the server refused."""
    assert alert(record(22, HELLO) + record(21, b"\x02\x46")) == 70
