"""`agentd nodes` on a real catalogue, with and without the right to see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_only_addresses_reach_a_shell(
    consul: ConsulAgent, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever can register a service and a node writes neither options nor commands."""
    odd = ("-oProxyCommand=id", "$(touch PWNED)", "fe80::1%$(touch${IFS}PWNED)", "*", "10.0.0.1 10.0.0.2", "")
    for at, address in enumerate(odd):
        service = {"Service": "shelled", "ID": f"odd{at}", "Address": address, "Port": 80}
        node = {"Node": f"-oProxyCommand={at}", "Address": "::1%lo", "Service": service}
        consul.put("/v1/catalog/register", node)
    consul.register("shelled", 8001)
    registered(consul, "shelled", len(odd) + 1)
    options = configuration(consul, tmp_path)
    agentd = Path(sys.executable).with_name("agentd")
    script = f"printf '<%s>' $({agentd} {' '.join(options)} nodes shelled)"

    subprocess.run(["/bin/sh", "-c", script], check=True, cwd=tmp_path)

    for at in range(len(odd)):
        consul.put("/v1/catalog/deregister", {"Node": f"-oProxyCommand={at}"})
    said = capfd.readouterr()
    assert said.out == f"<{consul.address}>"
    assert said.err.count(" was left out: ") == len(odd)
    assert not (tmp_path / "PWNED").exists()


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


# ------------------------------------------------------------------ without a configuration file


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a configuration file, and without variables of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(("CONSUL_", "AGENTD_")):
            monkeypatch.delenv(name)
    missing = tmp_path / "missing.yaml"
    monkeypatch.setattr("agentd.cli.DEFAULT", missing)
    monkeypatch.setattr("agentd.commands.parser.DEFAULT", missing)


@pytest.mark.usefixtures("nowhere")
def test_environment_of_consul_is_enough(
    new_consul: Callable[..., ConsulAgent],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Address and token as `consul` takes them, on a unix socket as well; then the same by options."""
    socket = tmp_path / "consul.sock"
    strict = new_consul(acl=True, extra={"addresses": {"http": f"127.0.0.1 unix://{socket}"}})
    rules = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
    token = strict.make_token(rules)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"unix://{socket}")
    assert main(["nodes", "consul"]) == 1
    assert "no right to read service 'consul'" in capsys.readouterr().err
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", token)
    assert main(["nodes", "consul"]) == 0
    monkeypatch.delenv("CONSUL_HTTP_TOKEN")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    (tmp_path / "token").write_text(token)
    assert main(["nodes", "consul", "--http-addr", strict.url, "--token-file", str(tmp_path / "token")]) == 0
    assert capsys.readouterr().out == f"{strict.address}\n" * 2


@pytest.mark.usefixtures("nowhere")
def test_lock_and_fire_do_without_a_file(
    consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `consul lock` and `consul event` do."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul.url.removeprefix("http://"))
    assert main(["fire", "somewhere"]) == 0
    assert len(capsys.readouterr().out.strip()) == 36
    assert main(["lock", "without-a-file", "--", "true"]) == 0
    assert main(["lock", "without-a-file", "--http-addr", consul.url, "--", "false"]) == 1
