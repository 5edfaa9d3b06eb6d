"""Following a log into which somebody writes who may do so, but signs nothing that counts."""

from __future__ import annotations

import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.envelope import LARGEST_BODY
from agentd.fleet.head import Head
from agentd.fleet.refusals import Refusals
from tests.unit.fleet.test_trusting_follower import HUGE, Node
from tests.unit.fleet.test_trusting_follower import node as node  # noqa: PLC0414 (the fixture)


def test_an_older_log_is_not_followed_up_to_what_has_to_wait(tmp_path: Path) -> None:
    """Whoever may write to the log can put a message of a newer format there."""
    node = Node(tmp_path, keep="latest")
    node.sign("old")
    old = dict(node.shelf.values)
    node.sign("new")
    node.turn()
    node.journal.close()
    for file in tmp_path.glob("journal.db*"):
        file.unlink()

    again = Node(tmp_path, keep="latest")
    again.numbers, again.shelf = node.numbers, node.shelf
    with closing(again.journal):
        again.shelf.values = old | {again.shelf.keys_of.message("ban", 3): b'{"format":99}'}
        again.shelf.head("ban", Head("latest", newest=3, oldest=1, count=2, recent=(1, 3)))
        again.turn(live=False)
        assert again.waiting == []
        assert "newer format" in again.waits


def test_an_older_log_is_not_followed_for_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read in parts, of which each is older than what was followed; the true one is as well."""
    node = Node(tmp_path)
    for body in "abcd":
        node.sign(body)
    old = dict(node.shelf.values)
    node.sign("e")
    node.turn()
    node.journal.close()
    new = dict(node.shelf.values)
    for file in tmp_path.glob("journal.db*"):
        file.unlink()

    monkeypatch.setattr("agentd.fleet.reader.MOST_READS", 2)
    monkeypatch.setattr("agentd.fleet.followed_name.MOST_WAITING", 2)
    again = Node(tmp_path)
    again.numbers, again.shelf = node.numbers, node.shelf
    with closing(again.journal):
        again.shelf.values = old
        again.turn(live=False)
        assert again.waiting == []

        again.shelf.values = new
        again.turn(live=False)
        assert again.waiting == ["a", "b"]


def test_a_forged_newer_format_stops_a_node_only_while_it_is_there(node: Node) -> None:
    """Its text says how to get rid of it, since nobody can tell who wrote it."""
    key = node.shelf.keys_of.message("ban", 1)
    node.shelf.put(key, b'{"format":99}')
    node.shelf.head("ban", Head("all", newest=1, oldest=1, count=1, recent=(1,)))
    node.sign("true")
    node.turn()
    assert node.waiting == []
    assert f"`consul kv delete {key}`" in node.waits

    del node.shelf.values[key]
    node.turn()
    assert (node.waiting, node.waits) == (["true"], "")


def test_so_does_a_forged_head(node: Node) -> None:
    """It is neither news nor a loss that this node could make good."""
    key = node.shelf.keys_of.head("ban")
    node.sign("a")
    node.shelf.put(key, b'{"format":99}')
    node.turn()
    assert f"`consul kv delete {key}`" in node.waits


def test_a_forged_newest_message_covers_up_no_loss(node: Node) -> None:
    """The relay compares the log with the copy, as if there were no head."""
    node.sign("a")
    node.turn()
    node.publish("evil", num=HUGE)
    node.turn()
    assert None not in node.heads

    del node.shelf.values[node.shelf.keys_of.message("ban", 1)]
    node.publish("evil", num=HUGE + 1)
    node.turn()
    assert node.heads[-1] is None


def test_what_is_refused_is_not_held_in_memory(node: Node) -> None:
    """There may be thousands of messages, of up to 64 KiB each."""
    for _ in range(60):
        node.publish(b"x" * LARGEST_BODY)
    held: list[int] = []
    tell = Refusals.tell

    def measured(self: Refusals, *told: Any) -> None:  # noqa: ANN401 (as tell)
        held.append(tracemalloc.get_traced_memory()[0])
        tell(self, *told)

    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Refusals, "tell", measured)
            node.turn()
    finally:
        tracemalloc.stop()
    assert len(node.refused) == 60
    assert max(held) < 10 * LARGEST_BODY
