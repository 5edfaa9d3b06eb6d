"""Ticket keys in memory: a boot without Consul, a node that joins in mid-rotation, no trace of old keys."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.fleet.keys import Keys
from handlers.tls_ticket_keys.document import Document, key_digest
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.ports import free_port
from tests.servers.ticket_fleet import TicketFleet, clients
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

KEYS = [secrets.token_bytes(80) for _ in range(3)]
SINCE = 1_700_000_000
IDLE = Document("idle", (KEYS[0],), since=SINCE)
BOTH = [True, True]


@pytest.fixture
def own_consul(directory: Path) -> Iterator[ConsulAgent]:
    """An agent that the test may stop."""
    (directory / "consul").mkdir()
    agent = ConsulAgent(directory / "consul")
    try:
        yield agent.start()
    finally:
        agent.stop()


@pytest.fixture
def fleet(directory: Path, certificate: Certificate, own_consul: ConsulAgent) -> Iterator[TicketFleet]:
    """A fleet without nodes yet."""
    with ExitStack() as stack:
        yield TicketFleet(stack, directory, certificate, own_consul, f"tickets-{free_port()}")


def add(fleet: TicketFleet) -> Node:
    """A node with its secrets in a directory of their own, not started."""
    node = fleet.add()
    node.config["tree"]["secrets"] = str(memory(node))
    node.configure()
    return node


def memory(node: Node) -> Path:
    """Where its secrets are."""
    return node.directory / "run"


def boot(node: Node) -> None:
    """Stop it, empty its memory, and start it as systemd does: nginx once agentd is ready."""
    node.stop()
    shutil.rmtree(memory(node))
    start(node)


def start(node: Node) -> None:
    """Start nginx at the moment at which agentd says that it is ready, and not later."""
    before = ready(node)
    node.agentd.process.start(lambda: ready(node) > before)
    node.nginx.start()


def ready(node: Node) -> int:
    """How often agentd said that it is ready."""
    return sum("agent.ready" in line for line in node.agentd.log_lines())


def logged(node: Node, event: str) -> list[dict[str, object]]:
    """What it logged of this kind."""
    found = [json.loads(line) for line in node.agentd.log_lines() if line.startswith("{")]
    return [one for one in found if one["event"] == event]


def outcomes(node: Node) -> list[str]:
    """How the documents that it was given ended."""
    return [one["outcome"] for one in node.history("ticket-keys") if one["kind"] == "event"]


def places(directory: Path, *forms: bytes) -> set[Path]:
    """The files, links left out, that contain one of these."""
    return {
        file
        for file in directory.rglob("*")
        if file.is_file() and not file.is_symlink() and any(form in file.read_bytes() for form in forms)
    }


def kept(node: Node) -> set[Path]:
    """The files in its memory."""
    return {file for file in memory(node).iterdir() if file.name != ".agentd.lock"}


def forms(key: bytes) -> list[bytes]:
    """How a key may be written: raw, in hex, in base64 at each offset, and in the base64 of that."""
    found = [key, key.hex().encode()]
    for lead in range(3):
        text = base64.b64encode(bytes(lead) + key)[4:-8]
        found += [text, *(base64.b64encode(bytes(more) + text)[4:-8] for more in range(3))]
    return found


def test_sessions_begun_before_a_boot_are_resumed_after_it_without_consul(
    fleet: TicketFleet, certificate: Certificate, own_consul: ConsulAgent
) -> None:
    """By clients of TLS 1.2 and 1.3, from the first handshake; no key was ever on the disk."""
    node = add(fleet)
    start(node)
    fleet.await_live(fleet.publish(IDLE))
    fleet.await_live(num := fleet.publish(Document("idle", (KEYS[1], KEYS[0]), since=SINCE)))
    begun = clients(certificate, node)
    assert set() < places(node.directory, *forms(KEYS[0]), *forms(KEYS[1])) <= kept(node)

    own_consul.stop()
    boot(node)

    assert [client.resumes(node) for client in begun] == BOTH
    assert [path.read_bytes() for path in node.tickets()[:2]] == [KEYS[1], KEYS[0]]
    assert set() < places(node.directory, *forms(KEYS[0]), *forms(KEYS[1])) <= kept(node)
    (lost,) = logged(node, "secrets.lost")
    assert lost["restored"] == 2

    own_consul.start()
    fleet.await_live(num)


def test_a_node_that_cannot_restore_starts_nginx_and_gets_the_ring_once_it_can(
    fleet: TicketFleet, certificate: Certificate, own_consul: ConsulAgent
) -> None:
    """Its copy of the log is gone as well, and Consul is down; it says so, and claims nothing meanwhile."""
    node, other = add(fleet), add(fleet)
    for one in (node, other):
        start(one)
    fleet.await_live(num := fleet.publish(IDLE))
    begun = clients(certificate, other)

    own_consul.stop()
    node.stop()
    for file in (node.directory / "state").glob("fleet.db*"):
        file.unlink()
    boot(node)

    assert KEYS[0] not in [path.read_bytes() for path in node.tickets()]
    assert [client.resumes(node) for client in clients(certificate, node)] == BOTH, "it serves"
    assert logged(node, "fleet.not_recalled")
    assert node.agentd.command("status").returncode != 0

    own_consul.start()
    wait_until(lambda: outcomes(node) == ["applied", "applied"], "the document to be applied again")
    assert node.tickets()[0].read_bytes() == KEYS[0]
    fleet.await_live(num)
    assert [client.resumes(node) for client in begun] == BOTH


def test_a_node_that_joins_has_the_fleets_ring_from_its_first_handshake(
    fleet: TicketFleet, certificate: Certificate
) -> None:
    """In the middle of a rotation, and with nginx started as soon as agentd is ready."""
    one = add(fleet)
    start(one)
    fleet.await_live(fleet.publish(IDLE))
    fleet.await_live(fleet.publish(Document("staged", (KEYS[0],), KEYS[1], since=SINCE)))
    begun = clients(certificate, one)

    joiner = add(fleet)
    start(joiner)

    assert [path.read_bytes() for path in joiner.tickets()[:2]] == [KEYS[0], KEYS[1]]
    assert [client.resumes(joiner) for client in begun] == BOTH


def test_a_key_that_left_the_document_leaves_no_trace(fleet: TicketFleet, own_consul: ConsulAgent) -> None:
    """Nor do the sealed documents that had it: on the node, and in Consul's KV."""
    node = add(fleet)
    start(node)
    keys = Keys(fleet.name)
    old: list[bytes] = []
    for document in (IDLE, Document("staged", (KEYS[0],), KEYS[1], since=SINCE)):
        fleet.await_live(num := fleet.publish(document))
        old.append(own_consul.kv_get(keys.message(fleet.name, num)) or b"")
    demoted = {key_digest(KEYS[0]): SINCE}
    fleet.await_live(num := fleet.publish(Document("idle", (KEYS[1], KEYS[0]), since=SINCE, demoted=demoted)))
    old.append(own_consul.kv_get(keys.message(fleet.name, num)) or b"")
    fleet.await_live(fleet.publish(Document("idle", (KEYS[1],), since=SINCE)))

    sealed = [one[-200:-100] for one in old]
    assert all(sealed)
    wait_until(
        lambda: places(node.directory, *forms(KEYS[0]), *sealed) == set(),
        "the old key, and the documents that had it, to be gone",
        seconds=90.0,
        pause=0.5,
    )
    stored = own_consul.get(f"/v1/kv/{keys.root}?recurse")
    values = [base64.b64decode(one["Value"] or "") for one in stored]
    assert not any(one in value for one in sealed for value in values)


