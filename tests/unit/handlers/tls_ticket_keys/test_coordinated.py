"""The ring that follows documents, on the harness: what encrypts, what leaves, and when."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.handler import PermanentError
from agentd.testing import HandlerHarness, event, key, message
from handlers.tls_ticket_keys import TicketKeys
from handlers.tls_ticket_keys.document import Document, key_digest
from handlers.tls_ticket_keys.ring import Schedule, TicketKey, settle
from tests.examples import LOOKS

NAME = "tickets"
INCLUDE = "tickets/tickets.conf"
NOW = 1_700_000_000
HOUR = 3600
SECRETS = [random.Random(seed).randbytes(size) for seed, size in enumerate((80, 48) * 5)]


def staged(*ring: int, following: int, **more: Any) -> Document:  # noqa: ANN401 (fields of a document)
    """A document in which a key only decrypts yet."""
    return Document(
        "staged", tuple(SECRETS[one] for one in ring), SECRETS[following], **{"since": NOW} | more
    )


def promoted(*ring: int, **more: Any) -> Document:  # noqa: ANN401 (as above)
    """A document in which the first key is to encrypt everywhere."""
    return Document("promoted", tuple(SECRETS[one] for one in ring), **{"since": NOW} | more)


def idle(*ring: int, **more: Any) -> Document:  # noqa: ANN401 (as above)
    """A document of a rotation that is confirmed."""
    return Document("idle", tuple(SECRETS[one] for one in ring), **{"since": NOW} | more)


ROTATION = [staged(following=0), promoted(0), idle(0), staged(0, following=1), promoted(1, 0), idle(1, 0)]


class Node(HandlerHarness):
    """A node that has started and has its own key."""

    def __init__(self, **options: object) -> None:
        super().__init__(TicketKeys, {"promote_after": "60s", "retire_after": "1h"} | options, now=NOW)
        self.initial()
        [self.own] = self.ring

    def take(self, document: Document, num: int) -> tuple[str, ...]:
        """Take a document from the log."""
        return self.handle(message(NAME, document.render(), num=num, issued=self.now))

    def hear(self, number: int, ltime: int = 1) -> None:
        """Hear a single key."""
        self.handle(event(NAME, base64.b64encode(SECRETS[number]), ltime=ltime))

    @property
    def ring(self) -> list[bytes]:
        """The secrets that nginx loads, in order: the first encrypts."""
        lines = self.files[INCLUDE].decode().splitlines()
        start = "ssl_session_ticket_key agentd/current/"
        paths = [line.removeprefix(start).removesuffix(";") for line in lines]
        assert sorted([INCLUDE, *paths]) == sorted(self.files)
        return [self.files[path] for path in paths]

    @property
    def fleet(self) -> list[int]:
        """The numbers of the secrets, in order, without the node's own."""
        return [SECRETS.index(one) for one in self.ring if one in SECRETS]


# ---------------------------------------------------------------- the phases


def test_before_the_first_rotation_a_node_encrypts_with_what_it_has() -> None:
    """However long that takes: the next key only decrypts until a document promotes it."""
    node = Node()
    node.take(staged(following=0), 1)

    node.advance(100 * HOUR)

    assert node.ring == [node.own, SECRETS[0]]


def test_a_promoted_key_encrypts_at_once() -> None:
    """And the node's own still decrypts, until it retires."""
    node = Node()
    node.take(staged(following=0), 1)
    node.take(promoted(0), 2)
    before = node.ring
    node.take(idle(0), 3)

    node.advance(HOUR - 1)
    still = node.ring
    node.advance(1)

    assert before == still == [SECRETS[0], node.own]
    assert node.ring == [SECRETS[0]]
    assert node.next_due is None


def test_a_rotation_step_by_step() -> None:
    """The ring is exactly the document's, and the clock changes nothing of it."""
    node, rings = Node(), []
    for num, document in enumerate(ROTATION, 1):
        node.take(document, num)
        node.advance(2 * HOUR)
        rings.append(node.fleet)

    assert rings == [[0], [0], [0], [0, 1], [1, 0], [1, 0]]


