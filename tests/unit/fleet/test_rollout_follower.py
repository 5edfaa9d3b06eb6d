"""Which message of an open rollout a node takes: the newest that is for it, however it comes to read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.envelope import Envelope
from agentd.fleet.freeze import render_freeze
from agentd.fleet.rollout import ALL, Admission, share
from agentd.trust.pattern import FREEZE
from tests.unit.fleet.test_follower import Bench
from tests.unit.fleet.test_trusting_follower import Node


@pytest.fixture
def latest(tmp_path: Path) -> Iterator[Bench]:
    """A name of which the latest message counts."""
    one = Bench(tmp_path, keep="latest")
    with closing(one.journal):
        yield one


def admit(bench: Bench, body: str, below: int = 0, **more: Any) -> Envelope:  # noqa: ANN401 (of an admission)
    """A step of a rollout."""
    return bench.publish(body, kind="admit", rollout="r1", admission=Admission(below, **more), via="publish")


ADMITTED = [
    Admission(ALL),
    Admission(share("node1", "r1") + 1),
    Admission(nodes=("node0", "node1")),
    Admission(tag="blue"),
]
LEFT_OUT = [
    Admission(),
    Admission(share("node1", "r1")),
    Admission(nodes=("node10", "node")),
    Admission(tag="blu"),
    Admission(tag="web"),
]


@pytest.mark.parametrize("admission", ADMITTED)
def test_a_node_takes_what_it_is_admitted_to(latest: Bench, admission: Admission) -> None:
    """By its share, its name, or the tag of one of its services."""
    latest.publish("old")
    latest.turn()
    latest.publish("new", kind="admit", rollout="r1", admission=admission, via="publish")
    latest.turn()
    assert latest.waiting == ["old", "new"]
    assert latest.messages[-1].message
    assert latest.messages[-1].message.rollout == "r1"


@pytest.mark.parametrize("admission", LEFT_OUT)
@pytest.mark.parametrize("joins", [True, False])
def test_a_node_that_is_not_admitted_stays_with_what_was_released(
    latest: Bench, admission: Admission, *, joins: bool
) -> None:
    """Also one that joins; it has read all the same, and goes on from there."""
    latest.publish("older")
    latest.publish("old")
    if not joins:
        latest.turn()
    latest.publish("new", kind="admit", rollout="r1", admission=admission, via="publish")
    latest.turn()
    assert (latest.waiting, latest.position, latest.waits) == (["old"], 3, "")


def test_a_node_that_joins_takes_the_newest_step_that_admits_it(latest: Bench) -> None:
    """Not an earlier one, nor what was released before."""
    latest.publish("old")
    admit(latest, "first", nodes=("node1",))
    admit(latest, "second", nodes=("node1", "node2"))
    latest.turn(live=False)
    assert (latest.waiting, latest.position) == (["second"], 3)


def test_a_node_that_was_away_takes_the_newest_of_several_steps(latest: Bench) -> None:
    """Or what is released at last."""
    latest.publish("old")
    latest.turn()
    admit(latest, "first", nodes=("node2",))
    admit(latest, "second", nodes=("node1", "node2"))
    admit(latest, "third", ALL)
    latest.turn(live=False)
    assert latest.waiting == ["old", "third"]
    admit(latest, "fourth", ALL)
    latest.publish("last", kind="release", rollout="r1", via="publish")
    latest.turn(live=False)
    assert latest.waiting == ["old", "third", "last"]


@pytest.mark.parametrize("admission", [*ADMITTED, *LEFT_OUT])
@pytest.mark.parametrize("kind, restores", [("release", 0), ("abort", 1)])
def test_every_node_takes_the_end_of_a_rollout(
    latest: Bench, admission: Admission, kind: str, restores: int
) -> None:
    """Whether it was in it or not."""
    latest.publish("old")
    latest.publish("new", kind="admit", rollout="r1", admission=admission, via="publish")
    latest.turn()
    latest.publish("end", kind=kind, rollout="r1", restores=restores, via="publish")
    latest.turn()
    assert (latest.waiting[-1], latest.position) == ("end", 3)


def test_a_step_waits_as_long_as_the_fleet_is_frozen(latest: Bench) -> None:
    """As any other message."""
    latest.publish("old")
    latest.turn()
    body = render_freeze(frozen=True, reason="db work")
    latest.shelf.publish(FREEZE, body, keep="latest", kind="freeze", via="publish")
    admit(latest, "new", ALL)
    latest.turn()
    assert (latest.waiting, latest.position) == (["old"], 1)


def test_a_node_takes_no_step_that_it_does_not_believe(tmp_path: Path) -> None:
    """It stays with what was released by somebody whom it knows, and goes on with the true steps."""
    node = Node(tmp_path, keep="latest")
    with closing(node.journal):
        node.sign("old", via="publish")
        step: dict[str, Any] = {
            "kind": "admit",
            "rollout": "r1",
            "admission": Admission(ALL),
            "via": "publish",
        }
        node.publish("forged", **step)
        node.turn()
        assert node.waiting == ["old"]
        node.sign("new", **step)
        node.turn()
        assert node.waiting == ["old", "new"]
        assert node.refused == [("ban", "unsigned")]


def test_a_rollout_of_secrets_is_opened_only_where_it_is_admitted(tmp_path: Path) -> None:
    """The journal has it sealed, as any other."""
    node = Node(tmp_path, keep="latest")
    with closing(node.journal):
        for admission in (Admission(nodes=("node2",)), Admission(nodes=("node1", "node2"))):
            node.sign("secret", kind="admit", rollout="r1", admission=admission, via="publish", sealed=True)
            node.turn()
        (found,) = node.messages
        assert (found.index, found.sealed is not None) == (2, True)
        assert node.gate.opened(found).payload == b"secret"
