"""Turns a message of the log into what handlers receive: an event that carries its number.

Pure. Owns when a time to live starts to count on this node.
"""

from __future__ import annotations

import base64
from typing import Final

from agentd.fleet.envelope import Envelope
from agentd.watch.changes import LOG, Event, Message

CLOCKS_APART: Final = 60.0
"""Seconds by which clocks differ so much that it is worth a warning; NTP keeps them within one."""
MOST_AHEAD: Final = 3600.0
"""Most seconds by which a publisher's clock is assumed to be ahead of this node's."""


def event_of(message: Envelope, body: bytes, now: float, *, live: bool) -> Event:
    """Turn a message into an event.

    Args:
        message: a message of the log.
        body: its payload; what is sealed stays so, and needs none.
        now: unix time at which this node first saw it.
        live: whether this node was following the log when the message was written.
    """
    live = live and not message.is_signed_again
    issued = min(message.issued, now + MOST_AHEAD)
    # One clock measured by how much it was late, so no other clock distorts that.
    start = max(issued, now - message.late) if live else issued
    expires = None if message.expires is None else start + message.expires - message.issued
    said = Message(
        num=message.num,
        issued=message.issued,
        counts_from=start,
        publisher=f"{message.signed_by} ({message.publisher})" if message.signed_by else message.publisher,
        via=message.via,
        expires=expires,
        snapshot=message.snapshot,
        targeted=message.role == "some",
        rollout=message.rollout,
        restores=message.restores,
    )
    raw = {
        "ID": message.event or f"{message.name}-{message.first}",
        "Name": message.name,
        **_content(message, body),
        "LTime": message.ltime,
        "Message": said.raw,
    }
    return Event(f"{LOG}{message.name}", raw, message.num)


def _content(message: Envelope, body: bytes) -> dict[str, str]:
    if message.is_sealed:
        return {"Sealed": message.raw.decode("ascii")}
    return {"Payload": base64.b64encode(body).decode()}
