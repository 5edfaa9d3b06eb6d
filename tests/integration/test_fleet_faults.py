"""Faults of a fleet: nodes killed while they catch up, rings that overflow, disks that fill, rights that go."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.envelope import Draft
from agentd.fleet.writer import MOST_DRAFTS
from agentd.journal.entry import RELAY
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., FollowingNode]
NewConsul = Callable[..., ConsulAgent]
KILLS = 20
MANY = 1000


@pytest.fixture
def fleet() -> str:
    """The name of a fleet that no other test has, and of its event."""
    return f"fleet-{free_port()}"


@pytest.fixture
def new_node(directory: Path, fleet: str) -> Iterator[NewNode]:
    """Make nodes of the fleet: `new_node("n1", consul)`; each is stopped at the end."""
    with ExitStack() as stack:

        def make(name: str, consul: ConsulAgent, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
            more = {"fleet": fleet, "consul": consul, "event": fleet} | options
            node = FollowingNode(directory / name, name, **more)
            stack.callback(node.stop)
            return node

        yield make


def told(node: FollowingNode) -> dict[str, Any]:
    """What /status says of the fleet."""
    return dict(json.loads(node.agentd.get("/status")[1])["fleet"])


def commanding(fleet: str, done: Path) -> dict[str, Any]:
    """The handler of a node that runs a program for each message, which adds what it was given to a file."""
    shell = f'read -r given; echo "$given" >> {done}'
    return {"use": "command", "on": [{"event": fleet, "keep": "all"}], "options": {"shell": shell}}


def ran(done: Path) -> list[str]:
    """The payloads for which the program ran, in order."""
    lines = done.read_text().splitlines() if done.exists() else []
    return [base64.b64decode(json.loads(line)[0]["Payload"]).decode() for line in lines]


def fill(consul: ConsulAgent, fleet: str, count: int) -> list[str]:
    """Append so many messages; returns their payloads."""
    payloads = [str(number) for number in range(count)]
    with open_log(consul, fleet) as log:
        for at in range(0, count, MOST_DRAFTS):
            drafts = [
                Draft(payload.encode(), time.time(), "test") for payload in payloads[at : at + MOST_DRAFTS]
            ]
            log.append(fleet, drafts, keep="all")
    return payloads


# ---------------------------------------------------------------- killed


def test_kill_9_while_it_catches_up_repeats_nothing_and_keeps_the_order(
    consul: ConsulAgent, fleet: str, new_node: NewNode, directory: Path
) -> None:
    """A thousand messages, twenty random moments; a program may run twice only if a kill came during its run."""
    done = directory / "done"
    node = new_node("n1", consul)
    node.config["handlers"]["run"] = commanding(fleet, done)
    node.configure()
    node.start()
    node.stop()
    payloads = fill(consul, fleet, MANY)
    draw = random.Random(20261127)

    for number in range(KILLS):
        node.agentd.process.spawn()
        if number % 2:  # at its start, perhaps before it does anything
            time.sleep(draw.uniform(0.1, 1.5))  # the moment is what is tried
        else:
            reached = done.stat().st_size if done.exists() else 0
            wait_until(
                partial(_is_longer, done, reached + draw.randint(0, 10_000)), "it to go on", pause=0.001
            )
            time.sleep(draw.uniform(0.0, 0.02))  # as above
        node.agentd.kill()
    node.start()

    wait_until(lambda: len(node.tally()) >= MANY, "all messages")
    assert node.tally() == payloads
    wait_until(lambda: ran(done)[-1:] == payloads[-1:], "the program to run for the last one")
    runs = ran(done)
    once = [payload for at, payload in enumerate(runs) if at == 0 or runs[at - 1] != payload]
    assert once == payloads
    assert len(runs) - len(once) <= KILLS


def _is_longer(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size > size
