"""Whose service `agentd` is: anybody who may register it may give it any ID."""

from __future__ import annotations

import pytest

from agentd.fleet.registration import node_of


@pytest.mark.parametrize(
    "identity, tag, node",
    [
        ("agentd-prod-lb1.example", "prod", "lb1.example"),
        ("agentd-prod-lb1", "other", None),
        ("other-prod-lb1", "prod", None),
        ("agentd-prod-", "prod", None),
        ("agentd-prod-\x1b[2J", "prod", None),
        ("agentd-prod-" + "x" * 254, "prod", None),
        (None, "prod", None),
    ],
)
def test_only_names_that_a_node_can_have_count(identity: str | None, tag: str, node: str | None) -> None:
    """A node of another name can neither confirm anything nor be left out."""
    assert node_of({"ID": identity, "Tags": [tag]}, "prod") == node