def test_a_joiner_takes_the_newest_document_whatever_its_phase() -> None:
    """It was there for none of those before."""
    node = Node()

    node.take(staged(2, 1, following=3), 7)

    assert node.ring == [SECRETS[2], SECRETS[1], SECRETS[3], node.own]


def test_confirming_changes_no_file() -> None:
    """So that nginx is not reloaded for it."""
    node = Node()
    node.take(staged(0, following=1), 1)
    node.take(promoted(1, 0), 2)

    assert node.take(idle(1, 0), 3) == ()
    assert node.report()["rotation"] == {"phase": "idle", "since": NOW, "num": 3}


def test_keys_that_left_the_document_leave_at_once() -> None:
    """With their files."""
    node = Node()
    node.take(idle(3, 2, 1, 0), 1)

    node.take(idle(3, 2), 2)

    assert node.ring == [SECRETS[3], SECRETS[2], node.own]


def test_a_revocation_leaves_nothing_else() -> None:
    """Neither the node's own key nor one that it heard; those of later days retire as usual."""
    node = Node()
    node.hear(5)
    node.take(idle(1, 0), 1)
    node.advance(60)

    node.take(promoted(2, revoked=NOW + 60), 2)
    revoked = node.ring
    node.advance(HOUR)
    node.hear(6)

    assert revoked == [SECRETS[2]]
    assert node.ring == [SECRETS[2], SECRETS[6]]


def test_a_revoked_key_never_comes_back() -> None:
    """Neither by an old document that somebody had signed anew, nor by its event."""
    node = Node()
    node.take(idle(1, 0), 1)
    node.take(promoted(2, revoked=NOW), 2)
    node.take(idle(2, revoked=NOW), 3)
    for document in (staged(1, 0, following=3), idle(2, 0), idle(2, 1, revoked=NOW + 9)):
        with pytest.raises(PermanentError, match="a key that was revoked"):
            node.take(document, 4)
    with pytest.raises(PermanentError, match="it was revoked"):
        node.hear(1)
    assert node.ring == [SECRETS[2]]
    node.take(staged(2, following=3, revoked=NOW), 5)
    assert node.ring == [SECRETS[2], SECRETS[3]]


def test_a_joiner_keeps_nothing_that_may_have_been_revoked() -> None:
    """It hears old events from Consul, and does not know how old."""
    joiner, later = Node(), Node()
    for node in (joiner, later):
        node.hear(5)
    later.advance(25 * HOUR)
    for node in (joiner, later):
        node.take(idle(2, revoked=NOW - HOUR), 2)

    with pytest.raises(PermanentError, match="were revoked"):
        joiner.handle(replace(event(NAME, base64.b64encode(SECRETS[6])), undated=True))
    later.handle(replace(event(NAME, base64.b64encode(SECRETS[6])), undated=True))

    assert joiner.ring == [SECRETS[2]]
    assert sorted(later.fleet) == [2, 5, 6]


def test_a_new_first_document_takes_no_key_away() -> None:
    """Of a fleet that lost its log: what encrypted goes on, and retires later."""
    node = Node()
    node.take(idle(1, 0), 1)

    node.take(staged(following=2), 2)
    begun = node.fleet
    node.take(promoted(2), 3)
    later = node.fleet
    node.advance(HOUR)

    assert (begun, later, node.fleet) == ([1, 2, 0], [2, 1, 0], [2])


def test_the_documents_key_wins_a_name() -> None:
    """A ticket finds its key by name, so another one of this name has to leave."""
    node, clash = Node(), SECRETS[0][:16] + SECRETS[2][16:]
    node.handle(event(NAME, base64.b64encode(clash)))

    node.take(idle(0), 1)

    assert node.ring == [SECRETS[0], node.own]


# ---------------------------------------------------------------- what never applies


def test_an_older_document_never_applies() -> None:
    """A replayed one; it is told in the log."""
    node = Node()
    node.take(idle(1, 0), 5)

    assert node.take(staged(0, following=1), 4) == ()
    assert node.log[-1].event == "ticket_document.too_old"
    assert node.report()["rotation"]["num"] == 5


