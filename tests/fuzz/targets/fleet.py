"""What stands in Consul below a fleet's prefix, which other nodes, or anybody, may have written."""

from __future__ import annotations

from contextlib import suppress

from agentd.errors import BadDocument, FleetError, UnknownFormat
from agentd.fleet.acknowledgement_codec import DocumentError, parse, render
from agentd.fleet.envelope import LARGEST, LARGEST_BODY, parse_envelope
from agentd.fleet.head import LARGEST_HEAD, parse_head, parse_record
from agentd.fleet.keys import POISONED, Keys
from agentd.fleet.pruning import parse_pruned
from agentd.printable import printable
from tests.fuzz.target import target


@target(DocumentError, structured=True)
def fleet_acknowledgement(data: bytes) -> None:
    """The acknowledgement of a node: what can be read can be written, and is then read as the same."""
    document = parse(data)
    assert printable(document.agentd) == document.agentd
    again = parse(render(document))
    assert (again.names, again.options) == (document.names, document.options)


@target(BadDocument, UnknownFormat, structured=True)
def fleet_message(data: bytes) -> None:
    """A message of the log: what is believed has a key of its own, and is written again as it is."""
    message = parse_envelope(data)
    assert message.lies_at(Keys(message.fleet), Keys(message.fleet).message(message.name, message.num))
    assert message.prev < message.num < POISONED
    assert message.size <= (LARGEST if message.body is None else LARGEST_BODY)
    for text in (message.id, message.publisher, message.node, message.service, message.tag):
        assert printable(text) == text
    again = message.again(message.body or b"", issued=1.0, publisher="ops")
    assert again.numbered(message.fleet, message.name, message.num, message.prev).node == message.node


@target(BadDocument, UnknownFormat, structured=True)
def fleet_head(data: bytes) -> None:
    """The head of a name, or the fleet's record: what can be read is small, and read again as the same."""
    with suppress(FleetError):
        record = parse_record(data)
        assert parse_record(record.render()) == record
    head = parse_head(data)
    again = head.render()
    assert len(again) <= LARGEST_HEAD
    assert parse_head(again) == head
    assert list(head.recent) == sorted(set(head.recent))
    above = head.above(head.newest - 1)
    assert above is None or set(above) <= {head.newest}


@target(BadDocument, UnknownFormat, structured=True)
def fleet_pruned(data: bytes) -> None:
    """The list of messages that were pruned lately: it is bounded once it is written again."""
    pruned = parse_pruned(data)
    more = pruned.plus(["one"], 1.0)
    assert len(more.marks) <= 1024
    assert parse_pruned(more.render()) == more
