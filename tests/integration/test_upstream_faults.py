"""What Consul does wrong never changes an upstream: no leader, no rights, an agent that is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.site import Site
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration
NewConsul = Callable[..., ConsulAgent]
NewNode = Callable[..., Node]


@pytest.fixture
def new_site(new_node: NewNode) -> Iterator[Callable[[ConsulAgent], Site]]:
    """Make a site on an agent of the test's own."""
    made: list[Site] = []

    def make(agent: ConsulAgent) -> Site:
        made.append(Site(new_node, agent))
        made[-1].node.config["consul"]["wait"] = "2s"  # so that a poll soon hears of what went wrong
        made[-1].node.configure()
        return made[-1]

    yield make
    for site in made:
        for backend in site.backends:
            backend.stop()


def held(site: Site) -> str:
    """Why the last answer about the service was not believed, and what went wrong with the last poll."""
    queries = json.loads(site.node.agentd.get("/status")[1])["queries"]
    (query,) = [one for one in queries if one["query"].startswith("service:")]
    return f"{query['held'] or ''} {query['error'] or ''}".strip()


def untouched(site: Site, before: dict[str, bytes]) -> bool:
    """Whether tree and traffic are as they were."""
    return site.node.content() == before and site.serves(*site.backends)


def test_a_leader_lost_and_regained_changes_nothing(
    new_consul: NewConsul, new_site: Callable[[ConsulAgent], Site]
) -> None:
    """Of three servers two stop: the upstream is the same throughout, and follows again afterwards."""
    first = new_consul(node="s1")
    others = [new_consul(node=f"s{n}", address=f"127.0.0.{n}", join=first, server=True) for n in (2, 3)]
    voters = "/v1/operator/raft/configuration"
    wait_until(
        lambda: sum(server["Voter"] for server in first.get(voters)["Servers"]) == 3,
        "three servers that vote",
        pause=0.2,
    )
    site = new_site(first).start(2)
    before = site.node.content()

    for other in others:
        other.stop()
    wait_until(lambda: "no leader" in held(site), "the lost leader to be noticed", pause=0.2)
    without = untouched(site, before)
    for other in others:
        other.start()
    wait_until(lambda: not held(site), "Consul to answer again", pause=0.2)
    regained = untouched(site, before)
    site.deregister(site.backends[0])

    assert without
    assert regained
    site.await_serving(site.backends[1])


def test_an_agent_that_restarts_changes_nothing(
    new_consul: NewConsul, new_site: Callable[[ConsulAgent], Site]
) -> None:
    """While it is away the upstream stays; afterwards what changed is caught up with."""
    agent = new_consul()
    site = new_site(agent).start(2)
    before = site.node.content()

    agent.stop()
    wait_until(lambda: held(site), "the agent's absence to be noticed", pause=0.2)
    without = untouched(site, before)
    agent.start()
    third = site.backend()
    site.register(third)

    assert without
    site.await_serving(*site.backends)


def test_a_token_without_the_right_is_told_apart_from_an_empty_service(
    new_consul: NewConsul, new_site: Callable[[ConsulAgent], Site]
) -> None:
    """Consul answers 200 and an empty list; it is refused, and the right that is missing is named."""
    agent = new_consul(acl=True)
    site = new_site(agent)
    rules = 'node_prefix "" { policy = "read" } event_prefix "" { policy = "read" } '
    service = f'service_prefix "{site.service}" {{ policy = "read" }}'
    policy = agent.put("/v1/acl/policy", {"Name": "agentd", "Rules": rules + service})
    token = str(agent.put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"])
    site.node.directory.joinpath("token").write_text(token)
    site.node.config["consul"]["token_file"] = str(site.node.directory / "token")
    site.node.configure()
    site.start(2)
    before = site.node.content()

    agent.put(f"/v1/acl/policy/{policy['ID']}", {"ID": policy["ID"], "Name": "agentd", "Rules": rules})
    reason = wait_until(lambda: held(site), "the missing right to be noticed", pause=0.5)

    assert "service" in reason
    assert "held" in reason
    assert untouched(site, before)
    assert site.gauge("held_empty") == 0
    assert 'agentd_query_held{query="service:' in site.node.agentd.get("/metrics")[1]