def test_a_document_comes_only_through_the_log() -> None:
    """Whoever may fire an event cannot bring one, nor whoever may write a key."""
    node, text = Node(), idle(0).render()

    with pytest.raises(PermanentError, match="only through the fleet's log"):
        node.handle(event(NAME, text))
    with pytest.raises(PermanentError, match="not base64"):
        node.handle(key("ticket-key", text))
    assert node.ring == [node.own]


def test_a_document_that_is_refused_changes_nothing() -> None:
    """The ring is that of the one before."""
    node = Node()
    node.take(idle(0), 1)
    twice = json.loads(idle(1).render())
    twice["ring"] *= 2

    with pytest.raises(PermanentError, match="a key twice"):
        node.handle(message(NAME, json.dumps(twice), num=2))

    assert node.fleet == [0]


def test_a_single_key_in_the_log_is_refused_while_there_is_a_document() -> None:
    """With what to do instead."""
    node = Node()
    node.handle(message(NAME, base64.b64encode(SECRETS[5]), num=1))
    node.take(idle(0), 2)

    with pytest.raises(PermanentError, match="agentd rotate-tickets"):
        node.handle(message(NAME, base64.b64encode(SECRETS[6]), num=3))

    assert node.fleet == [0, 5]


# ---------------------------------------------------------------- single keys, while the fleet moves


@pytest.mark.parametrize("before", [True, False])
def test_a_key_that_was_heard_only_decrypts(before: bool) -> None:  # noqa: FBT001 (a case)
    """Whether it came before the first document or after it; and it retires."""
    node = Node()
    if before:
        node.hear(5)
    node.take(idle(0), 1)
    if not before:
        node.hear(5)

    node.advance(HOUR - 1)
    held = node.fleet
    node.advance(1)

    assert (held, node.fleet) == ([0, 5], [0])


def test_a_key_of_a_kv_key_only_decrypts() -> None:
    """The same as one that was heard."""
    node = Node()
    node.take(idle(0), 1)

    node.handle(key("ticket-key", base64.b64encode(SECRETS[5])))

    assert node.fleet == [0, 5]


def test_a_key_that_a_document_has_stays_as_long_as_it_has_it() -> None:
    """The coordinator adopted what was heard."""
    node = Node()
    node.take(idle(0), 1)
    node.hear(5)
    node.take(staged(0, following=5), 2)
    node.advance(2 * HOUR)
    adopted = node.fleet

    node.take(promoted(5, 0), 3)
    node.hear(5, ltime=9)
    node.take(idle(0), 4)

    assert adopted == [0, 5]
    assert node.fleet == [0]


@pytest.mark.parametrize("waiting", [False, True])
def test_a_first_document_may_adopt_the_key_that_encrypts(waiting: bool) -> None:  # noqa: FBT001 (a case)
    """Nodes that have it go on encrypting with it, even if another one waits to be promoted."""
    node = Node()
    node.hear(5)
    node.advance(60)
    if waiting:
        node.hear(6, ltime=2)

    node.take(staged(following=5), 1)
    node.advance(2 * HOUR)
    stored = tuple(TicketKey.from_json(one) for one in node.store["ring"])
    adopted = node.ring
    node.take(promoted(5), 2)

    assert adopted == [SECRETS[5]]
    assert settle(stored, node.now, Schedule(60, HOUR, 12))[0] == stored[0]
    assert node.ring == [SECRETS[5]]


def test_a_flood_of_keys_is_bounded() -> None:
    """The document's stay."""
    node = Node(keep=2)
    node.take(idle(0, 1), 1)

    for number in range(2, 10):
        node.hear(number, ltime=number)

    assert node.fleet == [0, 1, 9, 8]


# ---------------------------------------------------------------- restarts, losses, other versions


def test_a_restart_changes_nothing() -> None:
    """Without an answer from Consul as well."""
    node = Node()
    node.take(staged(0, following=1), 1)
    node.restart()

    assert node.initial() == ()
    assert node.fleet == [0, 1]


