"""Rings as nodes report them: anything may stand there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.commands.tickets import Key, Ring, groups, rings_of
from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport


def told(ring: Any) -> dict[str, Acknowledgement]:  # noqa: ANN401 (any JSON)
    """The document of one node whose handler reports this."""
    handler = HandlerReport(report={"ring": ring})
    return {"a": Acknowledgement("1", "id", "boot", 1.0, handlers={"tickets": handler})}


def test_a_ring_is_read_as_it_is_reported() -> None:
    """The encrypting key first."""
    ring = [{"key": "5f2a", "since": 10, "promoted": 20}, {"key": "77b0", "since": 1, "demoted": 20}]
    assert rings_of(told(ring)) == [
        Ring("a", "tickets", (Key("5f2a", 10, 20, None), Key("77b0", 1, None, 20)))
    ]


@pytest.mark.parametrize("held, more", [(17, 16), (1, 0), (0, 0), ("17", 0), (True, 0), (10**9, 0)])
def test_keys_that_are_not_listed_are_counted(held: object, more: int) -> None:
    """A node lists only the first ones."""
    handler = HandlerReport(report={"ring": [{"key": "5f2a"}], "keys": held})
    [one] = rings_of({"a": Acknowledgement("1", "id", "boot", 1.0, handlers={"tickets": handler})})
    assert one.more == more


@pytest.mark.parametrize("ring", [None, 1, "5f2a", {}, [1], [{}], [{"key": 5}], [["key"]]])
def test_what_is_no_ring_has_no_keys(ring: Any) -> None:  # noqa: ANN401 (any JSON)
    """And breaks nothing."""
    assert rings_of(told(ring)) == [Ring("a", "tickets", ())]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["key", "since"]) | st.text(), inner, max_size=3)
    ),
)


@given(JSON)
def test_nothing_that_is_reported_steers_a_terminal_or_fails(ring: Any) -> None:  # noqa: ANN401 (any JSON)
    """A node may write whatever it likes."""
    for one in rings_of(told(ring)):
        for key in one.keys:
            assert key.digest.isprintable()
            assert key.since is None or 0 <= key.since < 1e11


def test_the_fewest_come_first() -> None:
    """Who differs is seen at once."""
    same = [Ring(node, "tickets", (Key("5f2a", 1, 1, None),)) for node in "abc"]
    other = Ring("d", "tickets", (Key("77b0", 1, 1, None),))
    assert groups([*same, other]) == [[other], same]
