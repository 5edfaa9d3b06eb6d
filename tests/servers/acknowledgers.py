"""Nodes of a fleet that are only documents, catalogue entries and a log: what a viewer sees of real ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agentd.accounts import State
from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name, Tried
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.envelope import Draft
from agentd.fleet.head import Head
from agentd.fleet.keys import Keys
from agentd.fleet.past import encode
from agentd.fleet.registration import SERVICE, service_id
from tests.servers.consul import ConsulAgent

NAME = "blocked"
HANDLER = "blacklist"


def acknowledgement(number: int, live: int | None, **fields: Any) -> Acknowledgement:  # noqa: ANN401 (of the document)
    """What node `number` says of `blocked`; like a real one it has a second handler that takes no name."""
    name = Name(live=live, tried=None if live is None else Tried(live, "applied"))
    values: dict[str, Any] = {
        "generation": 42,
        "names": {NAME: name},
        "handlers": {
            HANDLER: report("5f" * 8),
            "nginx-reload": HandlerReport((), None, "applied", time.time() - 60),
        },
        "options": {HANDLER: "0123456789abcdef", "nginx-reload": "0123456789abcdef"},
    }
    values["written"] = time.time() - 100
    return Acknowledgement("0.1.0", agent_id(number), "b" * 36, **(values | fields))


def report(fingerprint: str) -> HandlerReport:
    """What a node says of its blacklist, which came to that a minute ago."""
    since = time.time() - 60
    past = encode([State("20", fingerprint, since)])
    return HandlerReport((NAME,), fingerprint, "applied", since, past=past)


def agent_id(number: int) -> str:
    """The ID of the Consul agent of that node."""
    return f"00000000-0000-0000-0000-{number:012}"


class Acknowledgers:
    """One fleet of them.

    Args:
        consul: where they are.
        fleet: its name, which nothing else uses.
    """

    def __init__(self, consul: ConsulAgent, fleet: str) -> None:
        self.keys = Keys(fleet)
        self.consul = consul
        self._catalogued: set[str] = set()

    def node(self, number: int) -> str:
        """The name of that node."""
        return f"{self.keys.fleet}-{number:04}"

    def join(self, number: int, *, alive: bool = True) -> None:
        """Put it into the catalogue, or tell that its agent has failed.

        Once a minute Consul's leader removes nodes that have such a check and are none of its members:
        whoever looks for longer at one that has failed must put it back.
        """
        failed = {"Check": {"Name": "serf", "CheckID": "serfHealth", "Status": "critical"}}
        self._catalogued.add(self.node(number))
        self.consul.put(
            "/v1/catalog/register",
            {
                "Node": self.node(number), "ID": agent_id(number), "Address": "127.0.0.1",
                **({} if alive else failed),
            },
        )  # fmt: skip

    def acknowledge(self, number: int, live: int | None, **fields: Any) -> None:  # noqa: ANN401 (of the document)
        """Write its document."""
        self.consul.kv_put(self.keys.node(self.node(number)), render(acknowledgement(number, live, **fields)))

    def publish(self, num: int, *, event: str = "", name: str = NAME, **fields: Any) -> None:  # noqa: ANN401 (of the draft)
        """Make this the newest message, and the only one."""
        draft = Draft(b"add 192.0.2.1", time.time(), self.node(0), **fields)
        if event:
            draft = replace(draft, via="event", id=event)
        message = draft.numbered(self.keys.fleet, name, num, 0)
        self.consul.kv_put(self.keys.message(name, num), message.raw)
        self.consul.kv_put(self.keys.head(name), Head("all", num, num, 1, recent=(num,)).render())

    def register(self, number: int, *, name: str = "") -> None:
        """Put its service `agentd` into the catalogue; `name` if the node acknowledges under another."""
        identity = service_id(self.keys.fleet, name or self.node(number))
        service = {"Service": SERVICE, "ID": identity, "Tags": [self.keys.fleet]}
        entry = {"Node": self.node(number), "SkipNodeUpdate": True, "Service": service}
        self.consul.put("/v1/catalog/register", entry)

    def leave(self) -> None:
        """Take all of it out of Consul."""
        self.consul.kv_delete(self.keys.root, recurse=True)
        for node in self._catalogued:
            self.consul.put("/v1/catalog/deregister", {"Node": node})


@contextmanager
def acknowledgers(consul: ConsulAgent, fleet: str, count: int) -> Iterator[Acknowledgers]:
    """A fleet of so many nodes, all of which have message 20 in force; gone at the end."""
    made = Acknowledgers(consul, fleet)
    try:
        made.publish(20)
        for number in range(count):
            made.join(number)
            made.acknowledge(number, 20)
        yield made
    finally:
        made.leave()
