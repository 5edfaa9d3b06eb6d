"""The promises of the log, for some nodes and a store that loses things, in any order of events.

Each node hears, relays, follows, restarts, loses what it holds; their clocks differ. The store fails before
or after a write, refuses it, is wiped, set back to a snapshot, loses single keys, and holds junk and what a
newer agentd wrote, in place of any key. Two writes meet when one begins within another.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentd.errors import ConsulError, FleetError
from agentd.fleet.envelope import Draft, Envelope, parse_envelope
from agentd.fleet.head import LARGEST_HEAD, LAST, Head, Keep, parse_head
from agentd.fleet.keys import POISONED
from agentd.fleet.log import Log
from agentd.fleet.memory import FILE
from agentd.fleet.pruning import parse_pruned
from agentd.watch.kv import MOST_OPERATIONS, Pair
from tests.examples import LOOKS
from tests.unit.conftest import ROOM
from tests.unit.fleet.kv_model import Fault, ModelKV
from tests.unit.fleet.node_model import KEYS, NAME, Node

NODES = 3
# So small that a few dozen events are pruned.
LIMITS = {"LEAST": 6, "MOST": 12, "LATEST": 3, "PRUNED_AT_ONCE": 4}
SKEW = 600.0
"""Seconds by which a clock may be wrong."""
SKEWS = st.sampled_from([0.0, 0.0, SKEW, -SKEW])
NEWER = b'{"format":3}'
JUNK = (b"junk", b"", b"[]", b'{"format":1}', NEWER)
FAR = (1, POISONED - 1, POISONED, 9_999_999_999_999_999)
"""Numbers at which no message is to be, though there could be one at some of them."""
POISON = Head("all", POISONED - 1, 1, 5, POISONED - 2, POISONED - 2, recent=(POISONED - 1,))
"""After which there could be no message."""
EMPTY = Head("all", POISONED - 1, floor=POISONED - 1)
OTHERS = (
    KEYS.record,
    KEYS.pruned(NAME),
    KEYS.swept,
    KEYS.body("a" * 64),
    KEYS.node("lb1"),
    f"{KEYS.names}a/b",
)


def no_pause(_: float) -> None:
    """Time is not needed."""


class Fleet(RuleBasedStateMachine):
    """All that may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = ModelKV()
        self.time = 1_764_180_000.0
        self.events = 0
        self.raw: dict[int, bytes] = {}
        self.highest = [0] * NODES
        self.floors: set[int] = {0}
        self.keep: Keep = "all"
        self.was_latest = False
        self.newer: dict[str, Pair | None] = {}
        self.was_restored = False
        self.saved: dict[str, Pair] = {}
        self.directory = tempfile.TemporaryDirectory(prefix="agentd-", dir=ROOM)
        self.patches = [patch(f"agentd.fleet.pruning.{name}", value) for name, value in LIMITS.items()]
        self.patches.append(patch("agentd.fleet.writer.PRUNED_AT_ONCE", LIMITS["PRUNED_AT_ONCE"]))
        for one in self.patches:
            one.start()
        self.nodes: list[Node] = []

    def now(self) -> float:
        """The clock, the same for all."""
        return self.time

    @initialize(skews=st.lists(SKEWS, min_size=NODES, max_size=NODES))
    def begin(self, skews: list[float]) -> None:
        """All nodes are there."""
        for number, skew in enumerate(skews):
            path = Path(self.directory.name, str(number), FILE)
            self.nodes.append(Node(self.kv, path, lambda skew=skew: self.time + skew))  # type: ignore[misc]
            self.nodes[-1].keep = self.keep

    def teardown(self) -> None:
        """Whatever happened, all is well in the end; then leave nothing."""
        try:
            if self.nodes:
                self.settle()
        finally:
            for node in self.nodes:
                node.memory.close()
            for one in self.patches:
                one.stop()
            self.directory.cleanup()

    # ------------------------------------------------------------------ what the nodes do

    @rule(heard=st.sets(st.integers(0, NODES - 1), min_size=1), count=st.integers(1, 4), ends=st.booleans())
    def fire(self, heard: set[int], count: int, *, ends: bool) -> None:
        """Some events, each heard by some nodes."""
        self.time += 1.0
        for _ in range(count):
            self.events += 1
            draft = Draft(
                b"x", issued=self.time, publisher="lb", via="event", id=f"e{self.events}",
                expires=self.time + 20 if ends else None,
            )  # fmt: skip
            for number in heard:
                self.nodes[number].hear(draft)

    @rule(number=st.integers(0, NODES - 1))
    def relay(self, number: int) -> None:
        """One writes."""
        self.time += 1.0
        self.nodes[number].relay()

    @rule(order=st.permutations(range(NODES)))
    def relay_at_once(self, order: list[int]) -> None:
        """One has read, and before its write takes effect another writes."""
        self.time += 1.0
        first, second, third = (self.nodes[number] for number in order)

        def nested() -> None:
            self.kv.before_write = third.relay
            second.relay()

        self.kv.before_write = nested
        first.relay()
        self.kv.before_write = None

    @rule(number=st.integers(0, NODES - 1))
    def follow(self, number: int) -> None:
        """One reads."""
        self.nodes[number].follow()

    @rule(number=st.integers(0, NODES - 1))
    def restart(self, number: int) -> None:
        """It compares the log with what it holds, as it does at each start."""
        self.nodes[number].start()

    @rule(number=st.integers(0, NODES - 1))
    def lose_memory(self, number: int) -> None:
        """What it holds is gone; the journal is not."""
        self.nodes[number].lose_memory()
        self.highest[number] = 0

    @rule(keep=st.sampled_from(["all", "latest"]))
    def reconfigure(self, keep: Keep) -> None:
        """Of all nodes, and of who publishes."""
        self.keep, self.was_latest = keep, self.was_latest or keep == "latest"
        for node in self.nodes:
            node.keep = keep

    # ------------------------------------------------------------------ what befalls the store

    @rule(faults=st.lists(st.sampled_from(["none", "before", "after", "refused"]), min_size=1, max_size=4))
    def fail(self, faults: list[Fault]) -> None:
        """The next writes."""
        self.kv.faults.extend(faults)

    @rule()
    def save(self) -> None:
        """A snapshot."""
        self.saved = self.kv.snapshot()

    @rule()
    def restore(self) -> None:
        """Set back to it; the first one is empty."""
        self.kv.restore(self.saved)
        self.was_restored = True

    @rule(what=st.sampled_from(["junk", "poison", "empty", "newer", "newer list", "lost", "lost list"]))
    def damage(self, what: str) -> None:
        """Somebody writes the head or the list of what was pruned, or deletes it."""
        key = KEYS.pruned(NAME) if what.endswith("list") else KEYS.head(NAME)
        found = self.kv.found.get(key)
        if what.startswith("lost"):
            self.kv.found.pop(key, None)
        elif what.startswith("newer"):
            if found is None or found.value != NEWER:
                self.newer[key] = found  # until it is taken back
            self.kv.put(key, NEWER)
        elif found:
            self.kv.put(key, {"junk": b"junk", "poison": POISON.render(), "empty": EMPTY.render()}[what])

    @rule(
        key=st.integers(0, 2000) | st.sampled_from([*FAR, *OTHERS]),
        value=st.sampled_from(JUNK),
    )
    def litter(self, key: int | str, value: bytes = b"junk") -> None:
        """Junk where a message is to be, or could be, or in any other place."""
        if isinstance(key, int):
            num = key if key in FAR else int(self.time * 1000) + key
            if (place := f"{KEYS.messages(NAME)}{num:016}") not in self.kv.found:
                self.kv.put(place, value)
        elif value != NEWER:
            self.kv.put(key, value)

    @rule(count=st.integers(1, 3), skew=SKEWS)
    def publish(self, count: int, skew: float = 0.0) -> None:
        """A command writes, which holds nothing."""
        self.time += 1.0
        for _ in range(count):
            self.command(Draft(b"y", issued=self.time + skew, publisher="ops"), skew)

    @rule(part=st.floats(0, 1))
    def publish_again(self, part: float) -> None:
        """Once more what was published before."""
        self.time += 1.0
        if there := self.messages():
            old = there[int(part * (len(there) - 1))]
            self.command(old.again(b"x", issued=self.time, publisher="ops"))

    def command(self, draft: Draft, skew: float = 0.0) -> None:
        """Publish, but where the number of a message that was lost would be used again.

        The nodes know it, and a command does not; only if the log is ahead of its clock, it counts.
        """
        newest = max([0, *(one.num for one in self.messages())])
        if not (self.was_restored and newest >= (self.time + skew) * 1000):
            with suppress(ConsulError, FleetError):
                log = Log(self.kv, KEYS, lambda: self.time + skew)
                log.publish(NAME, draft, keep=self.keep, pause=no_pause)

    @rule(part=st.floats(0, 1) | st.none())
    def forget(self, part: float | None) -> None:
        """A command forgets the older ones, or all."""
        there = self.messages()
        before = None if part is None or not there else there[int(part * (len(there) - 1))].num
        with suppress(ConsulError, FleetError):
            Log(self.kv, KEYS, self.now).forget(NAME, before)
        if (head := self.head()) and head.newest < LAST:  # not the poisoned one
            self.floors.add(head.floor)

    @precondition(lambda self: self.nodes)
    @rule(away=st.sets(st.integers(0, NODES - 1), max_size=NODES - 1))
    def settle(self, away: Collection[int] = ()) -> None:
        """Nothing fails any more, and all nodes that are there do what they do until nothing changes."""
        self.was_restored = self.was_restored and bool(away)
        self.kv.faults.clear()
        self.downgrade()
        nodes = [node for number, node in enumerate(self.nodes) if number not in away]
        floor = self.floor(nodes)
        for _ in range(8):
            for node in nodes:
                for _ in range(3):
                    self.time += 1.0
                    node.relay()
                node.follow()
        assert not any(node.pending for node in nodes)
        self.complete(nodes)
        self.forgotten(floor)

    def downgrade(self) -> None:
        """What a newer agentd wrote is as it was before."""
        for key in (KEYS.head(NAME), KEYS.pruned(NAME)):
            if (found := self.kv.found.get(key)) and found.value == NEWER:
                self.kv.found.pop(key)
                if pair := self.newer.get(key):
                    self.kv.put(key, pair.value)
        self.newer.clear()

    def floor(self, nodes: Sequence[Node]) -> int:
        """Up to where it is known that messages were forgotten, wherever that stands."""
        found = {held.head.floor for node in nodes if (held := node.memory.held(NAME))}
        if head := self.head():
            found.add(head.floor)
        if pair := self.kv.found.get(KEYS.pruned(NAME)):
            with suppress(FleetError):
                found.add(parse_pruned(pair.value).floor)
        return max(found & self.floors, default=0)

    def forgotten(self, floor: int) -> None:
        """What somebody knows to be forgotten is not in the log."""
        if head := self.head():
            assert not [one.num for one in self.read(head) if one.num <= floor]

    def complete(self, nodes: Sequence[Node]) -> None:
        """Invariant 4: what a node holds, and is in force, is in the log; and the head tells of it all."""
        head = self.head()
        there = {one.num: one for one in self.messages()}
        ids = {one.id for one in self.messages()}
        for node in nodes:
            held = node.memory.held(NAME)
            assert not held or not held.missing(head, there, ids, node.now())
        if head is None:
            return
        real = {num for num in there if num > head.floor}
        if any(node.memory.held(NAME) for node in nodes):
            assert head.newest >= max(real, default=0)
            assert set(head.recent) <= real | self.newer_numbers()
            assert {one.num for one in self.read(head)} == real
        newer = min(self.newer_numbers(), default=POISONED)
        for node in nodes:
            if not (self.was_latest or node.has_lost_memory or node.waits):
                assert {num for num in real if head.base < num < newer} <= node.given.keys()

    def read(self, head: Head) -> list[Envelope]:
        """As everybody reads the log."""
        return [one for page in Log(self.kv, KEYS).after(NAME, 0, head) for one in page.messages]

    # ------------------------------------------------------------------ what always holds

    def head(self) -> Head | None:
        """As it lies there, None if it is none."""
        pair = self.kv.found.get(KEYS.head(NAME))
        with suppress(FleetError):
            return parse_head(pair.value) if pair else None
        return None

    def messages(self) -> list[Envelope]:
        """All that lie there."""
        found = []
        for key in self.kv.keys(KEYS.messages(NAME)):
            with suppress(FleetError):
                found.append(parse_envelope(self.kv.found[key].value))
        return found

    def newer_numbers(self) -> set[int]:
        """At which a newer agentd has written."""
        keys = self.kv.keys(KEYS.messages(NAME))
        numbers = {KEYS.number_of(NAME, key) for key in keys if self.kv.found[key].value == NEWER}
        return {num for num in numbers if num}

    @invariant()
    def each_event_is_one_message(self) -> None:
        """Invariant 1; a key that is left of what was forgotten is no message."""
        counted = Counter(one.id for one in self.messages() if one.num > max(self.floors))
        assert not counted or max(counted.values()) == 1

    @invariant()
    def a_message_never_changes(self) -> None:
        """What is written back is verbatim, and no number that a node has seen is used twice."""
        for node in self.nodes:
            for num, raw in node.given.items():
                assert self.raw.setdefault(num, raw) == raw
        for one in self.messages():
            assert self.raw.get(one.num, one.raw) == one.raw

    @invariant()
    def no_number_falls(self) -> None:
        """Invariant 3."""
        now = [node.memory.highest(NAME) for node in self.nodes] or self.highest
        assert all(after >= before for before, after in zip(self.highest, now, strict=True))
        self.highest = now

    @invariant()
    def nothing_is_too_large(self) -> None:
        """Invariant 5, as far as it is the log's."""
        assert self.kv.most <= MOST_OPERATIONS
        pair = self.kv.found.get(KEYS.head(NAME))
        assert pair is None or len(pair.value) <= LARGEST_HEAD


