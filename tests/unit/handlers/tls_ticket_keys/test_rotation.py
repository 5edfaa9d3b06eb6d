"""Which document follows the newest one: each row of the table, and what never happens whatever nodes do."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.tls_ticket_keys.document import MARGIN, Document, key_digest
from handlers.tls_ticket_keys.rotation import (
    BELL_PAUSE,
    OVERDUE,
    Node,
    Policy,
    Publish,
    Rest,
    Seen,
    Wait,
    Wish,
    key_size,
    step,
)
from handlers.tls_ticket_keys.session_timeout import DEFAULT
from tests.examples import LOOKS

KEYS = [random.Random(seed).randbytes(80) for seed in range(200)]
OLD, NOW, NEW = KEYS[:3]
T = 1_790_000_000
NUM = T * 1000
POLICY = Policy(every=3600.0, keep=3)
WISH = Wish(NEW)
IDLE = Document("idle", (NOW, OLD), since=T, promoted=T, demoted={key_digest(OLD): T})
STAGED = Document("staged", (NOW, OLD), NEW, since=T, promoted=T - 100, demoted={key_digest(OLD): T - 100})
PROMOTED = Document("promoted", (NEW, NOW, OLD), since=T, promoted=T, demoted={key_digest(OLD): T - 100})
BELL = (7, "e7")


def seen(document: Document | None, *nodes: Node, after: float = 1.0, newest: int = NUM) -> Seen:
    """What was read so many seconds after the phase began, by default with two nodes that confirm it."""
    num = NUM if document else 0
    return Seen(newest if document else 0, num, document, nodes or nodes_at(num, num), T + after)


def nodes_at(*lives: int) -> tuple[Node, ...]:
    """Nodes with these messages in force."""
    return tuple(Node(f"lb{at}", live) for at, live in enumerate(lives, 1))


def published(found: object) -> Document:
    """The document of a step."""
    assert isinstance(found, Publish)
    return Document.parse(found.document.render())


def waits(found: object) -> Wait:
    """What a step waits for."""
    assert isinstance(found, Wait)
    return found


class TestBeginning:
    """From IDLE to STAGED."""

    def test_the_first_document_changes_no_encrypting_key(self) -> None:
        """Nodes are only to decrypt with the new one."""
        assert published(step(seen(None), POLICY, WISH)) == Document("staged", (), NEW, since=T + 1)

    def test_it_begins_when_the_key_is_old_enough(self) -> None:
        """And not a moment earlier."""
        assert step(seen(IDLE, after=10), POLICY, WISH) == Rest(T + 3600)
        alone = Document("idle", (NOW,), since=T, promoted=T)
        made = published(step(seen(alone, after=3600), POLICY, WISH))
        assert made == Document("staged", (NOW,), NEW, since=T + 3600, promoted=T)

    def test_a_date_in_the_future_does_not_put_it_off(self) -> None:
        """The clock of whoever promoted the key was wrong, by months perhaps."""
        ahead = replace(IDLE, promoted=T + 10**7, since=T + 10**7)
        assert published(step(seen(ahead), POLICY, WISH)).phase == "staged"
        little = replace(IDLE, promoted=T + 600)
        assert step(seen(little), POLICY, WISH) == Rest(T + 4200)

    @pytest.mark.parametrize(
        "document, sizes, size",
        [
            (IDLE, (None, None), 80),
            (replace(IDLE, ring=(NOW[:48],), demoted={}), (None, None), 80),
            (replace(IDLE, ring=(NOW[:48],), demoted={}), (None, 48), 48),
            (IDLE, (48, 80), 80),
            (Document("staged", (), NEW, since=T), (80, 48), 48),
            (None, (None, 48), 48),
            (None, (), 80),
        ],
    )
    def test_a_key_is_as_long_as_those_that_it_stands_beside(
        self, document: Document | None, sizes: tuple[int | None, ...], size: int
    ) -> None:
        """Where a node cannot hold two lengths at once, as HAProxy."""
        nodes = (Node(f"lb{at}", NUM, size=one) for at, one in enumerate(sizes))
        assert key_size(seen(document, *nodes)) == size

    def test_somebody_may_ask_for_it(self) -> None:
        """Then no age counts."""
        made = published(step(seen(IDLE), POLICY, replace(WISH, begin=True)))
        assert (made.phase, made.ring, made.next, made.demoted) == ("staged", IDLE.ring, NEW, IDLE.demoted)

    def test_an_event_asks_for_it_once(self) -> None:
        """Not within a minute of the last rotation, and not again once it was answered."""
        rung = replace(WISH, bell=BELL)
        assert step(seen(IDLE), POLICY, rung) == Rest(T + BELL_PAUSE)
        made = published(step(seen(IDLE, after=BELL_PAUSE), POLICY, rung))
        assert (made.phase, made.bell) == ("staged", BELL)
        answered = replace(IDLE, bell=BELL)
        assert step(seen(answered, after=BELL_PAUSE), POLICY, rung) == Rest(T + 3600)
        later = replace(WISH, bell=(8, "a"))
        assert published(step(seen(answered, after=BELL_PAUSE), POLICY, later)).bell == (8, "a")

    def test_a_freeze_holds_it(self) -> None:
        """Also if somebody asks for it; what is under way goes on."""
        frozen = replace(WISH, begin=True, frozen="frozen by ops: sale")
        assert "frozen by ops: sale: no rotation begins" in waits(step(seen(IDLE), POLICY, frozen)).reason
        assert published(step(seen(STAGED), POLICY, frozen)).phase == "promoted"
        assert published(step(seen(PROMOTED), POLICY, frozen)).phase == "idle"

    def test_a_full_ring_holds_it(self) -> None:
        """Whoever limits it is named, with when there is room."""
        wish = replace(WISH, begin=True)
        told = waits(step(seen(IDLE), replace(POLICY, keep=1), wish)).reason
        assert told == "the ring is full: `keep` allows 2 keys; the oldest leaves in 20 min"
        narrow = [replace(one, most=most) for one, most in zip(nodes_at(NUM, NUM), (3, 2), strict=True)]
        assert "lb2 can hold 2 keys" in waits(step(seen(IDLE, *narrow), POLICY, wish)).reason
        long = (Node("lb1", NUM), Node("lb2", NUM, session_timeout=6000))
        told = waits(step(seen(IDLE, *long), replace(POLICY, keep=1), wish)).reason
        assert told.endswith("the oldest leaves in 115 min, after the sessions of lb2")

    def test_while_events_bring_the_keys_there_are_no_others(self) -> None:
        """Neither age nor a person begins a rotation with a key that some nodes would not get."""
        policy = replace(POLICY, adopts=True)
        old = replace(IDLE, demoted={key_digest(OLD): T + 4000})
        assert step(seen(old, after=4000), policy, replace(WISH, begin=True, bell=BELL)) == Rest(None)
        heard = replace(WISH, adopted=True, bell=BELL)
        assert published(step(seen(old), policy, heard)).next == NEW
        assert step(seen(replace(old, bell=BELL)), policy, heard) == Rest(None)
        assert step(seen(replace(old, ring=(NEW, OLD))), policy, heard) == Rest(None)


class TestConfirming:
    """From STAGED to PROMOTED, and to IDLE."""

    def test_a_staged_key_is_promoted(self) -> None:
        """Once every node can decrypt with it."""
        made = published(step(seen(STAGED), POLICY, WISH))
        assert (made.phase, made.ring, made.next) == ("promoted", (NEW, NOW, OLD), None)
        assert (made.since, made.promoted, made.demoted) == (T + 1, T + 1, STAGED.demoted)

    def test_a_promoted_key_is_confirmed(self) -> None:
        """Only now the former key has stopped encrypting everywhere."""
        made = published(step(seen(PROMOTED), POLICY, WISH))
        assert (made.phase, made.ring, made.promoted) == ("idle", PROMOTED.ring, T)
        assert made.demoted == {key_digest(OLD): T - 100, key_digest(NOW): T + 1}

    @pytest.mark.parametrize("document", [STAGED, PROMOTED], ids=["staged", "promoted"])
    def test_one_node_is_enough_to_wait(self, document: Document) -> None:
        """It is named, with since when; a new wish changes nothing."""
        found = step(seen(document, *nodes_at(NUM, NUM - 1)), POLICY, replace(WISH, begin=True, bell=BELL))
        assert ([one.name for one in waits(found).nodes], waits(found).since) == (["lb2"], T)

    @pytest.mark.parametrize("document", [STAGED, PROMOTED], ids=["staged", "promoted"])
    def test_a_node_can_be_left_out(self, document: Document) -> None:
        """That is recorded, and holds for the rest of the rotation; the next one waits for it again."""
        nodes = nodes_at(NUM, NUM - 1)
        made = published(step(seen(document, *nodes), POLICY, replace(WISH, without=frozenset({"lb2"}))))
        assert (made.phase != document.phase, made.without) == (True, ("lb2",))
        again = seen(replace(document, without=("lb2",)), *nodes)
        assert published(step(again, POLICY, WISH)).without == ("lb2",)
        begun = published(step(seen(replace(IDLE, without=("lb2",))), POLICY, replace(WISH, begin=True)))
        assert begun.without == ()

    def test_a_node_that_is_left_out_in_vain_is_not_recorded(self) -> None:
        """It has confirmed like the others."""
        assert published(step(seen(STAGED), POLICY, replace(WISH, without=frozenset({"lb2"})))).without == ()

    def test_after_an_hour_a_node_is_passed_over_if_that_is_allowed(self) -> None:
        """With `on_dead: proceed`."""
        late = seen(STAGED, *nodes_at(NUM, 0), after=OVERDUE)
        assert isinstance(step(late, POLICY, WISH), Wait)
        assert published(step(late, replace(POLICY, proceed=True), WISH)).without == ("lb2",)
        early = seen(STAGED, *nodes_at(NUM, 0), after=OVERDUE - 1)
        assert isinstance(step(early, replace(POLICY, proceed=True), WISH), Wait)

    def test_somebody_must_confirm(self) -> None:
        """If all are left out, nothing is known."""
        all_left = replace(WISH, without=frozenset({"lb1", "lb2"}))
        found = step(seen(STAGED, *nodes_at(0, 0)), POLICY, all_left)
        assert waits(found).reason == "no node is left that could confirm"


@pytest.mark.parametrize(
    "document", [None, IDLE, STAGED, PROMOTED], ids=["none", "idle", "staged", "promoted"]
)
@pytest.mark.parametrize("revoke", [False, True], ids=["rotate", "revoke"])
class TestNotReady:
    """Nothing follows from what cannot be right."""

    def test_nobody_acknowledges(self, document: Document | None, *, revoke: bool) -> None:
        """A wiped store has no nodes at first."""
        nobody = Seen(NUM if document else 0, NUM if document else 0, document, (), T + 4000)
        found = step(nobody, POLICY, replace(WISH, begin=not revoke, revoke=revoke))
        assert waits(found).reason == "no node of the fleet acknowledges this name"

    def test_nobody_acknowledges_any_more(self, document: Document | None, *, revoke: bool) -> None:
        """Agentd runs there: what it has in force is not known, so a first document might be none."""
        wish = replace(WISH, begin=not revoke, revoke=revoke)
        mute = (Node("lb1", is_mute=True), Node("lb2", is_mute=True))
        assert isinstance(step(seen(document, *mute, after=4000), POLICY, wish), Wait)
        some = seen(document, Node("lb1", NUM if document else 0), Node("lb2", is_mute=True), after=1)
        waits_for_it = document is None or (document.phase != "idle" and not revoke)
        assert isinstance(step(some, POLICY, wish), Wait) == waits_for_it
        without = step(some, POLICY, replace(wish, without=frozenset({"lb2"})))
        assert isinstance(without, Publish)

    def test_the_log_is_older_than_what_a_node_has(self, document: Document | None, *, revoke: bool) -> None:
        """It was wiped, or an old snapshot was restored: the nodes write it back first."""
        newer = seen(document, *nodes_at(NUM, NUM + 1), after=4000)
        found = waits(step(newer, POLICY, replace(WISH, begin=not revoke, revoke=revoke)))
        assert found.reason.startswith("the log is older than what nodes have")
        if document and document.phase != "idle" and not revoke:
            assert found.since == T  # so that it becomes an alarm

    def test_a_rotation_that_cannot_begin_becomes_an_alarm(
        self, document: Document | None, *, revoke: bool
    ) -> None:
        """It was due since then."""
        if document is IDLE and not revoke:
            alone = replace(IDLE, ring=(NOW,), demoted={})
            lagging = seen(alone, *nodes_at(NUM, NUM + 1), after=9000)
            assert waits(step(lagging, POLICY, WISH)).since == T + 3600

    def test_a_node_that_makes_up_a_number_can_be_left_out(
        self, document: Document | None, *, revoke: bool
    ) -> None:
        """It is named, and since when it is in the way, so that somebody is told after an hour."""
        evil = Node("evil", 8 * 10**15, session_timeout=10**8, most=1)
        newer = seen(document, *nodes_at(NUM if document else 0), evil, after=4000)
        wish = replace(WISH, begin=not revoke, revoke=revoke)
        found = waits(step(newer, POLICY, wish))
        assert "evil" in found.reason
        assert found.since is not None
        assert isinstance(step(newer, POLICY, replace(wish, without=frozenset({"evil"}))), Publish)


class TestRetiring:
    """Keys that no session needs leave."""

    @pytest.mark.parametrize("timeout, stays", [(None, 300), (600, 600), (10, 300)])
    def test_a_key_leaves_after_the_longest_session(self, timeout: int | None, stays: int) -> None:
        """And a quarter of an hour, for clocks that are wrong."""
        nodes = (Node("lb1", NUM), Node("lb2", NUM, session_timeout=timeout))
        before = step(seen(IDLE, *nodes, after=stays + MARGIN - 1), POLICY, WISH)
        assert before == Rest(T + 3600)
        made = published(step(seen(IDLE, *nodes, after=stays + MARGIN), POLICY, WISH))
        assert made == replace(IDLE, ring=(NOW,), demoted={})

    def test_no_key_leaves_while_a_node_is_mute(self) -> None:
        """It may let sessions live for longer; somebody may say that it does not matter."""
        nodes = (Node("lb1", NUM), Node("lb2", is_mute=True))
        late = seen(IDLE, *nodes, after=3000)
        assert step(late, POLICY, WISH) == Rest(T + 3600)
        made = published(step(late, POLICY, replace(WISH, without=frozenset({"lb2"}))))
        assert made.ring == (NOW,)

    def test_no_key_leaves_during_a_rotation(self) -> None:
        """One step at a time."""
        late = seen(STAGED, *nodes_at(NUM, 0), after=100_000)
        assert isinstance(step(late, POLICY, WISH), Wait)

    def test_the_encrypting_key_stays(self) -> None:
        """Whatever its age."""
        made = published(step(seen(IDLE, after=10**8), POLICY, WISH))
        assert made.ring == (NOW,)


class TestRevoking:
    """All keys leave at once."""

    @pytest.mark.parametrize("document", [None, IDLE, STAGED, PROMOTED])
    def test_one_new_key_is_left(self, document: Document | None) -> None:
        """In any phase, whoever has confirmed it."""
        nodes = nodes_at(0, NUM if document else 0)
        made = published(step(seen(document, *nodes), POLICY, replace(WISH, revoke=True)))
        assert made == Document("promoted", (NEW,), since=T + 1, promoted=T + 1, revoked=T + 1)

    def test_it_is_confirmed_like_any_other(self) -> None:
        """The wish is fulfilled only then."""
        wish = replace(WISH, revoke=True)
        made = published(step(seen(IDLE), POLICY, wish))
        assert isinstance(step(seen(made, *nodes_at(NUM, 0)), POLICY, wish), Wait)
        idle = published(step(seen(made), POLICY, wish))
        assert (idle.phase, idle.ring, idle.revoked, idle.demoted) == ("idle", (NEW,), T + 1, {})
        assert isinstance(step(seen(idle), POLICY, wish), Rest)


# ---------------------------------------------------------------- what never happens


@dataclass
class Fleet:
    """Nodes that take the newest document when they please, and coordinators with wrong clocks."""

    size: int
    keep: int
    log: list[Document] = field(default_factory=list)
    took: list[int] = field(default_factory=list)  # by node, how many documents it knows
    clock: float = float(T)
    fresh: int = 0
    demoted: dict[bytes, float] = field(default_factory=dict)  # by true time, when nobody encrypted with it

    def __post_init__(self) -> None:
        self.took = [0] * self.size

    def seen(self, off: float) -> Seen:
        """What a coordinator reads whose clock is off by so much."""
        nodes = tuple(Node(f"lb{at}", live, session_timeout=600) for at, live in enumerate(self.took))
        newest = self.log[-1] if self.log else None
        return Seen(len(self.log), len(self.log), newest, nodes, self.clock + off)

    def act(self, read: Seen, *, begin: bool = False, revoke: bool = False) -> bool:
        """Let a coordinator decide by what it read; whether its document is published."""
        self.fresh += 1
        wish = Wish(KEYS[self.fresh % len(KEYS)], begin=begin, revoke=revoke)
        found = step(read, Policy(every=1000.0, keep=self.keep), wish)
        if not isinstance(found, Publish) or read.newest != len(self.log):  # the fence
            return False
        self.check(found.document)
        self.log.append(Document.parse(found.document.render()))
        return True

    def check(self, new: Document) -> None:
        """What must hold of a document that follows, whatever happened before."""
        before = self.log[-1] if self.log else None
        assert len(new.keys) <= self.keep + 1
        if new.phase == "promoted" and new.revoked != new.since:
            assert before is not None
            assert before.next == new.ring[0]
            assert all(took == len(self.log) for took in self.took)
        gone = set(before.ring if before else ()) - set(new.ring)
        if new.revoked != new.since or new.phase != "promoted":
            for key in gone:
                assert self.clock - self.demoted[key] >= DEFAULT * 2
        if new.phase == "idle" and before is not None and before.phase == "promoted":
            assert all(took == len(self.log) for took in self.took)
            for key in before.ring[1:]:
                self.demoted.setdefault(key, self.clock)


_OFF = st.floats(0, 600)
_ACTIONS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 4)),
    st.tuples(st.just("step"), _OFF),
    st.tuples(st.just("begin"), _OFF),
    st.tuples(st.just("race"), _OFF),
    st.tuples(st.just("pass"), st.floats(0, 2000)),
)


@settings(max_examples=LOOKS or 300, deadline=None)
@given(
    size=st.integers(1, 5),
    keep=st.integers(1, 4),
    actions=st.lists(_ACTIONS, max_size=80),
    revoke=st.integers(0, 80),
)
def test_no_key_encrypts_or_leaves_too_early(
    size: int, keep: int, actions: list[tuple[str, float]], revoke: int
) -> None:
    """Whatever order nodes and two coordinators act in, with clocks that differ by up to ten minutes."""
    fleet = Fleet(size, keep)
    for at, (kind, amount) in enumerate(actions):
        if kind == "take":
            fleet.took[int(amount) % size] = len(fleet.log)
        elif kind == "pass":
            fleet.clock += amount
        elif kind == "race":
            one, other = fleet.seen(amount), fleet.seen(600 - amount)
            assert not (fleet.act(one, begin=True) and fleet.act(other, begin=True))
        else:
            fleet.act(fleet.seen(amount), begin=kind == "begin", revoke=at == revoke)


def test_a_rotation_ends_once_all_nodes_answer() -> None:
    """Three documents, and nothing more to do."""
    fleet = Fleet(3, 4)
    for _ in range(5):
        fleet.act(fleet.seen(0.0))
        fleet.took = [len(fleet.log)] * 3
    assert [one.phase for one in fleet.log] == ["staged", "promoted", "idle"]
