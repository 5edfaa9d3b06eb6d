"""A node whose own clock is wrong, by minutes or by a year; and events that reach the log hours late."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., FollowingNode]
MINUTES = 600.0
HOURS = 7200.0
YEAR = 365 * 86400.0


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has, and of its event."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_node(consul: ConsulAgent, directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes of the fleet: `new_node("n1", clock_off=600.0)`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, *, relay: bool = True, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
            settings = {"fleet": {"name": fleet, "node": name, "service": False, "relay": relay}}
            settings |= options.pop("settings", {})
            node = FollowingNode(
                directory / name, name, fleet=fleet, consul=consul, event=fleet, settings=settings, **options
            )
            stack.callback(node.stop)
            return node

        yield make


def blacklist(fleet: str) -> dict[str, Any]:
    """The handlers of a node that blocks addresses."""
    return {"blacklist": {"use": "ip_blacklist", "on": [{"event": fleet, "keep": "all"}]}}


def commanding(fleet: str, done: Path) -> dict[str, Any]:
    """The handlers of a node that runs a program for each message, which adds the payload to a file."""
    shell = f'echo "$AGENTD_PAYLOAD_BASE64" | base64 -d >> {done}; echo >> {done}'
    return {"run": {"use": "command", "on": [{"event": fleet, "keep": "all"}], "options": {"shell": shell}}}


def blocked(node: FollowingNode) -> list[str]:
    """The addresses that a node blocks."""
    found = json.loads(node.agentd.command("blacklist", "list", "--json").stdout)
    return sorted(str(one["entry"]) for one in found["entries"])


# ---------------------------------------------------------------- hours late


def test_an_event_that_reaches_the_log_hours_late_lasts_no_longer(
    new_consul: Callable[..., ConsulAgent], directory: Path, fleet: str, new_node: NewNode
) -> None:
    """A time to live counts from when it was heard, also on a node that followed the log all the time."""
    strict = new_consul(acl=True)
    rights = {"event_prefix": "write", "agent_prefix": "read", "node_prefix": "read"}
    secret = directory / "token"
    secret.write_text(
        strict.make_token(" ".join(f'{one} "" {{policy="{may}"}}' for one, may in rights.items()))
    )
    manager = directory / "manager"
    manager.write_text(str(strict.token))
    heard, follows = (
        new_node(
            name,
            relay=relay,
            handlers=blacklist(fleet),
            settings={"consul": {"address": strict.url, "token_file": str(file)}},
            clock_off=off,
        )
        for name, relay, file, off in (("n1", True, secret, -HOURS), ("n2", False, manager, 0.0))
    )
    for node in (heard, follows):
        node.start()
        node.agentd.await_listening()
    strict.fire(fleet, b"add 198.51.100.7 10m")
    wait_until(lambda: blocked(heard) == ["198.51.100.7/32"], "the address on the node that heard of it")
    heard.stop()
    heard.set_clock(0.0)
    secret.write_text(str(strict.token))

    heard.start()

    for node in (heard, follows):
        wait_until(partial(_came, node, fleet), "the message")
        assert blocked(node) == []


def _came(node: FollowingNode, name: str) -> bool:
    return any(row["query"].endswith(name) and row["outcome"] for row in node.history("blacklist"))