def test_a_ring_of_today_is_taken_over() -> None:
    """The store of a node that has no document yet."""
    node = Node()
    node.hear(5)
    node.advance(60)
    assert set(node.store) == {"ring", "status", "gauges"}

    node.take(staged(following=0), 1)

    assert node.ring == [SECRETS[5], SECRETS[0], node.own]


@pytest.mark.parametrize("document", [staged(following=0), staged(1, 2, following=0), promoted(0, 1, 2)])
def test_an_earlier_version_promotes_nothing(document: Document) -> None:
    """It reads the store as its own: the same key encrypts, and the others decrypt for their time."""
    node = Node()
    node.take(document, 1)
    stored = tuple(TicketKey.from_json(one) for one in node.store["ring"])

    later = settle(stored, node.now + 61, Schedule(60, HOUR, 12))

    assert later[0].path == stored[0].path
    assert {one.path for one in later} == {one.path for one in stored}


def lose(node: Node, *numbers: int) -> None:
    """Files of keys are gone, while the node is down."""
    for one in numbers:
        del node._files[f"tickets/{key_digest(SECRETS[one])}.key"]
    node.restart()
    node.initial()


def test_a_lost_key_is_told_until_it_is_back() -> None:
    """What is left of the document's ring encrypts, rather than a key that no other node has."""
    node = Node()
    node.take(staged(0, 1, following=2), 4)
    lose(node, 0)

    [drift] = node.verify().drift
    assert "1 of the 3 keys of the fleet's document 4 are lost on this node" in drift.reason
    assert node.fleet == [1, 2]

    node.take(staged(0, 1, following=2), 4)
    assert node.verify().drift == ()
    assert node.fleet == [0, 1, 2]


def test_if_all_are_lost_a_new_key_encrypts() -> None:
    """So that nginx starts; never the next key, which other nodes may not have."""
    node = Node()
    node.take(promoted(0, revoked=NOW), 4)
    node.take(staged(0, following=1), 5)
    lose(node, 0)
    substitute = node.ring[0]

    node.take(promoted(1, 0), 6)

    assert substitute not in SECRETS
    assert node.ring == [SECRETS[1], SECRETS[0], substitute]


def test_lost_keys_are_taken_from_what_this_node_knows_of_the_log() -> None:
    """Before nginx starts: the ring is the document's again, and nothing is missing."""
    node = Node()
    node.take(staged(0, 1, following=2), 4)
    node.recalls = [message(NAME, staged(0, 1, following=2).render(), num=4)]
    lose(node, 0, 1, 2)

    assert node.fleet == [0, 1, 2]
    assert node.verify().drift == ()


def test_an_older_document_does_not_replace_what_is_left() -> None:
    """An old copy must not bring old keys back; that some are lost is told."""
    node = Node()
    node.take(idle(0), 3)
    node.take(staged(0, following=1), 4)
    node.recalls = [message(NAME, idle(0).render(), num=3)]
    lose(node, 1)

    assert node.fleet == [0]
    assert len(node.verify().drift) == 1


def test_a_copy_that_cannot_be_used_does_not_keep_nginx_from_starting() -> None:
    """A random key encrypts then, and the log says why."""
    node = Node()
    node.take(idle(0), 3)
    node.recalls = [message(NAME, b"{}", num=4)]
    lose(node, 0)

    assert node.fleet == []
    assert node.ring[0] != node.own
    assert node.log[-1].event == "ticket_keys.not_restored"


def test_a_node_that_lost_nothing_recalls_nothing() -> None:
    """What the log has may be for others."""
    node = Node()
    node.take(idle(0), 3)
    node.recalls = [message(NAME, idle(1).render(), num=4)]
    node.restart()
    node.initial()

    assert node.fleet == [0]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, len(ROTATION) - 1)),
        st.tuples(st.just("hear"), st.integers(5, 9)),
        st.tuples(st.just("wait"), st.integers(1, HOUR)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=16,
)


