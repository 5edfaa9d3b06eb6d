"""A message of the log as its handlers receive it: an event that knows its number.

Pure. It owns since when a time to live counts on this node.
"""

from __future__ import annotations

import base64
from typing import Final

from agentd.fleet.envelope import Envelope
from agentd.watch.changes import LOG, Event, Message

MOST_AHEAD: Final = 3600.0
"""Seconds by which the clock of whoever wrote a message may be ahead of this node's: no more is believed."""


def event_of(message: Envelope, body: bytes, now: float, *, live: bool) -> Event:
    """The message as an event.

    Args:
        message: of the log.
        body: its payload.
        now: unix time at which this node saw it first.
        live: whether the node was listening when it came about.
    """
    issued = min(message.issued, now + MOST_AHEAD)
    start = max(issued, now) if live else issued
    expires = None if message.expires is None else start + message.expires - message.issued
    said = Message(
        num=message.num,
        issued=message.issued,
        counts_from=start,
        publisher=message.publisher,
        via=message.via,
        expires=expires,
        snapshot=message.snapshot,
    )
    raw = {
        "ID": message.event or f"{message.name}-{message.num}",
        "Name": message.name,
        "Payload": base64.b64encode(body).decode(),
        "LTime": message.ltime,
        "Message": said.raw,
    }
    return Event(f"{LOG}{message.name}", raw, message.num)
