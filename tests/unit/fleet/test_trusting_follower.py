"""Following a log of which not everything is believed: what is refused neither moves a node nor stops it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agentd.fleet.envelope import LARGEST_BODY, Envelope
from agentd.fleet.gate import Gate
from agentd.fleet.head import Head
from agentd.journal.followed import Followed
from agentd.journal.history import Wanted, history, replay
from agentd.journal.numbers import Numbers
from agentd.trust.keyring import Signer
from agentd.trust.keys import new_fleet_key
from agentd.trust.options import TrustOptions
from tests.unit.fleet.shelf import NOW
from tests.unit.fleet.test_follower import Bench
from tests.unit.trust.samples import FLEET, OPS, OTHER

OPS_SIGNS = Signer(OPS, FLEET)
HUGE = 8_000_000_000_000_000
PLAIN = b"the key in clear"


def gate(*, keys: tuple[Any, ...] = (FLEET,), **more: Any) -> Gate:  # noqa: ANN401 (fields of the section)
    """A node that requires what `ops` signed."""
    section = {"publishers": {"ops": {"key": OPS.public.text, "may": ["ban"]}}, "require": "signed"}
    return Gate(TrustOptions.model_validate(section | {"fleet_keys": ["/k"]} | more), keys)


class Node(Bench):
    """A follower with a gate."""

    def __init__(
        self, directory: Path, *, keep: str = "all", once: bool = False, by: Gate | None = None
    ) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory, keep=keep, once=once)
        self.trust(by or gate())

    def trust(self, by: Gate) -> None:
        """Reload with this configuration."""
        self.gate = by
        self.restart()

    def sign(self, body: str | bytes, *, by: Signer = OPS_SIGNS, **more: Any) -> Envelope:  # noqa: ANN401 (as publish)
        """Append a signed message."""
        return self.publish(body, signer=by, **more)

    def outcomes(self) -> list[tuple[str, str]]:
        """The rows that have ended, oldest first: ID and outcome."""
        rows = reversed(history(self.journal, Wanted(handler="deny")))
        return [(row["id"], row["outcome"]) for row in rows if row["outcome"]]

    def reasons(self) -> list[str]:
        """Why rows were refused, oldest first."""
        rows = reversed(history(self.journal, Wanted(handler="deny")))
        return [row["reason"] for row in rows if row["outcome"] == "refused"]

    @property
    def tried(self) -> tuple[int, str]:
        """What the node acknowledges as tried."""
        found = Numbers(self.journal.database).attempted("deny", "log:ban")
        assert found
        return found.num, found.outcome


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Of a name of which all messages are kept."""
    made = Node(tmp_path)
    with closing(made.journal):
        yield made


@pytest.fixture
def latest(tmp_path: Path) -> Iterator[Node]:
    """Of a name of which the newest is kept."""
    made = Node(tmp_path, keep="latest")
    with closing(made.journal):
        yield made


def test_what_is_signed_is_given_and_the_rest_is_refused(node: Node) -> None:
    """Each is told in the history, counted, and acknowledged as tried; the positions pass over it."""
    node.sign("a")
    node.publish("b")
    node.sign("c", by=Signer(OTHER))
    node.turn()

    assert node.waiting == ["a"]
    assert node.position == 1
    assert node.refused == [("ban", "unsigned"), ("ban", "unknown")]
    assert [outcome for _, outcome in node.outcomes()] == ["refused"] * 2
    assert node.tried[1] == "refused"

    node.sign("d")
    node.turn()

    assert node.waiting == ["a", "d"]
    assert node.position == 4
    assert len(node.refused) == 2


def test_who_published_is_told_by_the_name_of_the_configuration(node: Node) -> None:
    """Beside what the message says of itself."""
    node.sign("a")
    node.turn()
    assert [one.message.publisher for one in node.messages if one.message] == ["ops (test)"]


