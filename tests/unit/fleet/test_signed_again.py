"""A message that was signed again is nothing new: no time starts again, and no order is carried out twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.fleet.envelope import Envelope, parse_envelope
from agentd.journal.history import Wanted, history
from agentd.trust.keyring import Keyring, Publisher, Signer
from agentd.trust.message import Place
from tests.unit.fleet.shelf import NOW
from tests.unit.fleet.test_trusting_follower import OPS_SIGNS, Node
from tests.unit.trust.samples import FLEET, OPS

KEYRING = Keyring([Publisher("ops", (OPS.public,), ("ban",))], [FLEET])


def sign_again(node: Node, message: Envelope, by: Signer = OPS_SIGNS) -> Envelope:
    """Do in the log what `agentd keys resign` does."""
    keys, num = node.shelf.keys_of, message.num + 1
    assert message.signed is not None
    raw = by.resign(KEYRING.verify(message.signed), KEYRING, Place(keys.fleet, "ban", num, message.num))
    del node.shelf.values[keys.message("ban", message.num)]
    node.shelf.put(keys.message("ban", num), raw)
    head = replace(node.shelf.heads["ban"], newest=num, oldest=num, recent=(num,), inline=None)
    node.shelf.heads["ban"] = head
    node.shelf.put(keys.head("ban"), head.render())
    return parse_envelope(raw)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """It has handled one message of a name of which the latest is kept; its handler runs only once."""
    made = Node(tmp_path, keep="latest", once=True)
    with closing(made.journal):
        yield made


def given(node: Node, message: Envelope) -> None:
    """The node takes a message, and ends it."""
    node.turn()
    assert node.position == message.num
    node.handle()


def test_an_order_is_not_carried_out_again(node: Node) -> None:
    """It moves on to the new number."""
    before = node.sign("restart")
    given(node, before)

    after = sign_again(node, before)
    node.turn()

    assert node.waiting == []
    assert node.position == after.num
    assert [one["outcome"] for one in history(node.journal, Wanted(handler="deny"))] == [
        "unchanged",
        "applied",
    ]


def test_an_order_from_before_the_first_start_of_a_node_is_carried_out_never(node: Node) -> None:
    """Also by a node that follows the log when it is signed again."""
    node.turn()
    sign_again(node, node.sign("restart", issued=NOW - 60))
    node.turn()

    assert node.waiting == []
    assert [one["outcome"] for one in history(node.journal, Wanted(handler="deny"))] == ["expired"]


def test_the_time_of_a_message_does_not_begin_again(tmp_path: Path) -> None:
    """Of ten minutes nine are over: one is left."""
    node = Node(tmp_path, keep="latest")
    with closing(node.journal):
        before = node.sign("ban", expires=NOW + 600)
        node.now += 540
        sign_again(node, before)
        node.turn()
        (event,) = node.messages
        assert event.message
        assert (event.message.counts_from, event.message.expires) == (NOW, NOW + 600)


def test_what_is_over_is_not_given_because_it_was_signed_again(tmp_path: Path) -> None:
    """Whoever never had it does not get it now."""
    node = Node(tmp_path, keep="latest")
    with closing(node.journal):
        before = node.sign("ban", expires=NOW + 600)
        node.now += 601
        after = sign_again(node, before)
        node.turn()
        assert node.waiting == []
        assert node.position == after.num
