"""Documents and catalogue joined: renamed nodes, several daemons on one agent, agents that are down."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.members import Catalogue, Documents, Registered, members
from agentd.fleet.registration import service_id

FLEET = "prod"


def documents(**agents: str) -> Documents:
    """Node -> ID of its Consul agent; the later ones were written later."""
    found = {
        node: Acknowledgement("1", agent, "boot", float(at))
        for at, (node, agent) in enumerate(agents.items())
    }
    return Documents(1, found, indexes=dict.fromkeys(found, 1))


def silent(
    given: Documents, catalogue: Catalogue, registered: Registered = MappingProxyType({})
) -> dict[str, str]:
    """Node -> why nothing is to be heard of it."""
    return {one.node: one.silent for one in members(FLEET, given, catalogue, registered)}


def test_what_consul_says_of_agent_and_daemon_is_told() -> None:
    """Another fleet's daemon on the same agent does not matter."""
    catalogue = Catalogue(
        ids={"a": "1", "b": "2", "c": "3"},
        down=frozenset({"a"}),
        critical=frozenset({service_id(FLEET, "b"), service_id("staging", "c")}),
    )
    assert silent(documents(a="1", b="2", c="3", d="4"), catalogue) == {
        "a": "its Consul agent is down",
        "b": "agentd does not answer its health check",
        "c": "",
        "d": "Consul does not know this node: if it is gone, `agentd fleet forget NODE`",
    }


def test_a_node_under_another_name_is_found_by_its_agent() -> None:
    """It does not lack agentd, and is down with its agent."""
    catalogue = Catalogue(ids={"a": "1"}, down=frozenset({"a"}))
    assert silent(documents(other="1"), catalogue) == {"other": "its Consul agent is down"}


def test_two_daemons_on_one_agent_are_two_nodes() -> None:
    """Whether their services are registered or not; one that was renamed has only the new one."""
    catalogue = Catalogue(ids={"a": "1"})
    both = documents(old="1", new="1")
    assert silent(both, catalogue) == {"old": "", "new": ""}
    assert silent(both, catalogue, {"a": ("old", "new")}) == {"old": "", "new": ""}
    renamed = silent(both, catalogue, {"a": ("new",), "b": ("old",)})
    assert renamed["new"] == ""
    assert renamed["old"].startswith("its agent now acknowledges as new")


def test_a_daemon_that_runs_is_not_taken_for_none() -> None:
    """It has a healthy service, and no document: its name is another node's, or it may not write."""
    catalogue = Catalogue(
        ids={"a": "1", "b": "2", "c": "3", "d": "4"},
        down=frozenset({"c"}),
        critical=frozenset({service_id(FLEET, "d")}),
    )
    registered = {"a": ("a",), "b": ("a",), "c": ("c",), "d": ("d",)}
    found = members(FLEET, documents(a="1"), catalogue, registered)
    assert {one.node: one.runs_as for one in found} == {"a": "", "b": "a", "c": "", "d": ""}


def test_nodes_of_other_datacenters_are_known_there() -> None:
    """Two nodes of one name in two datacenters are two; a datacenter out of reach says nothing."""
    given = documents(here="1", there="2", down="3")
    unreachable = replace(given.found["down"], datacenter="dc3")
    given = replace(given, found={**given.found, "down": unreachable})
    home = Catalogue(ids={"lb": "1"})
    both = home.with_datacenter("dc2", Catalogue(ids={"lb": "2"}, down=frozenset({"lb"})))
    assert silent(given, both.with_datacenter("dc3", None)) == {
        "here": "",
        "there": "its Consul agent is down",
        "down": "its datacenter dc3 does not answer",
    }


def test_without_the_right_to_see_nodes_nobody_is_silent() -> None:
    """It is not known."""
    assert silent(documents(a="1"), Catalogue(ids={})) == {"a": ""}


def test_only_nodes_that_are_expected_lack_an_agentd() -> None:
    """And all of the catalogue, where nobody says which."""
    catalogue = Catalogue(ids={"a": "1", "b": "2", "c": "3"})
    given = documents(a="1")
    assert [one.node for one in members(FLEET, given, catalogue, {})] == ["a", "b", "c"]
    assert [one.node for one in members(FLEET, given, catalogue, {}, frozenset({"c"}))] == ["a", "c"]
