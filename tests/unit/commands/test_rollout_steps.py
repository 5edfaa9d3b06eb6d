"""Who gets a rollout when: what may be typed, who is first, and the thresholds of the steps."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.rollout_steps import (
    STEPS,
    Canary,
    admit_first,
    canary,
    next_step,
    percentages,
    wanted,
    widen,
)
from agentd.errors import AgentdError
from agentd.fleet.rollout import ALL, Admission

ROLLOUT = "5eed"
KNOWN = frozenset({"web1", "web2", "web3", "7"})
names = st.sets(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,8}", fullmatch=True), min_size=1, max_size=40)
steps = st.sets(st.integers(1, 100), min_size=1, max_size=6).map(lambda some: tuple(sorted(some)))


def tagged(tag: str) -> frozenset[str]:
    """Two nodes have a service with the tag `edge`, one has `web1`."""
    return {"edge": frozenset({"web2", "web3"}), "web1": frozenset({"web3"})}.get(tag, frozenset())


def first(text: str) -> Admission:
    """Whom `--canary TEXT` admits."""
    return admit_first(canary(text), KNOWN, tagged, ROLLOUT)


def admitted(admission: Admission, known: frozenset[str]) -> frozenset[str]:
    """The known nodes that are admitted."""
    return frozenset(one for one in known if admission.admits(one, (), ROLLOUT))


@pytest.mark.parametrize(
    "text, found",
    [
        ("2", Canary("", "2")),
        ("count:2", Canary("count", "2")),
        ("tag:edge", Canary("tag", "edge")),
        ("tag:team:blue", Canary("tag", "team:blue")),
        ("team:blue", Canary("", "team:blue")),
        ("node:7", Canary("node", "7")),
    ],
)
def test_what_is_typed_may_say_what_it_is(text: str, found: Canary) -> None:
    """Before a colon; other colons belong to the tag."""
    assert canary(text) == found


@pytest.mark.parametrize("text", ["", " ", "node:", "web1,", "a,,b", "count:x", "count:0", "a\n", "10%"])
def test_what_is_no_canary(text: str) -> None:
    """It is said so."""
    with pytest.raises(ArgumentTypeError):
        canary(text)


@pytest.mark.parametrize("text", ["", "0%", "101%", "10%,5%", "5%,5%", "x", "1.5%", "10%,", "\u0661%"])
def test_what_are_no_steps(text: str) -> None:
    """Percentages, and rising."""
    with pytest.raises(ArgumentTypeError):
        percentages(text)


def test_steps_may_be_typed_with_spaces_and_without_signs() -> None:
    """As people write lists."""
    assert percentages("1%, 10,100%") == (1, 10, 100)


def test_names_of_nodes_are_nodes() -> None:
    """Also where a tag is called the same; each counts once."""
    assert first("web1") == Admission(nodes=("web1",))
    assert first("web3, web1,web3") == Admission(nodes=("web1", "web3"))
    assert first("node:7") == Admission(nodes=("7",))


def test_other_words_are_tags() -> None:
    """And a tag that is called like a node has to say so."""
    assert first("edge") == Admission(tag="edge")
    assert first("tag:web1") == Admission(tag="web1")


@pytest.mark.parametrize("text, count", [("1", 1), ("3", 3), ("count:4", 4)])
def test_a_number_is_exactly_so_many_nodes(text: str, count: int) -> None:
    """By a threshold, so that the same nodes belong to every later step."""
    found = first(text)
    assert (found.nodes, found.tag) == ((), "")
    assert len(admitted(found, KNOWN)) == count


@pytest.mark.parametrize(
    "text, why",
    [
        ("7", "write node:7 for that node, or count:7"),
        ("5", "only 4 nodes take that name"),
        ("web1,web9", "no node that takes that name is called web9"),
        ("web1,edge", "or write tag:web1,edge for a tag"),
        ("web9", "no node that takes that name is called so or has a service with that tag"),
        ("tag:" + "x" * 129, "at most 128 characters"),
    ],
)
def test_what_nobody_can_be_meant_by_is_refused(text: str, why: str) -> None:
    """With what to write instead."""
    with pytest.raises(AgentdError) as caught:
        first(text)
    assert why in str(caught.value)


@given(st.integers(1, 100), st.integers(1, 5000))
def test_shares_are_rounded_up(percent: int, count: int) -> None:
    """So at least one node, and never more than there are."""
    found = wanted(percent, count)
    assert 1 <= found <= count
    assert (found - 1) * 100 < percent * count <= found * 100 or found == 1


@given(names, st.integers(1, 50), st.integers(0, ALL), st.data())
def test_widening_admits_exactly_so_many_and_loses_nobody(
    some: set[str], count: int, below: int, data: st.DataObject
) -> None:
    """Whatever was admitted before, by name or by threshold."""
    known = frozenset(some)
    before = Admission(below, tuple(sorted(data.draw(st.sets(st.sampled_from(sorted(known)))))))
    there = admitted(before, known)
    after = widen(before, there, known, count, ROLLOUT)
    assert after.covers(before)
    assert there <= admitted(after, known)
    assert len(admitted(after, known)) == max(len(there), min(count, len(known)))


@given(names, steps, st.data())
def test_every_step_admits_more_and_the_last_leaves_at_most_the_rest_for_the_release(
    some: set[str], percents: tuple[int, ...], data: st.DataObject
) -> None:
    """Each is as large as its percentage says, or as what was admitted before."""
    known = frozenset(some)
    now = Admission(nodes=(data.draw(st.sampled_from(sorted(known))),))
    for _ in range(len(percents)):
        there = admitted(now, known)
        following = next_step(percents, now, there, known, ROLLOUT)
        if following is None:
            break
        percent, after = following
        assert after.covers(now)
        assert len(admitted(after, known)) == wanted(percent, len(known)) > len(there)
        now = after
    there = admitted(now, known)
    assert next_step(percents, now, there, known, ROLLOUT) is None
    assert len(there) >= wanted(percents[-1], len(known))


def test_the_step_to_all_admits_who_joins_meanwhile() -> None:
    """By the threshold that admits everybody."""
    now = first("1")
    assert next_step((100,), now, admitted(now, KNOWN), KNOWN, ROLLOUT) == (100, Admission(ALL))


def test_a_fleet_of_one_has_no_steps() -> None:
    """The canary is all there is."""
    assert next_step(STEPS, Admission(nodes=("web1",)), {"web1"}, {"web1"}, ROLLOUT) is None
