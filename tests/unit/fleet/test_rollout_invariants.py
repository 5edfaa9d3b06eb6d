"""The promises of the log hold while rollouts are opened, widened, released and aborted, whatever happens.

The same model as in `test_invariants`, of a name of which the latest message is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from agentd.fleet.envelope import Draft, Envelope, Kind, parse_envelope
from agentd.fleet.rollout import ALL, Admission, released
from tests.unit.fleet.node_model import Node
from tests.unit.fleet.test_invariants import LIMITS, NODES, SETTINGS, Fleet

STEPS = 4


def taken(node: str, messages: Iterable[Envelope]) -> int:
    """The number of the message that a node takes of these; 0 if none is for it."""
    ours = [
        one.num
        for one in messages
        if one.role == "all" or (one.admission and one.admission.admits(node, (), one.rollout))
    ]
    return max(ours, default=0)


class Rollouts(Fleet):
    """All that may happen, with rollouts."""

    def __init__(self) -> None:
        super().__init__()
        self.keep, self.was_latest = "latest", True

    def reconfigure(self) -> None:
        """The name stays as it is kept."""

    @rule(
        kind=st.sampled_from(["admit", "admit", "release", "abort"]),
        step=st.integers(0, STEPS),
        first=st.booleans(),
        count=st.sampled_from([1, 1, 2 * LIMITS["LATEST"] + 1]),
    )
    def roll(self, kind: Kind, step: int, *, first: bool, count: int = 1) -> None:
        """A command opens or widens a rollout, or ends it; perhaps in more steps than are kept otherwise."""
        admission = Admission(step * ALL // STEPS) if kind == "admit" else None
        for _ in range(count):
            self.time += 1.0
            self.command(
                Draft(
                    b"z", issued=self.time, publisher="ops", kind=kind, rollout="r1" if first else "r2",
                    admission=admission, restores=int(kind == "abort"),
                )
            )  # fmt: skip

    def complete(self, nodes: Sequence[Node]) -> None:
        """Also: the head says rightly whether one is open, and a joiner takes what those take that follow."""
        super().complete(nodes)
        head = self.head()
        if head is None or not any(node.memory.held("deploy") for node in nodes):
            return
        there = self.read(head)
        assert head.released == released({one.num: one.role for one in there})
        for number, node in enumerate(nodes):
            known = [parse_envelope(raw) for raw in node.given.values()]
            name = f"lb{number}"
            if not node.waits and (num := taken(name, known)) > head.floor:
                assert taken(name, there) == num


TestRollouts = Rollouts.TestCase
TestRollouts.settings = SETTINGS


@pytest.fixture
def fleet() -> Iterator[Rollouts]:
    """The model, whose steps the test takes."""
    model = Rollouts()
    model.begin([0.0] * NODES)
    yield model
    model.teardown()


@pytest.mark.parametrize("lost", ["everything", "since the beginning of the rollout", "head"])
def test_a_log_that_is_lost_in_mid_rollout_has_it_open_again(fleet: Rollouts, lost: str) -> None:
    """Nodes write it back as it was, and a command may go on with it."""
    fleet.publish(2)
    fleet.settle()
    if lost == "since the beginning of the rollout":
        fleet.save()
    fleet.roll("admit", 1, first=True)
    fleet.settle()
    before = fleet.head()
    if lost == "head":
        fleet.damage("lost")
    else:
        fleet.restore()
    fleet.settle()
    after = fleet.head()
    assert before
    assert after
    assert (after.newest, after.released) == (before.newest, before.released)
    fleet.publish(1)
    fleet.roll("admit", 0, first=False)
    assert fleet.head() == after
    fleet.roll("release", 0, first=True)
    fleet.settle()
    assert (last := fleet.head())
    assert last.released is None


def test_a_node_that_joins_late_in_a_long_rollout_finds_what_was_released(fleet: Rollouts) -> None:
    """More steps than messages are kept otherwise do not push it out."""
    fleet.publish(1)
    fleet.settle()
    fleet.roll("admit", 0, first=True, count=3 * LIMITS["LATEST"])
    fleet.settle()
    assert (head := fleet.head())
    assert head.released == head.oldest
