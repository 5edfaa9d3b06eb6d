"""Finds out which nodes a message of the log is for, from their documents and Consul's catalogue.

Owns that a node counts if nobody can tell: what concerns it perhaps must not be taken for settled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from agentd.errors import BadDocument, ConsulRefused, ConsulUnavailable
from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.envelope import Envelope
from agentd.fleet.newest import Newest
from agentd.fleet.target import Service, Services, matches
from agentd.watch.client import ConsulClient
from agentd.watch.queries import ServiceQuery, ServicesQuery

MOST_SERVICES: Final = 50
"""Most services matching a message's filter whose nodes are looked up."""


class Audience:
    """Asks one Consul. Every method may raise ConsulUnavailable or ConsulRefused.

    Args:
        client: a client for the fleet's home datacenter.
    """

    def __init__(self, client: ConsulClient) -> None:
        self._client = client

    def asked_by(self, message: Envelope, nodes: Mapping[str, Acknowledgement | None]) -> Newest:
        """The message, and which of these nodes it is for.

        Args:
            message: a message of the log.
            nodes: the nodes with their documents; a node without one is looked up by its name.
        """
        addressed = None if message.role == "all" else frozenset(self._addressed(message, nodes))
        return Newest(
            message.name, message.num, message.issued, message.expires, message.publisher, message.via,
            addressed, message.rollout if message.admission else "",
        )  # fmt: skip

    def _addressed(self, message: Envelope, nodes: Mapping[str, Acknowledgement | None]) -> Iterator[str]:
        by_name = replace(message, service="", tag="", admission=None)
        by_service = message.service or message.tag or (message.admission and message.admission.tag)
        asked: dict[str, dict[str, list[Service]] | None] = {}
        try:
            for node, document in nodes.items():
                there = document.datacenter if document else ""
                if there not in asked and by_service:
                    asked[there] = self._services(message, there)
                services = asked.get(there, {})
                # A node may have another name in the fleet than its agent, so the agent's ID counts.
                agent = document.node_id if document else node
                if services is None:  # perhaps it has the service, so it must not be left out
                    found = _is_for(by_name, node, ())
                else:
                    found = _is_for(message, node, services.get(agent, ()))
                if found:
                    yield node
        except BadDocument:
            return  # no node can use the filter

    def _services(self, message: Envelope, datacenter: str) -> dict[str, list[Service]] | None:
        """Consul agent, by ID and by name -> those of its services that can make the message be for it.

        None if another datacenter ("" for the home datacenter) cannot be asked.
        """
        named, tag = replace(message, node="", tag=""), message.admission and message.admission.tag
        found: dict[str, list[Service]] = {}
        try:
            with self._asking(datacenter):
                every = ServicesQuery().fetch(self._client).changes[0].raw or {}
                meant = [
                    name
                    for name, tags in every.items()
                    if (tag in tags if tag else _is_for(named, "", [(name, ())]))
                ]
                for name in meant[:MOST_SERVICES]:
                    for one in ServiceQuery(name, passing=False).fetch(self._client).changes[0].raw or ():
                        service = name, one["Service"].get("Tags") or ()
                        for agent in {one["Node"].get("ID") or "", one["Node"]["Node"]} - {""}:
                            found.setdefault(agent, []).append(service)
        except (ConsulUnavailable, ConsulRefused):
            if not datacenter:
                raise
            return None
        return found

    @contextmanager
    def _asking(self, datacenter: str) -> Iterator[None]:
        """Ask another datacenter meanwhile; "" stands for the home datacenter."""
        home = self._client.dc
        self._client.dc = datacenter or home
        try:
            yield
        finally:
            self._client.dc = home


def _is_for(message: Envelope, node: str, services: Services) -> bool:
    return matches(message, lambda: node, lambda: services)