def test_a_forged_huge_number_does_not_hide_what_comes_below_it(node: Node) -> None:
    """No position, copy or first sight takes it over."""
    before = dict(node.shelf.values)
    node.publish("evil", num=HUGE)
    node.turn(live=False)

    assert (node.position, node.numbers, node.waits) == (0, [], "")
    assert Followed(node.journal).positions()["deny", "ban"].there in (None, 0)

    node.shelf.values, node.shelf.heads = before, {}
    node.sign("true")
    node.turn()

    assert node.waiting == ["true"]
    assert node.position == 1


def test_a_log_goes_on_above_a_forged_number(node: Node) -> None:
    """Publishers number their messages after it."""
    node.publish("evil", num=HUGE)
    node.sign("true")
    node.turn()

    assert node.waiting == ["true"]
    assert node.position == HUGE + 1


def test_a_joiner_takes_no_forged_number_for_the_newest_before_its_start(node: Node) -> None:
    """Or it would take every order for one from before."""
    node.sign("old")
    node.publish("evil", num=HUGE)
    node.turn(live=False)
    assert Followed(node.journal).positions()["deny", "ban"].there == 1


def test_a_joiner_with_a_full_queue_knows_the_newest_that_counts(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not read so far yet."""
    monkeypatch.setattr("agentd.fleet.followed_name.MOST_WAITING", 2)
    for body in "abcde":
        node.sign(body)
    node.publish("evil", num=HUGE)
    node.turn(live=False)
    assert Followed(node.journal).positions()["deny", "ban"].there == 5


def test_a_forged_id_keeps_no_order_from_being_done(tmp_path: Path) -> None:
    """A handler that runs once would take the true message for one that it has heard."""
    node = Node(tmp_path, once=True)
    with closing(node.journal):
        node.now = NOW - 5
        node.restart()
        node.publish("evil", via="event", id="ban-2")
        node.turn()
        node.sign("true")
        node.turn()

        assert node.waiting == ["true"]
        assert [one.id for one in node.messages] == ["ban-2"]


def test_what_is_refused_cannot_be_replayed(node: Node) -> None:
    """Its payload is not in the journal."""
    node.publish("evil")
    node.turn()
    ((identity, _),) = node.outcomes()
    with pytest.raises(Exception, match="payload"):
        replay(node.journal, identity)


def test_of_latest_the_newest_that_counts_is_given(latest: Node) -> None:
    """An unsigned newest message does not hide a signed older one, and makes nobody rebuild the log."""
    latest.sign("true")
    latest.publish("evil")
    latest.turn(live=False)

    assert latest.waiting == ["true"]
    assert (latest.position, latest.waits) == (1, "")
    assert None not in latest.heads


def test_what_was_refused_is_not_read_again_and_again(node: Node) -> None:
    """Until the head changes."""
    node.sign("a")
    node.publish("b", num=7)
    node.turn()
    asked = node.shelf.asked
    for _ in range(3):
        node.turn()
    assert node.shelf.asked == asked
    assert node.refused == [("ban", "unsigned")]


def test_a_node_stays_live_beside_what_it_refuses(node: Node) -> None:
    """A time to live counts from its own first sight then."""
    node.publish("evil")
    node.turn()
    node.now = NOW + 50
    node.sign("a", issued=NOW - 100)
    node.turn()
    assert [one.message.counts_from for one in node.messages if one.message] == [NOW + 50]


def test_many_refused_messages_do_not_drive_out_the_history(node: Node) -> None:
    """One row a minute for each reason; the rest is counted. A clock that is set back does not hush it up."""
    for body in "abc":
        node.publish(body)
        node.turn()
    node.sign("x", by=Signer(OTHER))
    node.turn()
    node.now += 61
    node.publish("d")
    node.turn()
    node.now -= 3600
    node.publish("e")
    node.turn()

    numbers = [identity.split(":")[1] for identity, _ in node.outcomes()]
    assert numbers == ["1", "4", "5", "6"]
    assert [reason for _, reason in node.refused] == ["unsigned"] * 3 + ["unknown"] + ["unsigned"] * 2


def test_a_restart_tells_nothing_twice(node: Node) -> None:
    """The newest message is judged again, and its row is there."""
    node.publish("evil")
    node.turn()
    node.restart()
    node.turn()
    assert len(node.outcomes()) == 1


def test_a_publisher_that_is_added_is_believed_from_then_on(node: Node) -> None:
    """A reload judges anew what was refused."""
    node.sign("a", by=Signer(OTHER))
    node.turn()
    assert node.waiting == []

    both = {"ops": {"key": [OPS.public.text, OTHER.public.text], "may": "*"}}
    node.trust(gate(publishers=both))
    node.turn()

    assert node.waiting == ["a"]
    assert node.position == 1


@pytest.mark.parametrize("flip", [0, 30, 200, 300, -2])
def test_an_altered_message_is_told(node: Node, flip: int) -> None:
    """Wherever it was altered. If it is the newest, the log is damaged, or looks so to this node alone."""
    raw = bytearray(node.sign("a").raw)
    raw[flip] ^= 1
    node.shelf.put(node.shelf.keys_of.message("ban", 1), bytes(raw))
    node.shelf.head("ban", replace(node.shelf.heads["ban"], inline=None))
    node.turn()

    assert node.waiting == []
    assert node.position == 0
    assert [reason for _, reason in node.refused] in (["malformed"], ["signature"], ["unknown"])
    assert [outcome for _, outcome in node.outcomes()] == ["refused"]


def test_two_nodes_judge_one_log_by_their_own_configuration(tmp_path: Path) -> None:
    """And neither takes it for damaged."""
    strict, lax = Node(tmp_path / "strict"), Node(tmp_path / "lax", by=Gate(None))
    with closing(strict.journal), closing(lax.journal):
        lax.shelf = strict.shelf
        strict.publish("a")
        strict.sign("b")
        strict.publish("c")
        for one in (strict, lax):
            one.turn()

        assert (strict.waiting, lax.waiting) == (["b"], ["a", "b", "c"])
        assert (strict.position, lax.position) == (2, 3)
        assert (strict.waits, lax.waits) == ("", "")
        assert None not in strict.heads + lax.heads


def test_a_message_copied_to_another_number_is_junk_there(node: Node) -> None:
    """It says itself where it belongs; altered to say otherwise it is not valid."""
    first = node.sign("a")
    node.turn()
    node.handle()
    raw = first.raw.replace(b'"num":1,"prev":0', b'"num":2,"prev":1')
    for num, copied in ((2, raw), (3, first.raw)):
        node.shelf.put(node.shelf.keys_of.message("ban", num), copied)
    node.shelf.head("ban", Head("all", newest=3, oldest=1, count=3, recent=(1, 2, 3)))
    node.sign("d")
    node.turn()

    assert node.waiting == ["d"]
    assert node.refused == [("ban", "replayed"), ("ban", "replayed")]
    told = [identity for identity, outcome in node.outcomes() if outcome == "refused"]
    assert [identity.split(":")[1] for identity in told] == ["2"]
    assert "it is a copy of message 1" in node.reasons()[0]


def test_an_older_log_is_not_followed_by_a_node_that_lost_its_journal(tmp_path: Path) -> None:
    """What it holds says how far it was; it goes on once that is back."""
    node = Node(tmp_path)
    for body in "ab":
        node.sign(body)
    old = dict(node.shelf.values)
    node.sign("c")
    node.turn()
    node.journal.close()
    new = dict(node.shelf.values)
    for file in tmp_path.glob("journal.db*"):
        file.unlink()

    again = Node(tmp_path)
    again.numbers, again.shelf = node.numbers, node.shelf
    with closing(again.journal):
        again.shelf.values = old
        again.turn(live=False)
        assert again.waiting == []
        assert "its newest message is 2, and this node has seen message 3" in again.waits

        again.shelf.values = new
        again.turn(live=False)
        assert again.waiting == ["a", "b", "c"]


def test_only_a_snapshot_that_counts_stands_for_a_payload_that_is_lost(node: Node) -> None:
    """Nobody vouches for what the head says."""
    node.sign("a")
    large = node.sign(b"x" * (LARGEST_BODY + 1))
    del node.shelf.values[node.shelf.keys_of.body(large.sha256 or "")]
    node.publish("replace", snapshot=True)
    node.turn()

    assert "the payload of message 2 is missing" in node.waits
    assert node.position == 1

    node.sign("replace", snapshot=True)
    node.turn()
    assert node.position == 4


def test_messages_that_came_late_are_judged_as_well(node: Node) -> None:
    """What was written below the position, after the log was lost."""
    node.sign("a", num=5)
    node.turn()
    node.handle()
    head = node.shelf.heads["ban"]
    for num, signer in ((3, None), (4, OPS_SIGNS)):
        node.shelf.heads["ban"] = Head("all")
        node.publish(f"late{num}", num=num, signer=signer)
    node.shelf.head("ban", Head("all", newest=5, oldest=3, count=3, mended=9, recent=(3, 4, 5)))
    assert head.newest == 5
    node.turn()

    assert node.waiting == ["late4", "a"]
    assert node.refused == [("ban", "unsigned")]


def test_a_true_message_at_the_number_of_a_refused_one_is_given(node: Node) -> None:
    """Also if it comes late: the number in the refused one's row is only a claim."""
    node.sign("b", num=5)
    node.publish("evil", num=6)
    node.turn()
    node.shelf.heads["ban"] = Head("all", newest=5, oldest=5, count=1, recent=(5,))
    node.sign("c", num=6)
    node.turn()
    assert node.waiting == ["b", "c"]


def test_a_late_message_at_the_number_of_a_refused_one_is_given(node: Node) -> None:
    """The same, below the position."""
    node.publish("evil", num=3)
    node.sign("b", num=5)
    node.turn()
    node.handle()
    assert node.refused == [("ban", "unsigned")]
    node.shelf.heads["ban"] = Head("all")
    node.sign("true", num=3)
    node.shelf.head("ban", Head("all", newest=5, oldest=3, count=2, mended=9, recent=(3, 5)))
    node.turn()
    assert node.waiting == ["true", "b"]


# ---------------------------------------------------------------- sealed messages


def seal(node: Node, body: bytes = PLAIN, **more: Any) -> Envelope:  # noqa: ANN401 (as publish)
    """Append a sealed message."""
    return node.sign(body, sealed=True, **more)


def test_a_sealed_message_is_queued_sealed(latest: Node) -> None:
    """The journal never has what it says."""
    seal(latest)
    latest.turn()

    (event,) = latest.messages
    assert latest.gate.opened(event).payload == PLAIN
    body = latest.journal.database.rows("SELECT body FROM changes")[0]["body"]
    assert "Payload" not in json.loads(body)


@pytest.mark.parametrize("key", [(), (new_fleet_key(),)])
def test_without_the_key_a_sealed_message_waits_until_it_is_there(latest: Node, key: tuple[Any, ...]) -> None:
    """However long; what came before is in force meanwhile. It is told once, and is no refusal."""
    latest.trust(gate(keys=key))
    latest.sign("before")
    latest.turn()
    seal(latest)
    with capture_logs() as logs:
        for _ in range(3):
            latest.turn()
            latest.now += 1800

    assert latest.waiting == ["before"]
    assert (latest.position, latest.refused) == (1, [])
    assert f"message 2 is sealed with the fleet key {FLEET.kid}" in latest.waits
    assert [one["event"] for one in logs].count("fleet.waits_for_key") == 1

    latest.trust(gate())
    latest.turn()

    assert latest.gate.opened(latest.messages[-1]).payload == PLAIN
    assert (latest.position, latest.waits) == (2, "")


def test_of_all_what_comes_after_a_sealed_message_waits_too(node: Node) -> None:
    """Their order counts."""
    node.trust(gate(keys=()))
    node.sign("a")
    seal(node)
    node.sign("c")
    node.turn()
    assert node.waiting == ["a"]

    node.trust(gate())
    node.turn()
    assert [node.gate.opened(one).payload for one in node.messages] == [b"a", PLAIN, b"c"]


def test_a_node_that_was_away_over_a_rotation_of_the_fleet_key_goes_on(latest: Node) -> None:
    """With the new key alone: what is sealed with the old one is not needed any more."""
    new = new_fleet_key()
    seal(latest, b"old ring")
    seal(latest, b"new ring", by=Signer(OPS, new))
    latest.trust(gate(keys=(new,)))
    latest.turn(live=False)

    (event,) = latest.messages
    assert latest.gate.opened(event).payload == b"new ring"
    assert latest.position == 2


def test_what_is_sealed_for_others_makes_nobody_wait(node: Node) -> None:
    """It is passed over as any message for other nodes."""
    node.trust(gate(keys=()))
    node.sign(PLAIN, sealed=True, node="^other$")
    node.sign("b")
    node.turn()
    assert node.waiting == ["b"]


def test_a_node_without_the_section_waits_for_its_key_too(latest: Node) -> None:
    """It believes everybody, and can open nothing."""
    latest.trust(Gate(None))
    seal(latest)
    latest.turn()
    assert "trust.fleet_keys" in latest.waits


def test_an_expired_signed_message_reaches_no_joiner(node: Node) -> None:
    """An old one that is shown to it is valid, but over."""
    node.sign("a", expires=NOW - 1)
    node.sign("b", expires=NOW + 100)
    node.turn(live=False)
    assert node.waiting == ["b"]
    assert node.refused == [("ban", "expired")]


def test_a_joiner_lists_one_of_many_expired_messages(node: Node) -> None:
    """And counts all of them, once."""
    for number in range(200):
        node.sign(str(number), expires=NOW - 1)
    node.sign("true")
    node.turn(live=False)
    node.turn()

    assert node.waiting == ["true"]
    assert node.refused == [("ban", "expired")] * 200
    assert [identity.split(":")[1] for identity, _ in node.outcomes()] == ["1"]


def test_an_expired_message_for_other_nodes_is_not_told(node: Node) -> None:
    """Nor one that this node takes without a signature."""
    node.trust(gate(require=None))
    node.sign("a", expires=NOW - 1, node="elsewhere")
    node.publish("b", expires=NOW - 1)
    node.turn(live=False)
    assert (node.waiting, node.refused, node.position) == ([], [], 2)


def test_a_pruned_message_that_is_put_back_is_told(node: Node) -> None:
    """Once, and no handler gets it; whatever was never pruned is no replay."""
    key = node.shelf.keys_of.message("ban", 1)
    pruned = node.sign("a").raw
    for body in "bc":
        node.sign(body)
    node.turn()
    node.handle()
    del node.shelf.values[key]
    honest = Head("all", newest=3, oldest=2, count=2, base=1, recent=(2, 3))
    node.shelf.head("ban", honest)
    node.dropped = 1
    node.turn()
    assert node.refused == []

    node.shelf.put(key, pruned)
    node.shelf.head("ban", Head("all", newest=3, oldest=1, count=3, mended=7, recent=(1, 2, 3)))
    for _ in range(3):
        node.turn()

    assert node.refused == [("ban", "replayed")]
    assert "put into the log again" in node.reasons()[0]
    assert node.waiting == []
    asked = node.shelf.asked
    node.turn()
    assert node.shelf.asked == asked
