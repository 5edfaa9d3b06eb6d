"""Which nodes a step of a rollout admits, and which log has one open."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import BadDocument
from agentd.fleet.rollout import ALL, Admission, parse_fields, released, share, write_fields

NODES = [f"lb{number}" for number in range(10_000)]

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
admissions = st.builds(
    Admission,
    below=st.integers(0, ALL),
    nodes=st.lists(names, max_size=5, unique=True).map(tuple),
    tag=st.sampled_from(["", "canary", "db"]),
)


def test_a_threshold_admits_that_part_of_the_nodes() -> None:
    """Ten thousand nodes in ten groups, each off by less than four standard deviations."""
    counts = Counter(share(node, "r1") * 10 // ALL for node in NODES)
    assert set(counts) == set(range(10))
    assert all(abs(count - 1000) < 120 for count in counts.values())


def test_the_shares_of_a_node_are_the_same_for_ever() -> None:
    """The nodes of one rollout may run different versions of agentd."""
    assert share("lb1", "r1") == 3_561_912_528
    assert share("lb1", "r2") == 3_663_368_051


def test_another_rollout_begins_with_other_nodes() -> None:
    """Else the same few would always be the ones that break."""
    first = {node for node in NODES if share(node, "r1") < ALL // 10}
    second = {node for node in NODES if share(node, "r2") < ALL // 10}
    assert len(first & second) < len(first) / 5


@given(node=names, rollout=names, below=st.integers(0, ALL), more=st.integers(0, ALL))
def test_a_higher_threshold_keeps_every_node(node: str, rollout: str, below: int, more: int) -> None:
    """A step never takes a node out again."""
    low, high = sorted((below, more))
    if Admission(low).admits(node, (), rollout):
        assert Admission(high).admits(node, (), rollout)


@given(node=names, rollout=names)
def test_the_last_step_admits_all_and_none_admits_nobody(node: str, rollout: str) -> None:
    """Whatever a node is called."""
    assert Admission(ALL).admits(node, (), rollout)
    assert not Admission(0).admits(node, (), rollout)


def test_a_node_is_admitted_by_its_name_or_by_a_tag() -> None:
    """Of those that are given."""
    admission = Admission(nodes=("lb1", "lb2"), tag="canary")
    assert admission.admits("lb2", (), "r1")
    assert admission.admits("lb3", ("web", "canary"), "r1")
    assert not admission.admits("lb3", ("canary2",), "r1")
    assert not Admission(nodes=("lb1",)).admits("lb3", ("", "canary"), "r1")


@pytest.mark.parametrize(
    "admission, text",
    [
        (Admission(), "no node"),
        (Admission(ALL), "100% of the nodes"),
        (Admission(ALL // 8), "12.5% of the nodes"),
        (Admission(1), "0% of the nodes"),
        (
            Admission(ALL // 10, ("lb1", "lb2"), "web"),
            "10% of the nodes, nodes with a service tagged web, lb1, lb2",
        ),
    ],
)
def test_a_step_says_whom_it_admits(admission: Admission, text: str) -> None:
    """In a table, and in errors."""
    assert str(admission) == text


@given(one=admissions, other=admissions, node=names, tags=st.sets(st.sampled_from(["canary", "db"])))
def test_what_covers_a_step_admits_all_of_its_nodes(
    one: Admission, other: Admission, node: str, tags: set[str]
) -> None:
    """By the same name, threshold and tag."""
    assert one.covers(one)
    if one.covers(other) and other.admits(node, tags, "r1"):
        assert one.admits(node, tags, "r1")


@given(admission=admissions)
def test_what_was_written_of_a_step_is_read(admission: Admission) -> None:
    """No field is lost on the way."""
    fields = {"kind": "admit", **write_fields("r1", admission, 0)}
    assert parse_fields(fields) == ("r1", admission, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "payload", "rollout": "r1"},
        {"kind": "payload", "below": 1},
        {"kind": "payload", "restores": 1},
        {"kind": "admit", "rollout": "r1"},
        {"kind": "admit", "below": 1},
        {"kind": "admit", "rollout": "r1", "below": 1, "restores": 1},
        {"kind": "admit", "rollout": "r1", "below": 1, "nodes": "a,,b"},
        {"kind": "admit", "rollout": "r1", "below": 1, "nodes": "a, b"},
        {"kind": "admit", "rollout": "r1", "below": 1, "node": "^lb"},
        {"kind": "admit", "rollout": "r1", "below": 1, "tag": "x"},
        {"kind": "admit", "rollout": "r1", "below": 1, "expires": 1.0},
        {"kind": "release"},
        {"kind": "release", "rollout": "r1", "below": 1},
        {"kind": "release", "rollout": "r1", "restores": 1},
        {"kind": "release", "rollout": "r1", "snapshot": True},
        {"kind": "abort", "rollout": "r1"},
        {"kind": "abort", "restores": 1},
    ],
)
def test_fields_that_do_not_belong_together_are_refused(fields: dict[str, Any]) -> None:
    """Two readers might make different things of them."""
    with pytest.raises(BadDocument):
        parse_fields(fields)


def test_a_rollout_is_open_until_a_message_for_all_follows() -> None:
    """A message for some nodes does not end it."""
    assert released({}) is None
    assert released({1: "all"}) is None
    assert released({1: "admit"}) == 0
    assert released({1: "all", 2: "all", 3: "some", 4: "admit", 5: "some"}) == 2
    assert released({1: "all", 2: "admit", 3: "all"}) is None
