"""How heard events get into the log, or to their handlers all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agentd.errors import (
    ConsulLimited,
    ConsulRefused,
    ConsulUnavailable,
    JournalError,
)
from agentd.fleet import relay as relay_module
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.keys import Keys
from agentd.fleet.log import Log
from agentd.fleet.memory import Memory
from agentd.fleet.pace import SELDOM, Pace
from agentd.fleet.reader import Reader
from agentd.fleet.relay import PATIENCE, Relay
from agentd.handler import Event
from agentd.journal.entry import RELAY, Ending, Outcome
from agentd.journal.followed import Followed
from agentd.journal.history import Wanted, history
from agentd.journal.journal import Journal
from agentd.watch.kv import Operation, Pair, Transaction
from tests.unit.apply.stand import Stand, event
from tests.unit.conftest import ROOM
from tests.unit.fleet.kv_model import ModelKV

NAME = "ban"
KEYS = Keys("web")
RULES = 'key_prefix "agentd/web/" { policy = "write" }'


@dataclass
class Time:
    """Monotonic seconds that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class NodeKV:
    """What lies in Consul, as one node reaches it.

    Attributes:
        trouble: raised whatever it asks for.
        before, after: called around each write, and may raise; so the connection breaks, or the node dies.
        asked: how often it asked.
    """

    def __init__(self, shared: ModelKV) -> None:
        self.shared = shared
        self.trouble: Exception | None = None
        self.before: Callable[[], object] = _nothing
        self.after: Callable[[], object] = _nothing
        self.asked = 0

    def _ask(self) -> ModelKV:
        self.asked += 1
        if self.trouble:
            raise self.trouble
        return self.shared

    def pair(self, key: str, *, consistent: bool = False) -> Pair | None:
        """See `KV`."""
        return self._ask().pair(key, consistent=consistent)

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:
        """See `KV`."""
        return self._ask().pairs(keys, consistent=consistent)

    def keys(self, prefix: str, *, consistent: bool = False) -> tuple[str, ...]:
        """See `KV`."""
        return self._ask().keys(prefix, consistent=consistent)

    def replace(self, key: str, value: bytes, flags: int, index: int) -> bool:
        """See `KV`."""
        return self._ask().replace(key, value, flags, index)

    def delete(self, key: str, index: int | None = None) -> bool:
        """See `KV`."""
        return self._ask().delete(key, index)

    def delete_all(self, prefix: str) -> None:
        """See `KV`."""
        self._ask().delete_all(prefix)

    def write(self, operations: Sequence[Operation]) -> Transaction:
        """See `KV`."""
        self._ask()
        self.before()
        done = self.shared.write(operations)
        self.after()
        return done


@dataclass
class Node:
    """One node: a real journal, its view of the log, and a relay that takes turns when a test says so."""

    journal: Journal
    kv: NodeKV
    name: str = "n1"
    names: Sequence[str] = (NAME, "deploy")
    time: Time = field(default_factory=Time)
    members: int = 1
    frozen: bool = False

    def __post_init__(self) -> None:
        self.memory = Memory(self.journal.path.with_name(f"{self.name}.db"), self.journal.clock)
        self.restart()

    def restart(self) -> None:
        """Begin with nothing but the journal, as after `kill -9`."""
        followed = Followed(self.journal)
        self.relay = Relay(
            self.journal,
            Log(self.kv, KEYS, self.journal.clock),
            self.memory,
            lambda heard: followed.give_provisionally(["blacklist"], heard),
            keep=dict.fromkeys(self.names, "all"),
            node=lambda: self.name,
            pace=Pace(lambda: self.members, lambda: 0.5),
            rules=RULES,
            holds=lambda name: self.frozen and name == NAME,
            timer=self.time,
        )

    def hear(self, *events: Event) -> None:
        """These events were heard, and are in the journal."""
        self.journal.receive([(one, [RELAY]) for one in events])

    def follow(self, name: str = NAME) -> None:
        """What the follower does: it holds what it reads, and tells the relay."""
        head = Reader(self.kv.shared, KEYS).head(name)
        assert head
        found = messages(self.kv.shared, name)
        self.memory.remember(name, head, found)
        self.relay.saw(name, found)

    def turn(self, later: float = 0.0) -> float:
        """One turn, so many seconds later."""
        self.time.now += later
        return self.relay.turn()

    @property
    def waiting(self) -> list[str]:
        """What is still to be relayed."""
        return [entry.id for entry in self.journal.pending(RELAY)]

    @property
    def given(self) -> list[str]:
        """What the handlers got as it was heard."""
        return [entry.id for entry in self.journal.pending("blacklist")]

    def ending(self, identity: str) -> tuple[str, str]:
        """How an event ended for the relay."""
        (row,) = history(self.journal, Wanted(handler=RELAY, identity=identity))
        return row["outcome"], row["reason"]


