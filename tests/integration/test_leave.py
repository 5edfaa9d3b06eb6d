"""`agentd leave` and `agentd tickets` on real Consul."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest
import yaml

from agentd.cli import main
from agentd.fleet.acknowledgement import HandlerReport
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.registration import ensure, service_id
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.servers.acknowledgers import Acknowledgers, acknowledgement, acknowledgers
from tests.servers.consul import ConsulAgent
from tests.servers.ports import free_port


@pytest.fixture
def fleet(consul: ConsulAgent) -> Iterator[Acknowledgers]:
    """A fleet without nodes."""
    with acknowledgers(consul, f"left-{free_port()}", 0) as made:
        yield made


@pytest.fixture
def configuration(fleet: Acknowledgers, tmp_path: Path) -> list[str]:
    """Of this node, which acknowledges as `here`."""
    file = tmp_path / "agentd.yaml"
    handlers = {"a": {"use": "command", "options": {"argv": ["/bin/true"]}}}
    section = {"name": fleet.keys.fleet, "node": "here"}
    consul = {"address": fleet.consul.url}
    content = {"consul": consul, "fleet": section, "state": str(tmp_path / "state"), "handlers": handlers}
    file.write_text(yaml.safe_dump(content))
    (tmp_path / "state").mkdir()
    return ["--config", str(file)]


@pytest.fixture
def acknowledge(fleet: Acknowledgers) -> Callable[[str], str]:
    """Write what `here` acknowledges, as the node of that Consul agent; returns the key."""

    def write(agent: str) -> str:
        document = json.loads(render(acknowledgement(1, 20, stopped=1.0))) | {"node_id": agent}
        key = fleet.keys.node("here")
        fleet.consul.kv_put(key, json.dumps(document).encode())
        return key

    return write


def own_id(consul: ConsulAgent) -> str:
    """The ID of the agent itself."""
    return str(consul.get("/v1/agent/self")["Config"]["NodeID"])


def test_leaving_removes_document_and_service(
    fleet: Acknowledgers,
    configuration: list[str],
    acknowledge: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And says so; a second time there is nothing."""
    key = acknowledge(own_id(fleet.consul))
    client = ConsulClient(ConsulOptions(address=fleet.consul.url))
    ensure(client, fleet.keys.fleet, "here", "127.0.0.1:1")
    client.close()
    assert main([*configuration, "leave"]) == 0
    assert "its document and its service removed" in capsys.readouterr().out
    assert fleet.consul.kv_get(key) is None
    assert service_id(fleet.keys.fleet, "here") not in fleet.consul.get("/v1/agent/services")
    assert main([*configuration, "leave"]) == 0
    assert "here had nothing in the fleet" in capsys.readouterr().out


def test_a_daemon_that_runs_is_not_cut_off(
    fleet: Acknowledgers,
    configuration: list[str],
    acknowledge: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It would acknowledge again within seconds; one without a fleet will not."""
    key = acknowledge(own_id(fleet.consul))
    with (tmp_path / "state" / "agentd.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        assert main([*configuration, "leave"]) == 1
        said = capsys.readouterr().err
        file = Path(configuration[1])
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"fleet": None}))
        before = fleet.consul.kv_get(key)
        assert main([*configuration, "leave", "--fleet", fleet.keys.fleet]) == 0
    assert "agentd is running here" in said
    assert before is not None


def test_the_document_of_another_node_stays(
    fleet: Acknowledgers,
    configuration: list[str],
    acknowledge: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two nodes have one name, and the other has not left."""
    key = acknowledge("00000000-0000-0000-0000-000000000001")
    assert main([*configuration, "leave"]) == 1
    assert "the acknowledgement of here belongs to another node" in capsys.readouterr().err
    assert fleet.consul.kv_get(key) is not None


def test_tickets_show_who_encrypts_with_another_key_first(
    fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 1 until all encrypt with the same."""
    ring = [{"key": "5f2a", "since": 10, "promoted": 20}, {"key": "77b0", "since": 1, "demoted": 20}]
    for number in range(3):
        those = ring if number != 1 else ring[1:]
        report = HandlerReport((), report={"ring": those})
        fleet.acknowledge(number, 20, handlers={"tickets": report})
    args = ["tickets", "--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url]
    assert main(args) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:5] == ["tickets", "1", fleet.node(1), "77b0", "encrypts"]
    assert rows[2][1:6] == ["2", f"{fleet.node(0)},", fleet.node(2), "5f2a", "encrypts"]
    assert rows[3][:2] == ["77b0", "decrypts"]
    fleet.acknowledge(1, 20, handlers={"tickets": HandlerReport((), report={"ring": ring[:1]})})
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["ring"] == [
        {"key": "5f2a", "since": 10.0, "promoted": 20.0, "demoted": None}
    ]
    fleet.acknowledge(1, 20)
    assert main([*args, "--handler", "other"]) == 1
    assert "keys are acknowledged by tickets" in capsys.readouterr().err
