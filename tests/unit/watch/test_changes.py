"""States that are kept as text until somebody asks for what they say, and the order of their instances."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.watch.changes import NodesState, ServiceState, canonical, packed_ipv4

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(raw=_JSON)
def test_a_text_is_the_same_state(raw: Any) -> None:  # noqa: ANN401 (any JSON)
    """Made of a text or of what that says, a state is equal, with the same digest and ID."""
    text, parsed = NodesState.of_text("nodes", canonical(raw), 7), NodesState("nodes", raw, 7)

    assert (text.id, text.digest, text.empty) == (parsed.id, parsed.digest, parsed.empty)
    assert text == parsed


def test_a_state_in_another_epoch_is_the_same() -> None:
    """Only the epoch differs, whether the state was parsed or not."""
    state = NodesState("nodes", [{"Node": "a"}], 7, 1)

    later = state.at_epoch(2)

    assert (later.epoch, later.index, later.id, later.raw) == (2, 7, state.id, state.raw)


@given(
    address=st.one_of(
        st.ip_addresses().map(str),
        st.text("0123456789.", max_size=16),
        st.sampled_from(
            ["1.2.3.4 ", "01.2.3.4", "1.2.3.4\0", "\u0661.2.3.4", "1.2.3", "0x1.2.3.4", "\ud800"]
        ),
    )
)
def test_an_ipv4_address_is_what_python_takes_for_one(address: str) -> None:
    """The quick way and the thorough one agree on each text."""
    try:
        expected = ipaddress.IPv4Address(address).packed
    except ValueError:
        expected = None

    assert packed_ipv4(address) == expected


@pytest.mark.parametrize(
    "addresses", [("9.0.0.1", "10.0.0.1", "10.0.0.9", "10.0.0.10", "::1", "2001:db8::1", "a.example", "b")]
)
def test_instances_are_sorted_by_address(addresses: tuple[str, ...]) -> None:
    """IPv4 by number, before IPv6, before names."""
    raw = [
        {"Node": {"Node": "n"}, "Service": {"Address": one, "Port": 80}, "Checks": []}
        for one in reversed(addresses)
    ]

    state = ServiceState.of_text("service:api", json.dumps(raw))

    assert tuple(one.address for one in state.instances) == addresses