def heard(identity: str, ltime: int = 1, name: str = NAME) -> Event:
    """An event with that Lamport time."""
    made = event(identity, "add 192.0.2.1", name)
    return replace(made, raw=made.raw | {"LTime": ltime})


@pytest.fixture
def shared() -> ModelKV:
    """What lies in Consul."""
    return ModelKV()


@pytest.fixture
def node(stand: Stand, shared: ModelKV, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node alone in its fleet, which does not wait for others."""
    monkeypatch.setattr(relay_module, "SECOND_LOOK", 0.0)
    made = Node(stand.journal, NodeKV(shared))
    made.turn()
    made.turn(1.0)  # it compares the log with what it holds
    yield made
    made.memory.close()


def write(shared: ModelKV, identity: str, name: str = NAME) -> None:
    """Another node writes that event."""
    draft = Draft(body=b"add 192.0.2.1", issued=1.0, publisher="n2", via="event", id=identity)
    Log(shared, KEYS).append(name, [draft], keep="all")


def messages(shared: ModelKV, name: str = NAME) -> list[Envelope]:
    """What the log has, in order."""
    reader = Reader(shared, KEYS)
    return [one for reading in reader.after(name, 0, None) for one in reading.messages]


def ids(shared: ModelKV, name: str = NAME) -> list[str]:
    """The IDs of what the log has, in order."""
    return [one.id for one in messages(shared, name)]


def raises(error: BaseException) -> Callable[[], None]:
    """Something that raises it."""

    def fail() -> None:
        raise error

    return fail


def raises_journal_error(*_: object) -> None:
    """As a full disk does."""
    raise JournalError("full")


# ---------------------------------------------------------------- into the log


def test_what_is_heard_is_written_in_the_order_of_firing(node: Node, shared: ModelKV) -> None:
    """Gossip delivers in any."""
    node.hear(heard("c", 3), heard("a", 1), heard("b", 2))

    node.turn()

    assert ids(shared, NAME) == ["a", "b", "c"]
    assert node.waiting == []
    assert node.relay.status.relayed == 3


def test_an_event_that_waits_twice_is_written_once(node: Node, shared: ModelKV) -> None:
    """Nobody asks for it, but nothing forbids it."""
    node.hear(heard("a"))
    node.journal.queue(RELAY, heard("a"))

    node.turn()

    assert (ids(shared, NAME), node.waiting) == (["a"], [])


def test_a_message_says_who_heard_the_event_and_what_it_was(node: Node, shared: ModelKV) -> None:
    """Whoever fired it is not known."""
    node.hear(heard("a", 7))

    node.turn()

    (message,) = messages(shared)
    assert (message.via, message.publisher, message.ltime) == ("event", "n1", 7)
    assert message.body == b"add 192.0.2.1"
    assert message.issued == pytest.approx(node.journal.clock())


def test_each_name_has_a_log_of_its_own(node: Node, shared: ModelKV) -> None:
    """A deployment waits for no blacklist."""
    node.hear(heard("a"), heard("b", name="deploy"))

    node.turn()

    assert (ids(shared, NAME), ids(shared, "deploy")) == (["a"], ["b"])


def test_a_transaction_takes_thirty_and_the_rest_follows(node: Node, shared: ModelKV) -> None:
    """Consul limits how much one transaction does."""
    node.hear(*(heard(f"e{at:03}", at) for at in range(100)))

    waits = [node.turn() for _ in range(4)]

    assert ids(shared, NAME) == [f"e{at:03}" for at in range(100)]
    assert waits[:3] == pytest.approx([0.0] * 3, abs=0.001)


def test_what_another_node_wrote_is_not_written_again(node: Node, shared: ModelKV) -> None:
    """It is found by reading on before the write."""
    node.hear(heard("a"), heard("b", 2))
    write(shared, "a")

    node.turn()

    assert ids(shared, NAME) == ["a", "b"]
    first, second = messages(shared)
    assert node.ending("a") == ("unchanged", f"already in the log as {first.num}")
    assert node.ending("b") == ("applied", f"written to the log as {second.num}")


def test_what_the_follower_reads_needs_no_question(node: Node, shared: ModelKV) -> None:
    """In a large fleet nearly every event is settled so."""
    node.members = 200
    node.hear(heard("a"))
    node.turn()
    write(shared, "a")

    node.relay.saw(NAME, messages(shared))
    node.turn()

    assert (node.waiting, node.kv.asked) == ([], 0)


def test_a_message_that_was_read_before_its_event_was_heard_settles_it(node: Node, shared: ModelKV) -> None:
    """Gossip may be slower than the log."""
    write(shared, "a")
    node.relay.saw(NAME, messages(shared))
    node.hear(heard("a"))

    node.turn()

    assert (node.waiting, node.kv.asked) == ([], 0)


def test_an_event_whose_turn_has_not_come_is_left_to_others(node: Node, shared: ModelKV) -> None:
    """Unless one whose turn has come has to be written anyway."""
    node.members = 200
    node.hear(heard("a"))
    wait = node.turn()
    write(shared, "a")
    node.hear(heard("b", 2))
    node.turn(wait - 0.01)

    node.turn(0.02)

    assert (ids(shared, NAME), node.waiting) == (["a"], ["b"])


def test_the_younger_events_go_along_with_one_that_is_due(node: Node, shared: ModelKV) -> None:
    """So that a transaction takes what there is."""
    node.members = 200
    node.hear(heard("a"))
    wait = node.turn()
    node.hear(heard("b", 2))
    node.turn(wait - 0.01)

    node.turn(0.02)

    assert ids(shared, NAME) == ["a", "b"]


def test_a_backlog_is_left_to_the_node_that_is_at_work_on_it(node: Node, shared: ModelKV) -> None:
    """Else all of a fleet would write at once whenever more comes than one transaction takes."""
    node.members = 200
    node.hear(*(heard(f"e{at:03}", at) for at in range(100)))
    wait = node.turn()
    write(shared, "e000")

    node.relay.saw(NAME, messages(shared))
    node.turn(wait - 0.01)
    asked = node.kv.asked
    node.turn(0.02)

    assert (node.kv.asked, len(node.waiting)) == (asked, 99)
    for _ in range(20):
        node.turn(0.5)
    assert len(ids(shared)) == 100


def test_a_backlog_whose_log_has_moved_on_costs_one_question(node: Node, shared: ModelKV) -> None:
    """The follower reads what another node writes: to read it twice would cost most in a burst."""
    node.members = 200
    node.hear(*(heard(f"e{at:03}", at) for at in range(100)))
    wait = node.turn()
    write(shared, "e000")
    asked = node.kv.asked

    node.turn(wait)

    assert (node.kv.asked, ids(shared)) == (asked + 1, ["e000"])
    assert len(node.waiting) == 100


def test_a_backlog_is_written_even_if_the_follower_never_reads_on(node: Node, shared: ModelKV) -> None:
    """It may be stuck, and then the log looks as if others were at work for ever."""
    node.members = 200
    node.hear(*(heard(f"e{at:03}", at) for at in range(100)))
    node.turn()
    write(shared, "e000")

    for _ in range(50):
        node.turn(0.5)

    assert sorted(ids(shared)) == [f"e{at:03}" for at in range(100)]


def test_what_the_node_at_work_has_not_heard_is_written_in_the_midst_of_its_work(
    node: Node, shared: ModelKV
) -> None:
    """Where more comes all the time than one transaction takes, a backlog never ends."""
    node.members = 200
    node.hear(heard("old"))
    turns = 0
    while "old" not in ids(shared) and turns < 20:
        turns += 1
        names = [f"e{turns:02}{at:02}" for at in range(40)]
        node.hear(*(heard(one, turns + 1) for one in names))
        node.turn(0.25)
        write(shared, names[0])
        node.relay.saw(NAME, messages(shared))

    assert "old" in ids(shared)
    assert turns < 12


def test_after_an_outage_a_node_waits_for_its_turn_again(node: Node, shared: ModelKV) -> None:
    """All nodes find a new leader at the same moment."""
    node.members = 200
    node.hear(heard("a"))
    wait = node.turn()
    node.kv.trouble = ConsulUnavailable("no leader")
    node.turn(wait)
    node.kv.trouble = None

    wait = node.turn(1.0)
    assert (ids(shared), wait > 0.0) == ([], True)
    node.turn(wait)

    assert ids(shared) == ["a"]


def test_whoever_wrote_the_newest_event_writes_the_next_one_at_once(node: Node, shared: ModelKV) -> None:
    """Whatever was published in between: a publisher hears no events."""
    node.members = 5
    node.hear(heard("a"))
    node.turn(node.turn() + 0.001)
    draft = Draft(body=b"add 192.0.2.1", issued=1.0, publisher="ops@admin1")
    Log(shared, KEYS).append(NAME, [draft], keep="all")
    node.relay.saw(NAME, messages(shared))
    node.turn(5.0)

    node.hear(heard("b", 2))
    node.turn()

    assert ids(shared) == ["a", draft.id, "b"]


# ---------------------------------------------------------------- what is not written


def test_what_lay_in_the_ring_at_the_first_start_is_never_written(node: Node, shared: ModelKV) -> None:
    """It may be weeks old."""
    node.hear(replace(heard("a"), undated=True))

    node.turn()

    assert (ids(shared), node.waiting) == ([], [])
    assert node.ending("a")[0] == "expired"


def test_what_could_not_be_ended_is_ended_once_the_journal_works(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not passed over because its turn was interrupted."""
    node.hear(heard("first"))
    node.turn()
    node.hear(replace(heard("a"), undated=True))
    with monkeypatch.context() as broken:
        broken.setattr(node.journal, "end", raises_journal_error)
        with pytest.raises(JournalError):
            node.turn()

    node.turn()

    assert (node.waiting, node.ending("a")[0]) == ([], "expired")


def test_a_payload_that_cannot_be_read_is_refused(node: Node, shared: ModelKV) -> None:
    """And holds up no other."""
    node.hear(replace(heard("a"), raw=heard("a").raw | {"Payload": "?"}), heard("b", 2))

    node.turn()

    assert (ids(shared, NAME), node.ending("a")[0]) == (["b"], "refused")


def test_a_name_that_is_not_kept_any_more_goes_to_its_handlers(node: Node, shared: ModelKV) -> None:
    """It was heard before the configuration changed."""
    node.hear(heard("a", name="former"))

    node.turn()

    assert (ids(shared), node.given, node.waiting) == ([], ["a"], [])


# ---------------------------------------------------------------- collisions, and writes of unknown effect


def test_after_a_collision_it_reads_on_and_waits(node: Node, shared: ModelKV) -> None:
    """What the other one wrote is not written again."""
    node.members = 5
    node.hear(heard("a"), heard("b", 2))

    def be_first() -> None:
        write(shared, "a")

    node.kv.before = be_first
    node.turn(1.0)
    node.turn(1.0)
    assert node.relay.status.collisions == 1
    node.kv.before = _nothing

    node.turn(1.0)

    assert ids(shared, NAME) == ["a", "b"]
    assert node.waiting == []


def test_a_write_whose_answer_is_lost_is_found_by_reading(node: Node, shared: ModelKV) -> None:
    """A blind retry made 599 entries of 300."""
    node.hear(heard("a"))
    node.kv.after = raises(ConsulUnavailable("the connection broke"))
    node.turn()
    assert node.waiting == ["a"]
    node.kv.after = _nothing

    node.turn(1.0)

    assert (ids(shared, NAME), node.waiting) == (["a"], [])


def test_a_kill_between_the_write_and_its_note_writes_nothing_twice(node: Node, shared: ModelKV) -> None:
    """The journal still has the event, and so has the log."""
    node.hear(heard("a"))
    node.kv.after = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        node.turn()
    node.kv.after = _nothing

    node.restart()
    node.turn()

    assert (ids(shared, NAME), node.waiting) == (["a"], [])


# ---------------------------------------------------------------- without the log


def test_out_of_reach_for_two_seconds_events_are_applied_as_they_were_heard(node: Node) -> None:
    """And still wait for the log."""
    node.hear(heard("a"))
    node.kv.trouble = ConsulUnavailable("no leader")
    node.turn()
    assert node.given == []

    with capture_logs() as logs:
        node.turn(PATIENCE)

    assert (node.given, node.waiting) == (["a"], ["a"])
    assert [entry["event"] for entry in logs] == ["fleet.unreachable"]
    assert (node.relay.status.provisional, node.relay.status.trouble) == (1, "no leader")


def test_while_it_stays_out_of_reach_no_event_waits(node: Node) -> None:
    """An outage costs two seconds once."""
    node.hear(heard("a"))
    node.kv.trouble = ConsulUnavailable("no leader")
    node.turn()
    node.turn(PATIENCE)

    node.hear(heard("b", 2))
    node.turn(0.001)

    assert node.given == ["a", "b"]


def test_the_turn_comes_when_the_patience_ends(node: Node) -> None:
    """However long the pause until the next question is."""
    node.hear(heard("a"))
    node.kv.trouble = ConsulLimited("429", 30.0)

    assert node.turn() == pytest.approx(PATIENCE)

    node.turn(PATIENCE)
    assert node.given == ["a"]


def test_what_was_applied_in_an_outage_is_relayed_in_order_after_it(node: Node, shared: ModelKV) -> None:
    """The log's order is the same everywhere."""
    node.kv.trouble = ConsulUnavailable("no leader")
    node.hear(heard("b", 2))
    node.turn()
    node.turn(PATIENCE)
    node.hear(heard("a", 1))
    node.turn()
    node.kv.trouble = None

    with capture_logs() as logs:
        node.turn(3.0)

    assert (ids(shared, NAME), node.waiting) == (["a", "b"], [])
    assert [entry["event"] for entry in logs] == ["fleet.reachable", "fleet.relayed"]
    assert (node.relay.status.provisional, node.relay.status.trouble) == (0, None)


def test_a_freeze_holds_back_what_would_be_applied_in_an_outage(node: Node) -> None:
    """Other names go on; after the thaw it is given, in order, while the log is still out of reach."""
    node.frozen = True
    node.kv.trouble = ConsulUnavailable("no leader")
    node.hear(heard("a", 1), heard("b", 2), heard("c", 3, name="deploy"))
    node.turn()
    node.turn(PATIENCE)
    held = node.given
    node.frozen = False
    node.turn()

    assert held == ["c"]
    assert node.given == ["c", "a", "b"]


def test_a_long_freeze_in_an_outage_fills_no_memory(
    node: Node, shared: ModelKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not held in memory is still in the journal, and is written to the log once that is there."""
    monkeypatch.setattr("agentd.fleet.backlog.MOST_AT_ONCE", 4)
    node.frozen = True
    node.kv.trouble = ConsulUnavailable("no leader")
    for number in range(30):
        node.hear(heard(f"e{number:02}", number + 1))
        node.turn(PATIENCE)
    most = node.relay._backlog.held
    node.kv.trouble = None
    for _ in range(30):
        node.turn(PATIENCE)

    assert most <= 3 * 4
    assert node.given == []
    assert sorted(ids(shared, NAME)) == [f"e{number:02}" for number in range(30)]


def test_a_short_outage_is_nobodys_business(node: Node, shared: ModelKV) -> None:
    """Such as the choice of a new leader."""
    node.hear(heard("a"))
    node.kv.trouble = ConsulUnavailable("no leader")
    node.turn()
    node.kv.trouble = None

    with capture_logs() as logs:
        node.turn(1.0)

    assert (ids(shared, NAME), node.given) == (["a"], [])
    assert [entry["event"] for entry in logs] == ["fleet.relayed"]


def test_a_restart_in_an_outage_applies_nothing_twice(node: Node) -> None:
    """What the handlers have is in the journal."""
    node.hear(heard("a"))
    node.kv.trouble = ConsulUnavailable("no leader")
    node.turn()
    node.turn(PATIENCE)

    node.restart()
    node.turn()
    node.turn(PATIENCE)

    assert node.given == ["a"]


def test_without_rights_events_work_as_before_and_it_is_told_once(node: Node) -> None:
    """With the rule that is to be added."""
    node.kv.trouble = ConsulRefused("Permission denied")
    node.hear(heard("a"))
    with capture_logs() as logs:
        node.turn()
        node.hear(heard("b", 2))
        node.turn(0.1)
        node.turn(2 * SELDOM)

    assert node.given == ["a", "b"]
    (told,) = logs
    assert told["event"] == "fleet.not_permitted"
    assert RULES in told["reason"]


def test_a_missing_right_is_asked_for_seldom_and_found_once_it_is_granted(
    node: Node, shared: ModelKV
) -> None:
    """What was applied meanwhile is in the log then."""
    node.kv.trouble = ConsulRefused("Permission denied")
    node.hear(heard("a"))
    node.turn()
    for _ in range(40):
        node.turn(1.0)
    assert node.kv.asked == 1
    node.kv.trouble = None

    node.turn(SELDOM)

    assert (ids(shared, NAME), node.relay.status.trouble) == (["a"], None)


def test_a_log_that_cannot_be_used_holds_up_no_other(node: Node, shared: ModelKV) -> None:
    """Its events are applied as they are heard."""
    node.hear(heard("a"), heard("b", name="deploy"))
    shared.put(KEYS.head(NAME), b'{"format":99}')
    with capture_logs() as logs:
        node.turn()
        node.turn(2 * SELDOM)

    assert (ids(shared, "deploy"), node.given, node.waiting) == (["b"], ["a"], ["a"])
    assert [entry["event"] for entry in logs].count("fleet.unusable") == 1
    assert "format 99" in node.relay.status.spoilt[NAME]


# ---------------------------------------------------------------- Consul loses what it had


def test_what_consul_lost_is_written_back_before_anything_new(node: Node, shared: ModelKV) -> None:
    """Verbatim, and once; the numbers go on from it."""
    node.hear(heard("a"), heard("b", 2))
    node.turn()
    node.follow()
    node.turn()
    before = messages(shared)
    shared.restore({})
    node.hear(heard("c", 3))

    with capture_logs() as logs:
        for _ in range(4):
            node.turn(1.0)

    assert [one.raw for one in messages(shared)[:2]] == [one.raw for one in before]
    assert ids(shared) == ["a", "b", "c"]
    assert [entry["messages"] for entry in logs if entry["event"] == "fleet.written_back"] == [2]


def test_what_was_written_and_lost_before_anybody_read_it_is_written_back(
    node: Node, shared: ModelKV
) -> None:
    """Its entry has ended, so this node alone can, also after a restart."""
    node.hear(heard("a"), heard("b", 2))
    node.turn()
    before = messages(shared)
    assert (len(before), node.waiting) == (2, [])
    shared.restore({})

    node.restart()
    node.turn(1.0)
    node.turn(1.0)

    assert [one.raw for one in messages(shared)] == [one.raw for one in before]
    head = Reader(shared, KEYS).head(NAME)
    assert head
    assert node.memory.unread(NAME, head, [one.num for one in before]) == [one.num for one in before]


def test_what_was_read_while_a_loss_was_looked_into_is_written_back_as_it_was(
    node: Node, shared: ModelKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written anew, it would have another number, and every handler would get it again."""
    node.hear(heard("a"))
    node.turn()
    node.follow()
    whole = shared.snapshot()
    shared.restore({})
    look = node.kv.pairs

    def between(keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:
        found = look(keys, consistent=consistent)
        monkeypatch.setattr(node.kv, "pairs", look)
        shared.restore(whole)
        write(shared, "b")
        node.follow()
        shared.restore({})
        return found

    monkeypatch.setattr(node.kv, "pairs", between)
    node.relay.suspect(NAME)
    node.hear(heard("b", 2))
    for _ in range(3):
        node.turn(1.0)

    assert [(one.id, one.publisher) for one in messages(shared)] == [("a", "n1"), ("b", "n2")]
    assert node.waiting == []


def test_a_log_of_which_nothing_is_held_is_begun_anew(
    node: Node, shared: ModelKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both what Consul had and what this node held are gone: nobody can wait for either."""
    node.hear(heard("a"))
    node.turn()
    shared.restore({})
    monkeypatch.setattr(node.memory, "held", lambda _: None)

    node.hear(heard("b", 2))
    for _ in range(4):
        node.turn(1.0)

    assert (ids(shared), node.waiting) == (["b"], [])


def test_what_others_wrote_below_what_this_node_wrote_is_not_written_again(
    node: Node, shared: ModelKV
) -> None:
    """It was not read into what is held, and heard late."""
    write(shared, "m")
    node.hear(heard("x", 2))
    node.turn()
    node.restart()
    node.turn(1.0)
    node.turn(1.0)

    node.hear(heard("m"))
    node.turn()

    assert (ids(shared), node.waiting) == (["m", "x"], [])


def test_a_restarted_node_compares_the_log_with_what_it_holds(node: Node, shared: ModelKV) -> None:
    """The loss may have happened while it was down."""
    node.hear(heard("a"))
    node.turn()
    node.follow()
    shared.restore({})

    node.restart()
    node.turn(1.0)
    node.turn(1.0)

    assert ids(shared) == ["a"]


def test_a_log_that_is_whole_is_left_alone(node: Node, shared: ModelKV) -> None:
    """A suspicion costs two reads at most."""
    node.hear(heard("a"))
    node.turn()
    node.follow()
    before = shared.writes

    node.relay.suspect(NAME)
    node.turn()
    node.turn(1.0)

    assert shared.writes == before


# ---------------------------------------------------------------- the thread


def test_whatever_goes_wrong_the_thread_goes_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal may be full for a while."""
    turns = iter([JournalError("full"), ValueError("secret"), None])
    came: list[object] = []

    def turn() -> float:
        error = next(turns)
        came.append(error)
        if error:
            node.relay.wake()
            raise error
        node.relay.stop()
        return 0.0

    monkeypatch.setattr(node.relay, "turn", turn)
    with capture_logs() as logs:
        node.relay.start()
        assert node.relay.join(10.0)

    assert len(came) == 3
    assert "secret" not in str([entry["error"] for entry in logs])


# ---------------------------------------------------------------- any race


@given(st.data())
def test_whatever_happens_each_event_is_written_once(data: st.DataObject) -> None:
    """Invariant 1: three nodes hear most of it, collide, lose answers and are killed."""
    shared = ModelKV()
    with _journals(3) as journals:
        nodes = [
            Node(journal, NodeKV(shared), name=f"n{at}", members=3) for at, journal in enumerate(journals)
        ]
        for number in range(data.draw(st.integers(1, 4))):
            hearers = data.draw(st.sets(st.integers(0, 2), min_size=1))
            for at in hearers:
                nodes[at].hear(heard(f"e{number}", data.draw(st.integers(1, 5))))
            for _ in range(data.draw(st.integers(0, 6))):
                _step(data, nodes)
        for node in nodes:
            node.kv.before = node.kv.after = _nothing
        for _ in range(4):
            for node in nodes:
                node.turn(2 * SELDOM)

        for node in nodes:
            node.memory.close()
        assert sorted(ids(shared, NAME)) == [f"e{at}" for at in range(number + 1)]
        assert [node.waiting for node in nodes] == [[], [], []]


@contextmanager
def _journals(count: int) -> Iterator[list[Journal]]:
    with ExitStack() as stack:
        journals = []
        for _ in range(count):
            directory = stack.enter_context(TemporaryDirectory(prefix="agentd-", dir=ROOM))
            journals.append(Journal(Path(directory) / "journal.db"))
            stack.callback(journals[-1].close)
        yield journals


def _step(data: st.DataObject, nodes: Sequence[Node]) -> None:
    """One node takes a turn, and something may come between."""
    node = data.draw(st.sampled_from(nodes))
    other = data.draw(st.sampled_from([one for one in nodes if one is not node]))
    broken = raises(ConsulUnavailable("broken"))
    node.kv.before = data.draw(st.sampled_from([_nothing, broken, lambda: _calm_turn(other)]))
    node.kv.after = data.draw(st.sampled_from([_nothing, broken, raises(KeyboardInterrupt())]))
    try:
        node.turn(data.draw(st.sampled_from([0.0, 0.05, 1.0, 3.0])))
    except KeyboardInterrupt:
        node.restart()
    node.kv.before = node.kv.after = _nothing
    if data.draw(st.booleans()) and (found := messages(other.kv.shared)):
        other.relay.saw(NAME, found)


def _calm_turn(node: Node) -> None:
    node.kv.before = node.kv.after = _nothing
    node.turn(1.0)


def _nothing() -> None:
    """Nothing comes between."""


def test_a_long_outage_holds_only_a_few_of_what_piles_up(
    node: Node, shared: ModelKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is given as it was heard, told, and written once the log is back, while more is heard."""
    monkeypatch.setattr("agentd.fleet.backlog.MOST_AT_ONCE", 40)
    node.kv.trouble = ConsulUnavailable("no leader")
    names = [f"e{number:03}" for number in range(400)]
    for at in range(0, 400, 20):
        node.hear(*(heard(one, 1 + int(one[1:])) for one in names[at : at + 20]))
        node.turn(1.0)
    node.turn(1.0)
    assert node.relay._backlog.held <= 80
    assert (node.given, node.relay.status.waiting, node.relay.status.provisional) == (names, 400, 400)

    node.kv.trouble = None
    for number in range(400, 460):
        names.append(f"e{number:03}")
        node.hear(heard(names[-1], 1 + number))
        node.turn(0.5)

    assert (node.waiting, sorted(ids(shared))) == ([], names)
    assert node.relay.status.provisional == 0


def test_what_a_full_journal_ended_does_not_count_as_provisional(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the log any more."""
    monkeypatch.setattr("agentd.fleet.backlog.MOST_AT_ONCE", 10)
    node.kv.trouble = ConsulUnavailable("no leader")
    for at in range(0, 100, 10):
        node.hear(*(heard(f"e{number}", 1 + number) for number in range(at, at + 10)))
        node.turn(1.0)
    gone = node.journal.newest_events(RELAY, 50)
    node.journal.end([Ending(entry, Outcome.EXPIRED, "the journal is full") for entry in gone])
    node.turn(1.0)
    left = 100 - len(gone)
    assert (node.relay.status.waiting, node.relay.status.provisional) == (left, left)


def test_what_is_held_may_be_out_of_reach(node: Node, shared: ModelKV) -> None:
    """Events are relayed nevertheless; whoever holds what was read tells of it."""
    node.memory.close()
    node.relay.suspect(NAME)
    node.hear(heard("a"))
    node.kv.trouble = ConsulUnavailable("no leader")
    node.turn()
    node.kv.trouble = None

    for _ in range(3):
        node.turn(1.0)

    assert (ids(shared), node.waiting) == (["a"], [])
