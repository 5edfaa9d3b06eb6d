"""`agentd nodes` on a real catalogue, with and without the right to see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from agentd.cli import main
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until


def configuration(agent: ConsulAgent, directory: Path, token: str | None = None) -> list[str]:
    """The options that name a configuration for this agent."""
    consul = {"address": agent.url}
    if token:
        (directory / "token").write_text(token)
        consul["token_file"] = str(directory / "token")
    handlers = {"a": {"use": "command", "options": {"argv": ["/bin/true"]}}}
    file = directory / "agentd.yaml"
    file.write_text(yaml.safe_dump({"consul": consul, "handlers": handlers}))
    return ["--config", str(file)]


def registered(agent: ConsulAgent, name: str, count: int) -> None:
    """Wait until the catalogue has so many instances."""
    wait_until(lambda: len(agent.get(f"/v1/health/service/{name}")) == count, f"{count} instances of {name}")


def test_addresses_are_those_of_the_catalogue(
    consul: ConsulAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for two instances on one address; the JSON has both, with ports and status."""
    consul.register("listed", 8001, identity="listed-1")
    consul.register("listed", 8002, identity="listed-2", status="critical")
    registered(consul, "listed", 2)
    options = configuration(consul, tmp_path)
    assert main([*options, "nodes", "listed"]) == 0
    assert main([*options, "nodes", "listed", "--json"]) == 0
    first, _, document = capsys.readouterr().out.partition("\n")
    assert first == consul.address
    assert [(one["node"], one["port"], one["status"]) for one in json.loads(document)] == [
        (consul.node, 8001, "passing"),
        (consul.node, 8002, "critical"),
    ]


def test_passing_leaves_the_critical_out(
    consul: ConsulAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None left is told apart from an unknown service."""
    consul.register("ailing", 8001, status="critical")
    registered(consul, "ailing", 1)
    options = configuration(consul, tmp_path)
    assert main([*options, "nodes", "ailing", "--passing"]) == 1
    assert main([*options, "nodes", "no-such-service"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "no instance of 'ailing' is passing; it has 1 in all" in first
    assert "Consul knows no service 'no-such-service'" in second


def test_token_decides_what_is_seen_and_silence_is_told(
    new_consul: Callable[..., ConsulAgent], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under ACL deny, with the right, without it, and for a name that there is not."""
    strict = new_consul(acl=True)
    strict.register("web", 80)
    registered(strict, "web", 1)
    everything = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
    allowed = configuration(strict, tmp_path, strict.make_token(everything))
    assert main([*allowed, "nodes", "web"]) == 0
    assert main([*allowed, "nodes", "other"]) == 1
    assert "knows no service 'other'" in capsys.readouterr().err
    denied = configuration(strict, tmp_path, strict.make_token('node_prefix "" { policy = "read" }'))
    assert main([*denied, "nodes", "web"]) == 1
    assert "no right to read service 'web'" in capsys.readouterr().err