def test_a_fleet_that_has_no_ring_yet_holds_up_nobody(fleet: TicketFleet, own_consul: ConsulAgent) -> None:
    """Neither while nothing at all was ever published, nor later."""
    nodes = [add(fleet), add(fleet)]
    start(nodes[0])
    own_consul.kv_put(Keys(fleet.name).head("other"), b"a name of others")
    start(nodes[1])

    for node in nodes:
        (said,) = logged(node, "agent.ready")
        assert said["waiting"] == []


def test_a_node_that_joins_without_consul_starts_nginx_all_the_same(
    fleet: TicketFleet, own_consul: ConsulAgent
) -> None:
    """After a few seconds, and it says what it has waited for."""
    own_consul.stop()
    node = add(fleet)

    start(node)

    (said,) = logged(node, "agent.ready")
    assert "is not read and applied yet" in str(said["waiting"])
    assert len(node.tickets()) == 1
    own_consul.start()


def test_secrets_that_somebody_deletes_are_restored_while_agentd_runs(
    fleet: TicketFleet, certificate: Certificate
) -> None:
    """By the daemon itself, within seconds; nginx can be restarted then."""
    node = add(fleet)
    start(node)
    fleet.await_live(fleet.publish(IDLE))
    begun = clients(certificate, node)

    shutil.rmtree(memory(node))
    wait_until(lambda: KEYS[0] in [path.read_bytes() for path in node.tickets()], "the keys to be restored")
    node.nginx.stop()
    node.nginx.start()

    assert [client.resumes(node) for client in begun] == BOTH
    assert memory(node).stat().st_mode & 0o777 == 0o700


def test_another_place_for_secrets_needs_a_restart_which_moves_them(
    fleet: TicketFleet, certificate: Certificate
) -> None:
    """To memory, elsewhere, and back to the disk; sessions go on, and a roll-back works everywhere."""
    node = fleet.add()
    start(node)
    fleet.await_live(fleet.publish(IDLE))
    begun = clients(certificate, node)
    (key,) = places(node.nginx.tree / "current" / "tickets", KEYS[0])
    others = [node.directory / "one", node.directory / "two"]

    for directory in (*others, None):
        node.config["tree"]["secrets"] = str(directory) if directory else None
        node.configure()
        refused = len(logged(node, "config.refused"))
        node.agentd.reload()
        wait_until(lambda: len(logged(node, "config.refused")) > refused, "the reload to be refused")  # noqa: B023
        node.agentd.stop()
        node.agentd.start()

        found = places(node.directory, *forms(KEYS[0]))
        if directory:
            assert {file.parent for file in found} == {directory}
        else:
            assert key.resolve() in found
            assert not found & {file for one in others for file in one.iterdir()}
        made = (int(one.name) for one in (node.nginx.tree / "generations").iterdir() if one.name.isdigit())
        to = min(number for number in made if number != node.generation)
        assert node.agentd.command("rollback", str(to)).returncode == 0
        assert key.read_bytes() == KEYS[0]
        assert [client.resumes(node) for client in begun] == BOTH


def test_another_daemon_cannot_have_the_same_directory(fleet: TicketFleet) -> None:
    """It would remove what it does not know."""
    one, two = add(fleet), fleet.add()
    start(one)
    two.config["tree"]["secrets"] = str(memory(one))
    two.configure()

    done = two.agentd.command("run")

    assert done.returncode != 0
    assert "already using this directory of secrets" in done.stderr