@given(steps)
@settings(max_examples=LOOKS or 150, deadline=None)
def test_whatever_comes_the_newest_document_is_the_ring(done: list[tuple[str, int]]) -> None:
    """In any order, with keys heard and restarts in between; its number never falls."""
    node, newest = Node(), -1
    for what, number in done:
        if what == "take":
            node.take(ROTATION[number], number)
            newest = max(newest, number)
        elif what == "hear":
            node.hear(number, ltime=number)
        elif what == "wait":
            node.advance(number)
        else:
            node.restart()
            node.initial()
        if newest >= 0:
            assert node.report()["rotation"]["num"] == newest

    if newest < 0:
        return
    document, ring = ROTATION[newest], node.ring
    own = () if document.ring else (ring[0],)
    assert tuple(ring[: len(own) + len(document.keys)]) == (*own, *document.keys)
    node.advance(HOUR)
    assert tuple(node.ring) == (*own, *document.keys)


# ---------------------------------------------------------------- what is told


def test_nodes_with_the_same_document_have_the_same_fingerprint() -> None:
    """Whatever else they have; and no other."""
    first, second = Node(), Node()
    first.hear(5)
    seen = set()
    for num, document in enumerate(ROTATION, 1):
        first.take(document, num)
        second.take(document, num)
        assert first.fingerprint() == second.fingerprint()
        seen.add(first.fingerprint())

    assert len(seen) == 3  # 0 alone; 0 and 1; 1 and 0


def test_what_is_told_of_a_rotation() -> None:
    """Its phase and number beside the ring; status and metrics say since when."""
    node = Node()
    node.take(staged(0, 1, following=2, since=NOW - 7), 12)

    told = node.report()

    assert told["rotation"] == {"phase": "staged", "since": NOW - 7, "num": 12}
    assert [one["key"] for one in told["ring"][:3]] == [key_digest(SECRETS[one])[:8] for one in (0, 1, 2)]
    parts = ["rotation (staged)", "encrypting key", "key 2", "next key", "key 4 (this node's own)"]
    assert [one["part"] for one in node.store["status"]] == parts
    assert node.store["status"][0]["since"] == NOW - 7
    gauges = node.store["gauges"]
    assert gauges["tls_ticket_rotation_phase"] == 1
    assert gauges["tls_ticket_rotation_since_timestamp_seconds"] == NOW - 7


def test_when_the_next_rotation_is_due_is_told() -> None:
    """So that one which never begins is an alarm, whatever holds it up."""
    node = Node(rotate_every="2h")
    node.take(idle(0, promoted=NOW - 30, since=NOW - 20), 12)
    assert node.store["gauges"]["tls_ticket_rotation_due_timestamp_seconds"] == NOW - 30 + 2 * HOUR
    node.take(staged(0, following=2, promoted=NOW - 30, since=NOW), 13)
    assert node.store["gauges"]["tls_ticket_rotation_due_timestamp_seconds"] == NOW - 30 + 2 * HOUR


def test_the_largest_ring_fits_an_acknowledgement() -> None:
    """With the phase beside it, and how many keys are not listed."""
    node = Node()
    ring = tuple(random.Random(one).randbytes(80) for one in range(100, 201))
    node.take(Document("staged", ring, SECRETS[0], since=NOW), 8_000_000_000_000_000)

    assert len(json.dumps(node.report())) < 2048
    assert (node.report()["keys"], len(node.report()["ring"])) == (103, 16)


def test_no_secret_in_store_or_log() -> None:
    """Of any phase."""
    node = Node()
    for num, document in enumerate(ROTATION, 1):
        node.take(document, num)
    said = json.dumps(node.store) + repr(node.log) + json.dumps(node.report())

    for secret in SECRETS[:2]:
        encoded = base64.b64encode(secret).decode()
        assert not any(encoded[at : at + 8] in said for at in range(24, len(encoded) - 8))
        assert secret.hex()[34:50] not in said
    assert {node.modes[path] for path in node.files if path != INCLUDE} == {0o600}
