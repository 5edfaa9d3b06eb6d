"""What `agentd check` says of the fleet on a real Consul, with and without ACLs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from tests.servers.consul import ConsulAgent
from tests.servers.followers import publish

BASE = 'agent_prefix "" { policy = "read" } event_prefix "" { policy = "read" }'


@pytest.fixture
def check(directory: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, str]]]:
    """Run `agentd check` on a node of the fleet `prod`; what was found about the fleet."""

    def run(consul: ConsulAgent, rules: str = "", **section: Any) -> list[dict[str, str]]:  # noqa: ANN401 (of `fleet:`)
        file = directory / "agentd.yaml"
        reached = {"address": consul.url}
        if rules:
            (directory / "token").write_text(consul.make_token(rules))
            reached["token_file"] = str(directory / "token")
        on = [{"event": "ip-blacklist", "keep": "all"}]
        configuration = {
            "consul": reached,
            "fleet": {"name": "prod"} | section,
            "nginx": None,
            "tree": {"path": str(directory / "agentd")},
            "state": str(directory / "state"),
            "handlers": {"blacklist": {"use": "ip_blacklist", "on": on}},
        }
        file.write_text(json.dumps(configuration))
        main(["check", "--json", "--config", str(file)])
        return [one for one in json.loads(capsys.readouterr().out) if one["subject"].startswith("fleet")]

    return run


Check = Callable[..., list[dict[str, str]]]


def test_a_fleet_without_acls_is_well_and_told_what_that_means(consul: ConsulAgent, check: Check) -> None:
    """With the load that is to be expected."""
    found = {one["subject"]: one for one in check(consul)}
    assert {one["level"] for one in found.values()} == {"ok"}
    assert found["fleet"]["text"] == "prod: nothing has been written to its log yet, below agentd/prod/"
    assert "anybody can forge messages and acknowledgements" in found["fleet acl"]["text"]
    assert "if all 1 members of the datacenter run agentd: 1 blocking queries" in found["fleet load"]["text"]


def test_each_missing_right_is_named_and_its_advice_mends_it(
    new_consul: Callable[..., ConsulAgent], check: Check
) -> None:
    """A token with exactly the advised rules is that of a node and a relay, and can forge nothing."""
    strict = new_consul(acl=True)
    advised = [one["advice"].partition(": ")[2] for one in check(strict, BASE) if one["level"] == "FAIL"]
    assert f'key "agentd/prod/nodes/{strict.node}" {{ policy = "write" }}' in advised
    assert 'service "agentd" { policy = "write" }' in advised
    strong = [
        rule for rule in advised if '"write"' in rule or rule.replace('"read"', '"write"') not in advised
    ]
    found = check(strict, f"{BASE} {' '.join(strong)}")
    assert [one["level"] for one in found] == ["ok"] * 3
    assert found[0]["text"] == "the token has the rights of a node and a relay"


def test_a_token_that_can_forge_every_acknowledgement_is_warned_of(
    new_consul: Callable[..., ConsulAgent], check: Check
) -> None:
    """One for all nodes is one too few."""
    rules = f'{BASE} key_prefix "agentd/prod/" {{ policy = "write" }} service "agentd" {{ policy = "write" }}'
    found = check(new_consul(acl=True), rules)
    (warned,) = (one for one in found if one["level"] == "warn")
    assert "whoever holds it can forge them all" in warned["text"]
    assert "consul/node.hcl" in warned["advice"]


def test_a_node_that_neither_relays_nor_registers_needs_less(
    new_consul: Callable[..., ConsulAgent], check: Check
) -> None:
    """It writes its own document, and nothing else."""
    strict = new_consul(acl=True)
    found = check(strict, BASE, relay=False, service=False)
    writes = [one["text"] for one in found if one["level"] == "FAIL" and "may not write" in one["text"]]
    (text,) = writes
    assert text.startswith(f"the token may not write key 'agentd/prod/nodes/{strict.node}'")
    assert text.endswith("nobody would know what this node runs")


def test_a_home_datacenter_that_is_not_there_is_told(consul: ConsulAgent, check: Check) -> None:
    """By its name."""
    (found,) = (one for one in check(consul, datacenter="elsewhere") if one["subject"] == "fleet")
    assert found["level"] == "FAIL"
    assert "cannot be reached in the datacenter elsewhere" in found["text"]


def test_a_clock_that_is_off_is_told(new_consul: Callable[..., ConsulAgent], check: Check) -> None:
    """By a message from the future: its publisher's clock is ahead, or this one's is behind."""
    consul = new_consul()
    publish(consul, "prod", "ip-blacklist", "add 198.51.100.7", issued=time.time() + 600)
    (found,) = [one for one in check(consul) if one["subject"] == "fleet clock"]
    assert found["level"] == "warn"
    assert re.search("of ip-blacklist, from test, is [0-9]+ m [0-9]+ s in the future", found["text"])
    publish(consul, "prod", "ip-blacklist", "add 198.51.100.8")
    assert not [one for one in check(consul) if one["subject"] == "fleet clock"]