SETTINGS = settings(
    max_examples=LOOKS or 20,
    stateful_step_count=30,
    deadline=None,
    derandomize=not LOOKS,
    suppress_health_check=list(HealthCheck),
)
"""Also of the models that build on this one."""

TestFleet = Fleet.TestCase
TestFleet.settings = SETTINGS


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """The model, whose steps the test takes."""
    model = Fleet()
    model.begin([0.0] * NODES)
    yield model
    model.teardown()


def test_junk_among_messages_is_counted_until_it_is_pruned(fleet: Fleet) -> None:
    """The head may say one more than there are, and still nothing is lost."""
    fleet.fire({0}, 1, ends=False)
    fleet.publish(1)
    for count in (2, 3):
        fleet.fire({0}, count, ends=False)
    fleet.litter(0)
    fleet.settle()

    head = fleet.head()
    assert head
    assert (head.count, len(fleet.messages())) == (8, 7)


def test_the_model_puts_no_junk_over_a_message(fleet: Fleet) -> None:
    """What nobody may write is not lost by the log: its keys are guarded by Consul's ACLs."""
    fleet.publish(1)
    fleet.litter(0)
    fleet.settle()

    assert len(fleet.messages()) == 1


@pytest.mark.parametrize("what", ["lost", "junk", "poison", "lost list"])
def test_what_was_forgotten_while_nodes_were_away_stays_so(fleet: Fleet, what: str) -> None:
    """With junk in the log, and the head lost when the only one that knows is a command."""
    fleet.fire({0, 1, 2}, 4, ends=False)
    fleet.settle()
    fleet.forget(1.0)
    fleet.litter(0)
    fleet.publish(1)
    fleet.damage(what)
    fleet.publish(1)
    fleet.settle()

    assert {one.id for one in fleet.messages()}.isdisjoint({"e1", "e2", "e3", "e4"})


def test_what_one_node_alone_knows_to_be_forgotten_is_forgotten_by_all(fleet: Fleet) -> None:
    """The store is wiped, and the others, which were away, come back first."""
    fleet.fire({0, 1, 2}, 4, ends=False)
    fleet.settle()
    fleet.forget(1.0)
    fleet.settle(away={1, 2})
    fleet.restore()
    fleet.settle(away={0})
    assert len(fleet.messages()) == 4
    fleet.settle()

    assert fleet.messages() == []


def test_no_node_misses_what_another_writes_whose_clock_is_behind(fleet: Fleet) -> None:
    """It had an event of its own left when the store was wiped, which the others knew."""
    fleet.nodes[0].now = lambda: fleet.time - SKEW
    fleet.nodes[0].start()
    fleet.fire({0, 1}, 1, ends=False)
    fleet.settle(away={0})
    fleet.restore()
    fleet.settle()
    fleet.fire({0}, 1, ends=False)
    fleet.settle()

    assert all({one.num for one in fleet.messages()} <= node.given.keys() for node in fleet.nodes)
