"""One TLS 1.2 handshake, and the name of the session ticket key that it shows.

In TLS 1.2 the NewSessionTicket is sent in the clear, and its ticket begins with the key's 16-byte name (RFC
5077, sections 3.3 and 4). Owns the handshake, its limits, and what is read in its bytes. No certificate is
checked: the question is what a server of this node does, not who it is. What the name means is for others.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import cache
from typing import TYPE_CHECKING, Final

from agentd.errors import AgentdError
from agentd.wire import (
    Address,
    Clock,
    IncompleteError,
    TCPAddress,
    Timeouts,
    TooLargeError,
    Wire,
    connect,
    translated,
)

if TYPE_CHECKING:
    from ssl import MemoryBIO, SSLContext, SSLObject

_NAME_SIZE: Final = 16
_LARGEST: Final = 262_144  # bytes of one handshake; certificates are most of it
_HEADER: Final = 5  # of a record; RFC 5246, section 6.2.1
_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE = 20, 21, 22
_NEW_SESSION_TICKET: Final = 4
# The server does not shake hands with this client; that says nothing about its keys. RFC 5246, section 7.2.
_UNPROVABLE: Final = {
    40: "it accepts none of this client's ciphers and curves",
    70: "it offers only TLS 1.3, where tickets are encrypted",
    71: "it demands stronger ciphers than this client has",
    112: "it rejects this server name",
}
_NAME_ONE: Final = "name one in `probe`: ADDRESS:PORT NAME"


class NotProvableError(AgentdError):
    """This listener cannot show its key; the text says why, without naming it."""


@cache
def client() -> SSLContext:
    """A client of TLS 1.0 to 1.2 that takes whatever the server has."""
    import ssl  # noqa: PLC0415 (a daemon without ticket keys does not need it)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    return context


def encrypting_key(
    address: Address, context: SSLContext, *, sni: str = "", proxy_protocol: bool = False, timeout: float
) -> bytes | None:
    """Shake hands once.

    Args:
        address: of this node.
        context: from `client`.
        sni: the server name to send; "" to send none.
        proxy_protocol: whether to begin with a PROXY header, one that names no client.
        timeout: seconds for all of it.

    Returns:
        The key's 16-byte name; None if the server sends no ticket.

    Raises:
        NotProvableError: no handshake with this client can show it.
        ConnectError: there is no connection.
        ExchangeError: the handshake was not completed.
    """
    if isinstance(address, TCPAddress) and not _is_local(address):
        raise NotProvableError(f"this node does not have the address {address.host} now")
    wire = connect(address, Clock(Timeouts(total=timeout)))
    try:
        if proxy_protocol:
            with translated():
                wire.send(b"PROXY UNKNOWN\r\n")
        return ticket_name(_handshake(wire, context, sni or None))
    finally:
        wire.close()


def ticket_name(received: bytes) -> bytes | None:
    """The first 16 bytes of the ticket in what a server sent in a TLS 1.2 handshake.

    Returns:
        None if there is no ticket, an empty one, or the bytes end before it is complete.

    Source: RFC 5077, section 3.3 (NewSessionTicket); RFC 5246, section 6.2.1 (records).
    """
    messages = bytearray()
    for kind, body in _records(received):
        if kind == _CHANGE_CIPHER_SPEC:  # all that follows is encrypted
            break
        if kind == _HANDSHAKE:
            messages += body
    place = 0
    while place + 4 <= len(messages):
        size = int.from_bytes(messages[place + 1 : place + 4], "big")
        message = messages[place + 4 : place + 4 + size]
        if messages[place] == _NEW_SESSION_TICKET and len(message) == size:
            length = int.from_bytes(message[4:6], "big")  # after the lifetime hint
            ticket = message[6 : 6 + length]
            return bytes(ticket[:_NAME_SIZE]) if ticket and len(ticket) == length else None
        place += 4 + size
    return None


def alert(received: bytes) -> int | None:
    """The description of the alert that a server sent in the clear, if it sent one. RFC 5246, section 7.2."""
    found = None
    for kind, body in _records(received):
        if kind == _CHANGE_CIPHER_SPEC:
            break
        if kind == _ALERT:
            found = body[1] if len(body) > 1 else None
    return found


def _records(received: bytes) -> list[tuple[int, bytes]]:
    """The complete records, each its type and content."""
    found, place = [], 0
    while place + _HEADER <= len(received):
        end = place + _HEADER + int.from_bytes(received[place + 3 : place + 5], "big")
        if end > len(received):
            break
        found.append((received[place], received[place + _HEADER : end]))
        place = end
    return found


def _handshake(wire: Wire, context: SSLContext, sni: str | None) -> bytes:
    """Everything that the server sent in a complete handshake."""
    import ssl  # noqa: PLC0415 (as above)

    incoming, outgoing, received = ssl.MemoryBIO(), ssl.MemoryBIO(), bytearray()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=sni)
    while not _step(tls, received, sni):
        data = _exchange(wire, outgoing)
        if not data:
            raise IncompleteError("the connection was closed; does the listener expect the PROXY protocol?")
        received += data
        if len(received) > _LARGEST:
            raise TooLargeError(f"the server sent more than {_LARGEST} bytes")
        incoming.write(data)
    return bytes(received)


def _step(tls: SSLObject, received: bytearray, sni: str | None) -> bool:
    """Go on as far as possible; whether the handshake is complete."""
    import ssl  # noqa: PLC0415 (as above)

    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError as error:
        code = alert(bytes(received))
        if code in _UNPROVABLE:
            raise NotProvableError(_UNPROVABLE[code]) from error
        if code is not None and sni is None:  # such as one that chooses its certificate by name
            raise NotProvableError(f"it refuses who names no server (alert {code}); {_NAME_ONE}") from error
        if received[0] not in (_ALERT, _HANDSHAKE):
            raise IncompleteError("what answers there does not speak TLS") from error
        raise IncompleteError(f"TLS failed ({error.reason or 'unknown'})") from error
    return True


def _exchange(wire: Wire, outgoing: MemoryBIO) -> bytes:
    with translated():
        wire.send(outgoing.read())
        return wire.read(65536)


def _is_local(address: TCPAddress) -> bool:
    """Whether a connection stays on this node: a shared address may be on another one now.

    The kernel sends to its own addresses from those very addresses. Nothing is sent here.
    """
    if ipaddress.ip_address(address.host).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address.host, address.port))
            return bool(probe.getsockname()[0] == address.host)
    except OSError:
        return False
