"""Documents of ticket keys, sealed in a real Consul: sessions begun on one nginx are resumed on another."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from handlers.tls_ticket_keys.document import Document, key_digest
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.ports import free_port
from tests.servers.ticket_fleet import TicketFleet, clients
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

KEYS = [secrets.token_bytes(size) for size in (80, 48, 80)]
FIRST = Document("staged", (), KEYS[0], since=1_700_000_000)
BOTH = [True, True]


@pytest.fixture
def fleet(directory: Path, certificate: Certificate, consul: ConsulAgent) -> Iterator[TicketFleet]:
    """A fleet without nodes yet."""
    with ExitStack() as stack:
        yield TicketFleet(stack, directory, certificate, consul, f"tickets-{free_port()}")


def steps(document: Document, following: bytes) -> Iterator[Document]:
    """The documents of one rotation after an idle one."""
    ring = (following, *document.ring)
    yield replace(document, phase="staged", next=following)
    yield replace(document, phase="promoted", ring=ring, promoted=document.since)
    yield replace(document, phase="idle", ring=ring, demoted={key_digest(ring[1]): document.since})


def test_sessions_are_resumed_on_the_other_node_in_every_phase(
    fleet: TicketFleet, certificate: Certificate
) -> None:
    """TLS 1.2 and 1.3, in both directions, from the first promotion on; nothing is promoted by a clock."""
    one, two = fleet.add().start(), fleet.add().start()
    fleet.await_live(fleet.publish(FIRST))
    early = clients(certificate, one)
    assert [client.resumes(two) for client in early] == [False, False]
    assert [node.tickets()[1].read_bytes() for node in (one, two)] == [KEYS[0], KEYS[0]]
    assert one.tickets()[0].read_bytes() not in KEYS

    old = clients(certificate, one)
    fleet.await_live(fleet.publish(replace(FIRST, phase="promoted", ring=(KEYS[0],), next=None)))
    assert [client.resumes(one) for client in old] == BOTH
    idle = replace(FIRST, phase="idle", ring=(KEYS[0],), next=None)
    fleet.await_live(num := fleet.publish(idle))

    begun = clients(certificate, one), clients(certificate, two)
    for following in KEYS[1:]:
        for document in steps(idle, following):
            num = fleet.publish(document)
            assert [client.resumes(node) for client, node in zip(begun[0], (one, two), strict=True)] == BOTH
            fleet.await_live(num)
            for client in (*begun[0], *begun[1], *clients(certificate, one)):
                assert [client.resumes(node) for node in (two, one, two)] == [True, *BOTH]
            idle = document

    assert [path.read_bytes() for path in one.tickets()][:3] == KEYS[::-1]
    known = [fleet.acknowledged(node) for node in (one, two)]
    reports = [found.handlers["ticket-keys"] for found in known if found]
    assert reports[0].fingerprint == reports[1].fingerprint
    assert reports[0].report["rotation"] == {"phase": "idle", "since": idle.since, "num": num}
    metrics = one.agentd.get("/metrics")[1]
    assert 'agentd_handler_tls_ticket_rotation_phase{handler="ticket-keys"} 0.0' in metrics
    assert "agentd_handler_tls_ticket_rotation_since_age_seconds" in metrics


def test_a_node_that_is_one_step_behind_misses_no_session(
    fleet: TicketFleet, certificate: Certificate
) -> None:
    """Its agentd was down during the promotion; once it is up again, it takes the newest document."""
    one, two = fleet.add().start(), fleet.add().start()
    idle = Document("idle", (KEYS[0],), since=1_700_000_000)
    fleet.await_live(fleet.publish(idle))
    staged, promoted, confirmed = steps(idle, KEYS[1])
    fleet.await_live(fleet.publish(staged))

    two.agentd.stop()
    fleet.await_live(fleet.publish(promoted), one)
    for start, other in ((one, two), (two, one)):
        assert [client.resumes(other) for client in clients(certificate, start)] == BOTH
    begun = clients(certificate, two)
    two.agentd.start()
    fleet.await_live(fleet.publish(confirmed))

    assert [client.resumes(node) for client in begun for node in (one, two)] == [*BOTH, *BOTH]


def test_a_node_that_joins_and_one_that_restarts_have_the_fleets_ring(
    fleet: TicketFleet, certificate: Certificate
) -> None:
    """In the middle of a rotation; nginx is stopped and started with agentd."""
    one = fleet.add().start()
    staged, promoted, _ = steps(Document("idle", (KEYS[0],), since=1_700_000_000), KEYS[1])
    fleet.await_live(fleet.publish(staged))
    begun = clients(certificate, one)

    joiner = fleet.add().start()
    num = fleet.publish(promoted)
    fleet.await_live(num)
    assert [client.resumes(joiner) for client in begun] == BOTH

    one.stop()
    one.start()
    assert [client.resumes(one) for client in begun] == BOTH
    fleet.await_live(num)


def test_keys_from_events_are_adopted_without_a_miss(fleet: TicketFleet, certificate: Certificate) -> None:
    """Both nodes encrypt with one that was heard when the first document comes; a later one only decrypts."""
    trust = fleet.trust | {"accept_events": [fleet.name]}
    nodes = [fleet.add({"trust": trust}).start() for _ in range(2)]

    for node in nodes:
        node.agentd.await_listening()
    fleet.consul.fire(fleet.name, base64.b64encode(KEYS[0]))
    for node in nodes:
        wait_until(partial(_encrypts, node, KEYS[0]), "the key to encrypt")
    begun = clients(certificate, nodes[0])

    idle = replace(FIRST, phase="idle", ring=(KEYS[0],), next=None)
    for document in (FIRST, replace(idle, phase="promoted"), idle, *steps(idle, KEYS[1])):
        if document.phase == "staged" and document.next == KEYS[1]:
            fleet.consul.fire(fleet.name, base64.b64encode(KEYS[1]))
            for node in nodes:
                wait_until(partial(_has, node, KEYS[1]), "the key to be heard")
            assert [_keys(node)[0] for node in nodes] == [KEYS[0], KEYS[0]]
        fleet.await_live(fleet.publish(document))
        for client in (*begun, *clients(certificate, nodes[1])):
            assert [client.resumes(node) for node in (*nodes, nodes[0])] == [True, *BOTH]

    assert [_keys(node)[:2] for node in nodes] == [[KEYS[1], KEYS[0]]] * 2


def _keys(node: Node) -> list[bytes]:
    return [path.read_bytes() for path in node.tickets()]


def _has(node: Node, key: bytes) -> bool:
    return key in _keys(node)


def _encrypts(node: Node, key: bytes) -> bool:
    """Whether the daemon has seen that nginx encrypts with it."""
    ended = [one for one in node.history("ticket-keys") if one["kind"] == "event"]
    return _keys(node)[0] == key and bool(ended) and ended[0]["outcome"] == "applied"
