"""A state that is not in force is tried again until it is, and everybody who asks is told meanwhile."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.servers.fleet import Node
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]
HANDLER = "extra"


@pytest.fixture
def node(new_node: NewNode, key_prefix: str) -> Node:
    """A node whose handler adds what a key says to nginx's configuration; retried every second."""
    handlers = {
        HANDLER: {
            "use": "tests.integration.extra_server:ExtraServer",
            "on": [{"key": f"{key_prefix}extra"}],
            "notify": ["nginx-reload"],
            "retry": {"first": "500ms", "longest": "1s"},
        },
        "nginx-reload": {"use": "nginx_reload", "options": {"interval": "100ms"}},
    }
    node = new_node(handlers=handlers)
    node.config["handlers_path"] = []
    node.configure()
    return node


def key(node: Node) -> str:
    """The key that the handler takes."""
    return str(node.config["handlers"][HANDLER]["on"][0]["key"])


def answering(port: int, text: str = "yes") -> bytes:
    """A server of one's own on a port."""
    return f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{text}"; }} }}\n'.encode()


def states(node: Node) -> list[str | None]:
    """The outcomes of the key's states, oldest first."""
    return [row["outcome"] for row in reversed(node.history(HANDLER)) if row["kind"] == "key"]


def behind(node: Node) -> list[str]:
    """What /readyz says is not in force."""
    found: list[str] = json.loads(node.agentd.get("/readyz")[1])["behind"]
    return found


def test_a_state_that_was_taken_back_comes_into_force_when_nginx_can_load_it(node: Node) -> None:
    """Its port was taken: it failed, and is live once the port is free, without a word from Consul."""
    node.start()
    with closing(socket.create_server(("127.0.0.1", free_port()))) as taken:
        port = taken.getsockname()[1]
        node.consul.kv_put(key(node), answering(port))
        wait_until(lambda: "failed" in states(node), "the first attempt to be taken back")
        told = wait_until(lambda: behind(node), "what is behind")

    wait_until(lambda: states(node)[-1] == "applied", "the state to be in force")

    assert any(one.startswith(f"{HANDLER}: since ") for one in told)
    wait_until(lambda: behind(node) == [], "nothing to be behind")


def test_what_nginx_refused_is_tried_again_once_its_files_are_mended(node: Node) -> None:
    """A zone that nginx.conf did not define yet."""
    node.start()
    uses_zone = b"limit_req zone=mine;\n"
    node.consul.kv_put(key(node), uses_zone)
    wait_until(lambda: states(node) == ["refused"], "nginx to refuse it")

    node.nginx.configure(http="limit_req_zone $binary_remote_addr zone=mine:1m rate=100r/s;")

    wait_until(lambda: states(node) == ["refused", "applied"], "the state to be in force")


def test_a_restart_compares_what_is_committed_with_what_consul_says(node: Node) -> None:
    """nginx.conf was mended while agentd was down."""
    node.start()
    node.consul.kv_put(key(node), b"limit_req zone=mine;\n")
    wait_until(lambda: states(node) == ["refused"], "nginx to refuse it")
    node.agentd.stop()
    node.nginx.configure(http="limit_req_zone $binary_remote_addr zone=mine:1m rate=100r/s;")

    node.agentd.start()

    wait_until(lambda: states(node) == ["refused", "applied"], "the state to be in force")


@pytest.mark.parametrize("strict", [False, True])
def test_readyz_names_what_is_behind(node: Node, *, strict: bool) -> None:
    """With 200, unless `status.strict` is set."""
    node.config["status"] = node.config["status"] | {"strict": strict}
    node.configure()
    node.start()
    node.consul.kv_put(key(node), b"no_such_directive on;\n")

    wait_until(lambda: states(node) == ["refused"], "nginx to refuse it")
    wait_until(lambda: behind(node), "what is behind")
    status, body = node.agentd.get("/readyz")

    assert status == (503 if strict else 200)
    assert "no_such_directive" in json.loads(body)["behind"][0]


def test_metrics_and_check_name_the_handler_that_is_behind(node: Node) -> None:
    """Since when, and why."""
    node.start()
    node.consul.kv_put(key(node), b"no_such_directive on;\n")
    wait_until(lambda: states(node) == ["refused"], "nginx to refuse it")

    line = f'agentd_behind_seconds{{handler="{HANDLER}"}} '
    seconds = wait_until(lambda: metric(node, line), "the metric")
    found = [one for one in findings(node) if one["subject"] == f"handler {HANDLER}"]

    assert seconds > 0
    assert [one["level"] for one in found] == ["ok", "FAIL"]
    assert "behind since" in found[1]["text"]
    assert "no_such_directive" in found[1]["text"]


def test_a_refused_reload_of_the_configuration_is_told(node: Node) -> None:
    """By /readyz, metrics and check, until one is accepted."""
    node.start()
    good = node.configuration.read_text()
    node.configuration.write_text(good + "colour: red\n")
    node.agentd.reload()

    wait_until(lambda: behind(node), "the refusal")
    assert wait_until(lambda: metric(node, "agentd_config_refused "), "the metric") == 1
    node.configuration.write_text(good)
    assert any("last reload was refused" in one["text"] for one in findings(node))

    node.agentd.reload()

    wait_until(lambda: behind(node) == [], "nothing to be behind")
    wait_until(lambda: metric(node, "agentd_config_refused ") == 0, "the metric")


def metric(node: Node, start: str) -> float:
    """A metric's value; -1 if there is none."""
    lines = node.agentd.get("/metrics")[1].splitlines()
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), -1.0)


def findings(node: Node) -> list[dict[str, Any]]:
    """What `agentd check` finds."""
    found: list[dict[str, Any]] = json.loads(node.agentd.command("check", "--json").stdout)
    return found


def test_a_state_of_another_port_is_not_held_up(node: Node) -> None:
    """A newer state replaces the one that cannot be loaded."""
    node.start()
    with closing(socket.create_server(("127.0.0.1", free_port()))) as taken:
        node.consul.kv_put(key(node), answering(taken.getsockname()[1]))
        wait_until(lambda: "failed" in states(node), "the first attempt to be taken back")

        node.consul.kv_put(key(node), answering(free_port()))

        wait_until(lambda: states(node)[-1] == "applied", "the newer state to be in force")
