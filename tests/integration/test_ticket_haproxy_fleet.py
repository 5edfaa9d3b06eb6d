"""Two nodes, each with nginx and HAProxy, whose ticket keys `agentd rotate-tickets` rotates."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.tls_ticket_keys.document import Document
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.haproxy import TicketHAProxy
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.ticket_fleet import VERSIONS, TicketFleet
from tests.servers.tls import Certificate, TLSClient
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration


class Fleet:
    """The nodes, all started, and their HAProxys."""

    def __init__(
        self, stack: ExitStack, directory: Path, certificate: Certificate, consul: ConsulAgent
    ) -> None:
        self._fleet = TicketFleet(stack, directory, certificate, consul, f"tickets-{free_port()}")
        self._directory = directory
        self.certificate = certificate
        self.haproxys: list[TicketHAProxy] = []
        for number in (1, 2):
            own = directory / f"h{number}"
            own.mkdir()
            node = self._fleet.add(haproxy={"socket": f"unix:{own}/admin.sock"}, verify_every="1s")
            haproxy = TicketHAProxy(own, certificate, node.nginx.tree / "current/tickets/haproxy.keys")
            stack.callback(haproxy.process.stop)
            self.haproxys.append(haproxy)
            node.start()
            haproxy.start()
        self._configuration = directory / "ops.yaml"
        trust = self._fleet.trust | {"signing_key": str(directory / "ops.key")}
        self._configuration.write_text(yaml.safe_dump(self.nodes[0].config | {"trust": trust}))

    @property
    def nodes(self) -> list[Node]:
        """In order."""
        return self._fleet.nodes

    def rotate(self, *words: str, status: int = 0) -> dict[str, Any]:
        """Run the command, and return what it tells a program."""
        arguments = ["--config", str(self._configuration), "--json", *words]
        ran = self.nodes[0].agentd.command("rotate-tickets", *arguments)
        assert ran.returncode == status, ran.stdout + ran.stderr
        told: dict[str, Any] = json.loads(ran.stdout)
        return told

    def begin(self) -> ServerProcess:
        """Start the command, and leave it running."""
        program = self.nodes[0].agentd.process.argv[0]
        argv = [program, "rotate-tickets", "--config", str(self._configuration)]
        made = ServerProcess(argv, self._directory / "rotate.log")
        made.spawn()
        return made

    def adopt(self, key: bytes) -> None:
        """Give all nodes a ring of one key, with which HAProxy is started anew."""
        num = self._fleet.publish(Document("idle", (key,), since=int(time.time())))
        for node, haproxy in zip(self.nodes, self.haproxys, strict=True):
            wait_until(lambda node=node: node.tickets()[0].read_bytes() == key, "the key")  # type: ignore[misc]
            haproxy.process.stop()
            haproxy.start()
        self._fleet.await_live(num)

    def names(self) -> list[list[bytes]]:
        """Of the keys with which each HAProxy, and each nginx, encrypts."""
        return [
            [haproxy.slots()[1][:16], node.tickets()[0].read_bytes()[:16]]
            for haproxy, node in zip(self.haproxys, self.nodes, strict=True)
        ]


@pytest.fixture
def fleet(directory: Path, certificate: Certificate, consul: ConsulAgent) -> Iterator[Fleet]:
    """Two nodes that have no document yet."""
    require("haproxy")
    with ExitStack() as stack:
        yield Fleet(stack, directory, certificate, consul)


def test_clients_that_bounce_between_haproxys_miss_nothing(fleet: Fleet) -> None:
    """From one to the other at each connection, with the session of the last one, while keys are rotated."""
    fleet.rotate()
    sites = [
        (haproxy, TLSClient(fleet.certificate, version)) for haproxy in fleet.haproxys for version in VERSIONS
    ]
    for haproxy, client in sites:
        client.connect("127.0.0.1", haproxy.port)
    before = fleet.names()

    rotation, missed = fleet.begin(), []
    for turn in count():
        for haproxy, client in sites:
            at = fleet.haproxys[(fleet.haproxys.index(haproxy) + turn + 1) % 2]
            missed += [] if client.connect("127.0.0.1", at.port).resumed else [(turn, client)]
        if not rotation.running:
            break

    [encrypting] = {name for names in fleet.names() for name in names}
    assert rotation.exit_status == 0, rotation.tail()
    assert missed == []
    assert turn > 3
    assert encrypting not in {name for names in before for name in names}


def test_a_haproxy_that_is_down_holds_up_the_rotation(fleet: Fleet) -> None:
    """The node is named with the reason; once HAProxy runs again the next run goes on."""
    fleet.haproxys[1].process.kill()

    told = fleet.rotate("--timeout", "4s", status=1)
    fleet.haproxys[1].start()
    fleet.rotate()

    assert re.search(r"node2.*HAProxy at unix:", json.dumps(told)), told
    assert len({name for names in fleet.names() for name in names}) == 1


def test_the_ring_is_full_with_two_keys(fleet: Fleet) -> None:
    """HAProxy holds no third one: a rotation waits until no session needs the former key."""
    fleet.rotate()
    fleet.rotate()

    told = fleet.rotate("--timeout", "1s", status=1)

    assert re.fullmatch(
        r"the ring is full: node[12] can hold 2 keys; the oldest leaves in \d+ min", told["reason"]
    )


def test_keys_of_48_bytes_are_followed_by_such(fleet: Fleet) -> None:
    """As cron fired them: HAProxy holds no two lengths at once, so one of 80 bytes would block."""
    first = secrets.token_bytes(48)
    fleet.adopt(first)

    fleet.rotate()

    slots = [haproxy.slots() for haproxy in fleet.haproxys]
    assert {len(key) for window in slots for key in window} == {48}
    assert all(first in window and window[1] != first for window in slots)
    fleet.rotate("--revoke")
    assert {len(key) for haproxy in fleet.haproxys for key in haproxy.slots()} == {48}


def test_a_revocation_needs_no_reload(fleet: Fleet) -> None:
    """Each HAProxy has only the new key, soon."""
    fleet.rotate()
    processes = [haproxy.pid for haproxy in fleet.haproxys]

    fleet.rotate("--revoke")

    wait_until(lambda: [len({*haproxy.slots()}) for haproxy in fleet.haproxys] == [1, 1], "one key in each")
    assert len({haproxy.slots()[0] for haproxy in fleet.haproxys}) == 1
    assert [haproxy.pid for haproxy in fleet.haproxys] == processes
