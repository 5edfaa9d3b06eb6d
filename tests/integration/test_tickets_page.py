"""What docs/tickets.md says to set a fleet up: its commands and its configuration, on real daemons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from agentd.trust.key_files import read_key
from agentd.trust.keys import SecretKey
from tests.pages import of
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode
from tests.servers.ports import free_port
from tests.servers.runbook import Host, Site, Step, steps
from tests.servers.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "tickets.md"
SETUP = steps(PAGE, "Set it up")
PUBLIC = r"k4\.public\.[\w-]{10,}"


@pytest.fixture
def site(consul: ConsulAgent, directory: Path) -> Iterator[Site]:
    """Two nodes that keep nothing yet, without nginx, and a publishing host that is no node."""
    text = next(step.text for step in SETUP if "handlers:" in step.text).replace(" on:", ' "on":')
    handlers = {"ticket-keys": {**yaml.safe_load(text)["handlers"]["ticket-keys"], "notify": []}}
    name = f"tickets-{free_port()}"
    with ExitStack() as stack:
        nodes = {}
        for one in ("lb1", "lb2"):
            node = FollowingNode(directory / one, one, fleet=name, consul=consul, handlers={})
            stack.callback(node.stop)
            node.start()
            nodes[one] = Host(directory / one, node, {})
            nodes[one].config["handlers"] = handlers  # which the page has beside `trust:`
        config = {
            "consul": dict(nodes["lb1"].config["consul"]),
            "fleet": {"name": name},
            "handlers": handlers,
        }
        yield Site(Host(directory / "admin", None, config), nodes, directory / "bin")
        consul.kv_delete(f"agentd/{name}/", recurse=True)


def test_a_fleet_is_set_up(site: Site) -> None:
    """Word by word: the first rotation is confirmed by every node, and `agentd tickets` shows one ring."""
    keys = site.admin.directory / "keys"

    def known(text: str) -> str:
        if not re.search(PUBLIC, text):
            return text
        key = read_key(str(keys / "rotation.key"))
        assert isinstance(key, SecretKey)
        return re.sub(PUBLIC, key.public.text, text)

    def after(_host: Host, step: Step, said: str) -> None:
        if "generate" in step.text:
            for one in site.nodes.values():
                place = f"{one.directory}/keys"
                site.command(f"install -d -m 0700 {place}; cp -p {keys}/fleet.key {place}")
        if "rotate-tickets" in step.text:
            assert "rotated on 2 nodes" in said

    for step in SETUP:
        hosts = (
            [site.admin, *site.nodes.values()] if "handlers:" in step.text else list(site.hosts(step.where))
        )
        for host in hosts:
            if "rotate-tickets" in step.text:
                wait_until(
                    lambda: "2 nodes, all agree" in site.command("agentd fleet || true"),
                    "both nodes",
                    pause=0.5,
                )
            site.do(host, step, known, after)
    site.command(next(one.text for one in of("sh", page=PAGE) if "--dry-run" in one.text))
    rings = json.loads(site.command("agentd tickets --json"))
    assert len({one["ring"][0]["key"] for one in rings}) == 1
    assert {one["rotation"]["phase"] for one in rings} == {"idle"}
