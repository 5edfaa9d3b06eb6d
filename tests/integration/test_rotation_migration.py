"""Coming from cron and `consul event`: two nodes that have moved, beside one with a shell handler."""

from __future__ import annotations

import base64
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest

from tests.bench.watch import ConsulWatch
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import TICKET_EVENT, Node
from tests.servers.nginx import Nginx
from tests.servers.rotating import RotatingFleet
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient
from tests.servers.waiting import wait_until

SCRIPT = """\
#!/bin/bash
set -eu
new=$(jq -r '.[-1].Payload // empty' | base64 -d)
[ "$new" ] || exit 0
printf '%s' "$new" | base64 -d > {conf}/ticket.key
{nginx} -p {directory} -c {conf}/nginx.conf -e {directory}/error.log -s reload
"""


class MovingFleet(RotatingFleet):
    """Two nodes of the fleet, and one that knows keys from events alone: it has the newest, and no other."""

    def __init__(self, stack: ExitStack, directory: Path, certificate: Certificate) -> None:
        super().__init__(stack, directory, certificate, 2, trust={"accept_events": [TICKET_EVENT]})
        place = directory / "old"
        (place / "consul").mkdir(parents=True)
        self.agent = ConsulAgent(place / "consul", node="old", address="127.0.0.3", join=self.nodes[0].consul)
        stack.callback(self.agent.stop)
        self.agent.start()
        self.old = Nginx(place, certificate, address="127.0.0.3")
        self.old.seed_tree()
        self.key = self.old.conf.parent / "ticket.key"
        self.key.write_bytes(secrets.token_bytes(80))
        self.old.configure(http="ssl_session_ticket_key ticket.key;")
        stack.callback(self.old.stop)
        self.old.start()
        script = place / "rotate.sh"
        script.write_text(SCRIPT.format(conf=self.old.conf.parent, directory=place, nginx=self.old.binary))
        script.chmod(0o755)
        watch = ConsulWatch(self.agent, TICKET_EVENT, script)
        stack.callback(watch.stop)
        watch.start()
        for node in self.nodes:
            node.agentd.await_listening()

    def cron(self) -> bytes:
        """Fire a new key, as cron does; wait until all nodes have it in some way."""
        key = secrets.token_bytes(80)
        self.agent.fire(TICKET_EVENT, base64.b64encode(key))
        wait_until(lambda: self.key.read_bytes() == key, "the shell handler")
        for node in self.nodes:
            wait_until(partial(self.has, node, key), f"the key on {node.name}")
        return key

    def has(self, node: Node, key: bytes) -> bool:
        """Whether a node has given this key to nginx."""
        return key[:16] in self.names(node)

    def resumed(self, begins: Nginx, goes_on: Nginx) -> bool:
        """Whether sessions of both versions that begin on one server are resumed on another."""
        for version in (TLS12, TLS13):
            client = TLSClient(self.certificate, version)
            client.connect(begins.address, begins.tls_port)
            if not client.connect(goes_on.address, goes_on.tls_port).resumed:
                return False
        return True

    @property
    def servers(self) -> list[Nginx]:
        """The nginx of each node."""
        return [*(node.nginx for node in self.nodes), self.old]


@pytest.fixture
def fleet(certificate: Certificate) -> Iterator[MovingFleet]:
    """A fleet in which one node has not moved yet."""
    for program in ("consul", "nginx", "jq"):
        require(program)
    with (
        tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True) as directory,
        ExitStack() as stack,
    ):
        yield MovingFleet(stack, Path(directory), certificate)


def test_sessions_are_resumed_everywhere_while_a_fleet_moves(fleet: MovingFleet) -> None:
    """The rotation adopts the keys of cron's events, one after the other, and makes none itself."""
    keys: list[bytes] = []
    for _ in range(3):
        keys.insert(0, fleet.cron())
        # At once, wherever the session comes from the node that has not moved.
        for node in fleet.nodes:
            wait_until(partial(fleet.resumed, fleet.old, node.nginx), f"the key in force on {node.name}")
        told = fleet.rotate("--due")
        assert [one["does"] for one in told["did"]] == ["stage a new key", "encrypt with it", "confirm"]
        document = fleet.document()
        assert document is not None
        assert list(document.ring) == keys
        for begins, goes_on in permutations(fleet.servers, 2):
            assert fleet.resumed(begins, goes_on), (begins.address, goes_on.address)

    assert fleet.rotate("--due", "--every", "1ms")["did"] == []
    assert fleet.rotate()["did"] == []


def test_once_the_last_has_moved_keys_come_from_the_rotation(fleet: MovingFleet) -> None:
    """An event with a key is refused from then on, and the document goes on."""
    first = fleet.cron()
    fleet.rotate("--due")
    del fleet.trust["accept_events"]
    for node in fleet.nodes:
        node.config["trust"].pop("accept_events", None)
        node.configure()
        node.agentd.reload()
    fleet.rotate()
    document = fleet.document()
    assert document is not None
    assert document.ring[1:] == (first,)
    fleet.agent.fire(TICKET_EVENT, base64.b64encode(secrets.token_bytes(80)))
    wait_until(
        lambda: any(one["outcome"] == "refused" for one in fleet.nodes[0].history("ticket-keys")),
        "the refusal",
    )
