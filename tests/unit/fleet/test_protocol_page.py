"""The vectors of docs/protocol.md, both ways: read by agentd, and written by it as they stand."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from agentd.fleet import acknowledgement_codec
from agentd.fleet.envelope import Draft, parse_envelope
from agentd.fleet.head import parse_head, parse_record
from tests.pages import ROOT, of

PAGE = ROOT / "docs" / "protocol.md"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    """The block at the end of the page."""
    (block,) = of("json", page=PAGE)
    found: dict[str, Any] = json.loads(block.text)
    return found


def test_the_head(vectors: dict[str, Any]) -> None:
    """It is read, lists its numbers, has the message in it, and is written as it stands."""
    head = parse_head(vectors["head"].encode())

    assert list(head.recent) == vectors["numbers"]
    assert head.inline == vectors["message"].encode()
    assert head.render().decode() == vectors["head"]


def test_the_numbers_follow_from_the_head_alone(vectors: dict[str, Any]) -> None:
    """As a program that has only the page would read them."""
    head = json.loads(vectors["head"])

    steps = [after - before for before, after in pairwise(vectors["numbers"])]

    assert head["newest"] == vectors["numbers"][-1]
    assert head["recent"] == steps[::-1]


def test_the_message(vectors: dict[str, Any]) -> None:
    """It is read, and written as it stands from what was read."""
    message = parse_envelope(vectors["message"].encode())
    draft = Draft(
        message.body or b"", message.issued, message.publisher,
        via=message.via, id=message.id, ltime=message.ltime,
    )  # fmt: skip

    assert message.body == vectors["payload"].encode()
    assert draft.numbered(message.fleet, message.name, message.num, message.prev).raw == message.raw


def test_the_acknowledgement(vectors: dict[str, Any]) -> None:
    """It is read, and written as it stands."""
    document = acknowledgement_codec.parse(vectors["acknowledgement"].encode())

    assert document.names["ip-blacklist"].live == vectors["numbers"][-1]
    assert acknowledgement_codec.render(document).decode() == vectors["acknowledgement"]


def test_the_fleets_record() -> None:
    """What the page says that it is."""
    assert parse_record(b'{"format":1}').render() == b'{"format":1}'
