"""The promises of the log, for some nodes and a store that loses things, in any order of events.

Each node hears, relays, follows, restarts, forgets its memory; the store fails before or after a write, is
wiped, set back to a snapshot, and holds junk. Two writes meet when one begins within another.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentd.errors import BadDocument, ConsulError, Contended, FleetError, LogLost
from agentd.fleet.envelope import Draft, Envelope, parse_envelope
from agentd.fleet.head import LARGEST_HEAD, Head, parse_head
from agentd.fleet.keys import POISONED, Keys
from agentd.fleet.log import Log
from agentd.fleet.memory import FILE, Memory
from agentd.watch.kv import MOST_OPERATIONS, Pair
from tests.unit.conftest import ROOM
from tests.unit.fleet.kv_model import Fault, ModelKV

LOOKS = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
"""More examples than in each run, and other ones each time."""
NODES = 3
NAME = "deploy"
KEYS = Keys("prod")
# So small that a few dozen events are pruned.
LIMITS = {"LEAST": 6, "MOST": 12, "LATEST": 3, "PRUNED_AT_ONCE": 4}


def no_pause(_: float) -> None:
    """Time is not needed."""


@dataclass
class Node:
    """One node: what it has heard and not yet found in the log, and what it holds."""

    number: int
    log: Log
    memory: Memory
    now: Callable[[], float]
    pending: dict[str, Draft] = field(default_factory=dict)
    is_lost: bool = False

    def hear(self, draft: Draft) -> None:
        """An event reached it."""
        self.pending[draft.id] = draft

    def relay(self) -> None:
        """One try."""
        try:
            if self.is_lost:
                self.write_back()
            drafts = list(self.pending.values())
            landed = self.log.append(NAME, drafts, keep="all", wrote=self.wrote) if drafts else {}
        except LogLost:
            self.is_lost = True
        except (ConsulError, Contended):
            return
        else:
            for identity in landed:
                del self.pending[identity]

    def wrote(self, messages: Sequence[Envelope]) -> None:
        """It holds what it has written."""
        self.memory.wrote(NAME, "all", messages)

    def write_back(self) -> None:
        """As the relay does; may raise what the log raises."""
        if (held := self.memory.held(NAME)) is not None:
            self.log.write_back(NAME, held, pause=lambda: None)
        else:
            self.log.resume(NAME, None)
        self.is_lost = False

    def follow(self) -> None:
        """Read on; a head is believed with its message only."""
        try:
            head = self.log.head(NAME)
        except BadDocument:
            head = None
        if head is None:
            self.is_lost = self.is_lost or self.memory.seems_lost(NAME, None)
            return
        found = [one for page in self.log.after(NAME, 0, head) for one in page.messages]
        if not head.count or (found and found[-1].num == head.newest):
            self.is_lost = self.is_lost or self.memory.seems_lost(NAME, head)
            self.memory.note(NAME, head)
            self.memory.remember(NAME, head, found)


class Fleet(RuleBasedStateMachine):
    """All that may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = ModelKV()
        self.time = 1_764_180_000.0
        self.events = 0
        self.raw: dict[int, bytes] = {}
        self.highest = [0] * NODES
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

    @initialize()
    def begin(self) -> None:
        """All nodes are there."""
        for number in range(NODES):
            path = Path(self.directory.name, str(number), FILE)
            self.nodes.append(Node(number, Log(self.kv, KEYS, self.now), Memory(path, self.now), self.now))

    def teardown(self) -> None:
        """Leave nothing."""
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
    def write_back(self, number: int) -> None:
        """One suspects that something is lost."""
        self.time += 1.0
        with suppress(ConsulError, Contended):
            self.nodes[number].write_back()

    @rule(number=st.integers(0, NODES - 1), resumed=st.booleans())
    def restart(self, number: int, *, resumed: bool) -> None:
        """What was heard is in the journal; what was read may be read again, or gone on from."""
        node = self.nodes[number]
        node.log, node.is_lost = Log(self.kv, KEYS, self.now), False
        if resumed and (held := node.memory.held(NAME)):
            node.log.resume(NAME, held)

    # ------------------------------------------------------------------ what befalls the store

    @rule(faults=st.lists(st.sampled_from(["none", "before", "after"]), min_size=1, max_size=4))
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

    @rule()
    def spoil(self) -> None:
        """Junk in place of the head."""
        if KEYS.head(NAME) in self.kv.found:
            self.kv.put(KEYS.head(NAME), b"junk")

    @rule(empty=st.booleans())
    def poison(self, empty: bool) -> None:  # noqa: FBT001 (Hypothesis passes by name)
        """A head after which there could be no message."""
        head = Head("all", POISONED - 1, 1, 5, POISONED - 2, POISONED - 2, recent=(POISONED - 1,))
        if empty:
            head = Head("all", POISONED - 1, floor=POISONED - 1)
        if KEYS.head(NAME) in self.kv.found:
            self.kv.put(KEYS.head(NAME), head.render())

    @rule(ahead=st.integers(0, 2000))
    def litter(self, ahead: int) -> None:
        """Junk where a message is to be."""
        key = KEYS.message(NAME, int(self.time * 1000) + ahead)
        if key not in self.kv.found:
            self.kv.put(key, b"junk")

    @rule(count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        """A command writes, which holds nothing."""
        self.time += 1.0
        log = Log(self.kv, KEYS, self.now)
        for _ in range(count):
            with suppress(ConsulError, Contended):
                log.publish(NAME, Draft(b"y", issued=self.time, publisher="ops"), keep="all", pause=no_pause)

    @rule(part=st.floats(0, 1))
    def forget(self, part: float) -> None:
        """A command forgets the older ones, or all."""
        there = self.messages()
        if self.head() and there:
            with suppress(ConsulError, FleetError):
                before = there[int(part * (len(there) - 1))].num
                Log(self.kv, KEYS, self.now).forget(NAME, before)

    @rule()
    def lose_head(self) -> None:
        """Somebody deleted it."""
        self.kv.found.pop(KEYS.head(NAME), None)

    @precondition(lambda self: self.nodes)
    @rule()
    def settle(self) -> None:
        """Nothing fails any more, and all nodes do what they do until nothing changes."""
        self.kv.faults.clear()
        for _ in range(6):
            for node in self.nodes:
                for _ in range(4):
                    self.time += 0.01
                    with suppress(Contended):
                        node.write_back()
                    node.relay()
                node.follow()
        assert not any(node.pending for node in self.nodes)
        self.complete()

    def complete(self) -> None:
        """Invariant 4: what a node holds, and is in force, is in the log; and the head tells of it all."""
        floor = head.floor if (head := self.head()) else 0
        there = {one.num: one for one in self.messages() if one.num > floor}
        ids = {one.id for one in self.messages()}
        nobody = True
        for node in self.nodes:
            held = node.memory.held(NAME)
            nobody = nobody and held is None
            for one in held.wanted(self.head(), self.time) if held else ():
                assert one.num in there or one.id in ids
        if head is not None and not nobody:
            junk = len(self.kv.keys(KEYS.messages(NAME))) - len(there)
            assert len(there) <= head.count <= len(there) + junk
            assert head.oldest <= min(there, default=0)
            assert not there or head.newest == max(there)
            assert set(head.recent) <= set(there)

    # ------------------------------------------------------------------ what always holds

    def head(self) -> Head | None:
        """As it lies there, None if it is none."""
        pair = self.kv.found.get(KEYS.head(NAME))
        with suppress(FleetError):
            return parse_head(pair.value) if pair else None
        return None

    def messages(self) -> list[Envelope]:
        """All that lie there."""
        keys = sorted(key for key in self.kv.found if key.startswith(KEYS.messages(NAME)))
        values = [self.kv.found[key].value for key in keys]
        return [parse_envelope(value) for value in values if value != b"junk"]

    @invariant()
    def each_event_is_one_message(self) -> None:
        """Invariant 1."""
        counted = Counter(one.id for one in self.messages())
        assert not counted or max(counted.values()) == 1

    @invariant()
    def a_message_never_changes(self) -> None:
        """What is written back is verbatim, and no number is used twice."""
        for one in self.messages():
            assert self.raw.setdefault(one.num, one.raw) == one.raw

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


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=LOOKS or 20,
    stateful_step_count=30,
    deadline=None,
    derandomize=not LOOKS,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """The model, whose steps the test takes."""
    model = Fleet()
    model.begin()
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
