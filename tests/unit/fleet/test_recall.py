"""What a node gets back of the log from its own copy, without Consul; what it is given again if it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.fleet.envelope import LARGEST_BODY, Envelope
from agentd.fleet.gate import Gate
from agentd.fleet.memory import Memory
from agentd.fleet.recall import Recall
from agentd.journal.followed import Followed
from agentd.journal.numbers import Numbers
from agentd.trust.keyring import Signer
from agentd.trust.keys import new_fleet_key
from tests.unit.fleet.test_trusting_follower import OPS_SIGNS, Node, gate
from tests.unit.trust.samples import FLEET, OTHER


class Booted(Node):
    """A node that follows a sealed name and keeps its own copy of the log."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, keep="latest", by=gate(seal=["ban"]))
        self.memory = Memory(directory / "fleet.db", lambda: self.now)

    def seal(self, body: str | bytes, *, by: Signer = OPS_SIGNS) -> Envelope:
        """Append a sealed message."""
        return self.sign(body, by=by, sealed=True)

    def hear(self, body: str | bytes) -> Envelope:
        """Publish a message, and have it read."""
        message = self.seal(body) if self.gate.judges else self.publish(body)
        digests = [message.sha256] if message.sha256 else []
        bodies = {one: self.shelf.values[self.shelf.keys_of.body(one)] for one in digests}
        self.memory.remember("ban", self.shelf.heads["ban"], [message], bodies)
        self.turn()
        return message

    def take(self, body: str | bytes) -> Envelope:
        """Publish a message, and have it read and applied."""
        message = self.hear(body)
        self.handle()
        return message

    def recall(self) -> tuple[list[bytes], bool]:
        """What a handler gets back, without Consul; and whether that is all that is in force."""
        self.shelf.down = True
        kept = {self.kept.name: self.kept}
        found, whole = Recall(kept, self.memory, self.gate, self.journal, lambda: self.now)("deny")
        return [event.payload for event in found], whole


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Booted]:
    """One that has applied a message, and then another."""
    made = Booted(tmp_path)
    with closing(made.journal), closing(made.memory):
        made.take("first")
        made.take("second")
        yield made


def test_the_newest_message_is_opened_without_consul(node: Booted) -> None:
    """It is verified again, and says which number it has."""
    assert node.recall() == ([b"second"], True)


def test_nothing_is_recalled_where_nothing_was_given(tmp_path: Path) -> None:
    """Which is no reason to log anything, and lacks nothing."""
    node = Booted(tmp_path)
    with closing(node.journal), closing(node.memory), capture_logs() as logs:
        assert node.recall() == ([], True)
    assert logs == []


def test_the_message_in_force_goes_before_a_newer_one(node: Booted) -> None:
    """That may be for others, or still wait; if it is all that is left, it counts."""
    newer = node.hear("third")

    assert node.recall() == ([b"second"], True)
    node.memory.remember("ban", node.shelf.heads["ban"], [newer])
    with node.memory._file.transaction() as db:
        db.execute("DELETE FROM messages WHERE num < ?", (newer.num,))
    assert node.recall() == ([b"third"], True)


def test_a_message_that_was_not_given_is_not_recalled(node: Booted) -> None:
    """It may have been held back, by a freeze for one."""
    message = node.seal("third")
    node.memory.remember("ban", node.shelf.heads["ban"], [message])

    assert node.recall() == ([b"second"], True)


def test_without_the_fleet_key_it_says_so(node: Booted) -> None:
    """The handler gets nothing, and nobody an exception."""
    node.gate = gate(keys=(new_fleet_key(),), seal=["ban"])

    with capture_logs() as logs:
        assert node.recall() == ([], False)

    assert [(one["event"], one["num"]) for one in logs] == [("fleet.not_recalled", 2)]
    assert "trust.fleet_keys" in logs[0]["reason"]


def test_without_a_copy_it_says_so(node: Booted, tmp_path: Path) -> None:
    """As when fleet.db was deleted, or damaged."""
    node.memory.close()
    (tmp_path / "fleet.db").unlink()
    node.memory = Memory(tmp_path / "fleet.db", lambda: node.now)

    with capture_logs() as logs:
        assert node.recall() == ([], False)

    assert "does not have it" in logs[0]["reason"]


def test_what_is_not_believed_any_more_is_not_recalled(node: Booted) -> None:
    """The publisher was removed from the configuration in the meantime."""
    strange = {"ops": {"key": OTHER.public.text, "may": ["ban"]}}
    node.gate = gate(seal=["ban"], publishers=strange)

    with capture_logs() as logs:
        assert node.recall() == ([], False)

    assert [one["event"] for one in logs] == ["fleet.not_recalled"]


def test_an_altered_copy_is_not_recalled(node: Booted) -> None:
    """Whoever could write to the disk is no publisher."""
    forged = node.seal("forged", by=Signer(OTHER, FLEET)).raw
    with node.memory._file.transaction() as db:
        db.execute("UPDATE messages SET raw = ? WHERE num = 2", (forged,))
        db.execute("DELETE FROM messages WHERE num < 2")

    assert node.recall() == ([], False)


def test_a_body_that_is_stored_apart_is_recalled(tmp_path: Path) -> None:
    """Of names that are not sealed."""
    node = Booted(tmp_path)
    with closing(node.journal), closing(node.memory):
        node.trust(Gate(None))
        large = b"x" * (LARGEST_BODY + 1)
        node.take(large)

        assert node.recall() == ([large], True)


def test_what_is_lost_is_given_again(node: Booted) -> None:
    """Once, and until it was applied again nothing is in force."""
    Followed(node.journal).give_again("deny", ["ban"])
    before = Numbers(node.journal.database).committed("deny")
    node.turn()
    given = [event.index for event in node.messages]
    node.handle()
    node.turn()
    node.restart()
    node.turn()

    assert (before, given) == ({}, [2])
    assert node.messages == []
    assert Numbers(node.journal.database).committed("deny") == {"ban": 2}


def test_only_the_newest_is_given_again(node: Booted) -> None:
    """A message that came in the meantime replaces it."""
    Followed(node.journal).give_again("deny", ["ban"])
    node.seal("third", by=OPS_SIGNS)
    node.turn()

    assert [event.index for event in node.messages] == [3]


def test_nothing_is_given_again_to_who_was_given_nothing(tmp_path: Path) -> None:
    """A joiner reads the log anyway."""
    node = Booted(tmp_path)
    with closing(node.journal), closing(node.memory):
        Followed(node.journal).give_again("deny", ["ban", "other"])
        node.seal("first")
        node.turn()
        assert [event.index for event in node.messages] == [1]
