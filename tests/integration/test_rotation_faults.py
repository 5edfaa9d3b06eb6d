"""Rotations on real nodes under faults, with clients that bounce: no session is missed, and they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.fleet.keys import Keys
from agentd.trust.key_files import write_key
from agentd.trust.keys import new_fleet_key
from handlers.tls_ticket_keys.document import Document
from tests.bench.clients import Clients
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import TICKET_EVENT, Node
from tests.servers.rotating import FLEET, RotatingFleet, handlers, retrust
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

ENOUGH = 40  # sessions that are offered
CLOCK = Path(__file__).parents[1] / "servers" / "clock"


@pytest.fixture(scope="module")
def fleet(certificate: Certificate) -> Iterator[RotatingFleet]:
    """Three nodes, with a first key that all of them have."""
    for program in ("consul", "nginx"):
        require(program)
    with (
        tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True) as directory,
        ExitStack() as stack,
    ):
        made = RotatingFleet(stack, Path(directory), certificate, 3, keep=50)
        made.rotate()
        yield made


@contextmanager
def bouncing(fleet: RotatingFleet) -> Iterator[Clients]:
    """Clients go from node to node meanwhile; in the end no session was missed."""
    log = fleet.directory / f"clients-{time.time_ns()}.log"
    clients = Clients(log, {one.name: one.nginx for one in fleet.nodes}, oldest=20, rate=50)
    clients.start()
    try:
        wait_until(lambda: clients.tally().resumed, "the first resumption", pause=0.2)
        yield clients
        before = clients.tally().offered
        wait_until(lambda: clients.tally().offered >= before + ENOUGH, "more sessions", pause=0.2)
    finally:
        clients.stop()
    found = clients.tally()
    assert found.missed == []


def advance(fleet: RotatingFleet, before: Document) -> Document:
    """What the newest document is, which must be a rotation on from that one."""
    found = fleet.document()
    assert found is not None
    assert (found.phase, found.ring[1:]) == ("idle", before.ring)
    return found


def current(fleet: RotatingFleet) -> Document:
    """The newest document."""
    found = fleet.document()
    assert found is not None
    return found


def told_on(node: Node, *words: str) -> str:
    """Run a command on the node, which succeeds; what it prints."""
    ran = node.agentd.command(*words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def waits(fleet: RotatingFleet) -> str:
    """Why the rotation waits for its first node."""
    told = fleet.rotate("--due", "--timeout", "1s")
    return str(told["waiting"][0]["reason"]) if told["waiting"] else ""


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """The node's daemon is stopped as by SIGSTOP meanwhile; nginx serves."""
    node.agentd.process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        node.agentd.process.send(signal.SIGCONT)


def test_rotations_lose_no_session(fleet: RotatingFleet) -> None:
    """One after the other, as fast as they go."""
    with bouncing(fleet):
        for _ in range(3):
            before = current(fleet)
            fleet.rotate()
            advance(fleet, before)
    assert {fleet.names(node)[0] for node in fleet.nodes} == {current(fleet).ring[0][:16]}


def test_a_frozen_daemon_holds_it_and_it_goes_on(fleet: RotatingFleet) -> None:
    """It is named; nobody encrypts with a key that it does not know."""
    before = current(fleet)
    with bouncing(fleet):
        with frozen(fleet.nodes[2]):
            told = fleet.rotate("--timeout", "3s", status=1)
            assert [one["node"] for one in told["waiting"]] == ["node3"]
            assert current(fleet).phase == "staged"
            assert {fleet.names(node)[0] for node in fleet.nodes} == {before.ring[0][:16]}
        fleet.rotate(node=fleet.nodes[1])
    advance(fleet, before)


def test_a_node_that_stops_during_promotion_holds_it(fleet: RotatingFleet) -> None:
    """Nginx goes on without its agentd; once that is back, the rotation ends."""
    before = current(fleet)
    with bouncing(fleet):
        with frozen(fleet.nodes[2]):
            fleet.rotate("--timeout", "3s", status=1)
        fleet.nodes[2].agentd.kill()  # perhaps just as it takes the staged key
        fleet.rotate("--timeout", "3s", status=1)
        fleet.nodes[2].agentd.start()
        fleet.rotate()
    advance(fleet, before)


def test_a_paused_node_holds_it_and_a_roll_back_does_not(fleet: RotatingFleet) -> None:
    """In mid-rotation: the pause is named; a roll-back takes no key back, and the node goes on."""
    node, before = fleet.nodes[2], current(fleet)
    with bouncing(fleet):
        with frozen(node):
            fleet.rotate("--timeout", "3s", status=1)
        told_on(node, "rollback")
        told_on(node, "pause", "ticket-keys", "--reason", "its disk")
        try:  # the tests after this one have the same nodes
            fleet.rotate("--timeout", "3s", status=1)
            wait_until(lambda: "its disk" in waits(fleet), "the reason")
            told_on(node, "rollback")
        finally:
            told_on(node, "resume", "ticket-keys")
        fleet.rotate()
    after = advance(fleet, before)
    assert set(fleet.names(node)) >= {key[:16] for key in after.ring}


def test_a_configuration_that_nginx_refuses_holds_it(fleet: RotatingFleet) -> None:
    """Somebody broke it elsewhere: nginx would go on with the keys of before. Requests meanwhile are one."""
    node, before = fleet.nodes[2], current(fleet)
    sound = node.nginx.conf.read_text()
    with bouncing(fleet):
        node.nginx.break_configuration()
        try:
            fleet.rotate("--timeout", "3s", status=1)
            wait_until(lambda: "broken elsewhere" in waits(fleet), "the reason")
            for number in range(30):
                fleet.nodes[number % 3].fire(TICKET_EVENT, b"")
        finally:
            node.nginx.conf.write_text(sound)
        fleet.rotate("--due")
        assert fleet.rotate("--due")["did"] == []
    advance(fleet, before)


def test_keys_are_revoked_while_a_node_is_down(fleet: RotatingFleet) -> None:
    """In mid-rotation: nobody waits with it, the node has the new key alone once it is back."""
    node = fleet.nodes[2]
    with frozen(node):
        fleet.rotate("--timeout", "3s", status=1)
    node.agentd.kill()
    told = fleet.rotate("--revoke", "--timeout", "3s", status=1)
    assert [one["node"] for one in told["waiting"]] == ["node3"]
    revoked = current(fleet)
    assert (revoked.phase, len(revoked.ring)) == ("promoted", 1)
    node.agentd.start()
    fleet.rotate("--due", node=fleet.nodes[1])
    assert current(fleet).ring == revoked.ring
    assert [fleet.names(one) for one in fleet.nodes] == [[revoked.ring[0][:16]]] * 3


def test_a_killed_coordinator_is_replaced_at_each_step(fleet: RotatingFleet) -> None:
    """Another host goes on from what was published."""
    with bouncing(fleet):
        for phase in ("staged", "promoted"):
            before = current(fleet)
            with frozen(fleet.nodes[2]) if phase == "staged" else ExitStack():
                running = fleet.begin()
                fleet.await_phase(phase)
                running.kill()
            fleet.rotate(node=fleet.nodes[1])
            after = current(fleet)
            assert (after.phase, after.ring[-len(before.ring) :]) == ("idle", before.ring)


def test_two_coordinators_at_once_make_one_rotation(fleet: RotatingFleet) -> None:
    """On two hosts."""
    before = current(fleet)
    with bouncing(fleet):
        running = [fleet.begin(node=node) for node in fleet.nodes[:2]]
        assert [one.wait() for one in running] == [0, 0]
    after = current(fleet)
    assert (after.phase, after.ring[-len(before.ring) :]) == ("idle", before.ring)


def test_a_log_that_is_wiped_in_mid_rotation_is_written_back_first(fleet: RotatingFleet) -> None:
    """Acknowledgements are lost as well; the same rotation goes on."""
    before = current(fleet)
    with bouncing(fleet):
        with frozen(fleet.nodes[2]):
            fleet.rotate("--timeout", "3s", status=1)
            staged = current(fleet)
            fleet.nodes[0].consul.kv_delete(Keys(FLEET).root, recurse=True)
            fleet.rotate("--timeout", "2s", status=1)
        wait_until(lambda: fleet.document() == staged, "the write-back")
        fleet.rotate(timeout="100s")
    assert advance(fleet, before).ring[0] == staged.next


def test_an_old_snapshot_does_not_set_it_back(fleet: RotatingFleet) -> None:
    """The nodes know better, and write back what was lost."""
    keys, agent = Keys(FLEET), fleet.nodes[0].consul
    old = fleet.head()
    assert old is not None
    message = agent.kv_get(keys.message(TICKET_EVENT, old.newest)) or b""
    with bouncing(fleet):
        fleet.rotate()
        before, head = current(fleet), fleet.head()
        assert head is not None
        agent.kv_delete(keys.message(TICKET_EVENT, head.newest))
        agent.kv_put(keys.message(TICKET_EVENT, old.newest), message)
        agent.kv_put(keys.head(TICKET_EVENT), old.render())
        fleet.rotate(timeout="100s")
        advance(fleet, before)


@pytest.mark.parametrize("off", [600.0, -600.0], ids=["ahead", "behind"])
def test_a_coordinator_whose_clock_is_wrong_loses_no_session(fleet: RotatingFleet, off: float) -> None:
    """By ten minutes; the next one goes on from its numbers."""
    file = fleet.directory / "clock"
    file.write_text(str(off))
    path = os.pathsep.join(map(str, (CLOCK, CLOCK.parents[1])))
    node = fleet.nodes[0]
    argv = [node.agentd.process.argv[0], "rotate-tickets", "--config", str(node.configuration)]
    with bouncing(fleet):
        before = current(fleet)
        subprocess.run(
            argv,
            env=os.environ | {"PYTHONPATH": path, "AGENTD_CLOCK_OFF": str(file)},
            check=True,
            timeout=100,
            capture_output=True,
        )
        middle = advance(fleet, before)
        assert abs(middle.since - time.time() - off) < 100
        fleet.rotate(node=fleet.nodes[1])
    advance(fleet, middle)


def test_a_replayed_document_changes_nothing(fleet: RotatingFleet) -> None:
    """An older one under its own number, or under a newer one, to which its signature does not belong."""
    keys, agent = Keys(FLEET), fleet.nodes[0].consul
    first = fleet.head()
    assert first is not None
    old = agent.kv_get(keys.message(TICKET_EVENT, first.newest)) or b""
    with bouncing(fleet):
        fleet.rotate()
        before, head = current(fleet), fleet.head()
        assert head is not None
        forged = head.newest + 1
        agent.kv_put(keys.message(TICKET_EVENT, first.newest), old)
        agent.kv_put(keys.message(TICKET_EVENT, forged), old)
        marks = replace(head, newest=forged, count=head.count + 1, recent=(*head.recent, forged), inline=None)
        agent.kv_put(keys.head(TICKET_EVENT), marks.render())
        fleet.rotate()
    advance(fleet, before)


def test_a_fleet_key_that_was_replaced_while_a_node_was_away(fleet: RotatingFleet) -> None:
    """The node waits for the key, the rotation for the node."""
    key = new_fleet_key()
    path = fleet.directory / "keys" / "fleet2.key"
    write_key(path, key)
    lagging = fleet.nodes[2]
    before = current(fleet)
    trust = fleet.trust | {"fleet_keys": [str(path), str(fleet.keys["fleet"])]}
    with bouncing(fleet):
        for node in fleet.nodes[:2]:
            retrust(node, trust | {"signing_key": str(fleet.keys["ops"])})
        told = fleet.rotate("--timeout", "9s", status=1)
        assert [one["node"] for one in told["waiting"]] == ["node3"]
        assert "lacks" in told["waiting"][0]["reason"]
        retrust(lagging, trust)
        fleet.trust_key(key)
        fleet.rotate(node=fleet.nodes[1])
    advance(fleet, before)


def test_a_node_that_joins_between_steps_is_waited_for(
    fleet: RotatingFleet, certificate: Certificate
) -> None:
    """It takes the newest document before its nginx starts, in memory, though the fleet is frozen."""
    with ExitStack() as stack:
        place = fleet.directory / "n4"
        (place / "consul").mkdir(parents=True)
        consul = ConsulAgent(place / "consul", node="node4", address="127.0.0.4", join=fleet.nodes[0].consul)
        stack.callback(consul.stop)
        consul.start()
        trust = fleet.nodes[2].config["trust"]
        joiner = Node(
            place,
            certificate,
            number=4,
            consul=consul,
            handlers=handlers(keep=50),
            settings={"fleet": {"name": FLEET}, "trust": trust},
        )
        joiner.config["tree"]["secrets"] = str(fleet.directory / "memory")
        joiner.configure()
        stack.callback(joiner.stop)
        before = current(fleet)
        with bouncing(fleet):
            with frozen(fleet.nodes[2]):
                fleet.rotate("--timeout", "3s", status=1)
                fleet.nodes[0].agentd.command("freeze", "--reason", "sale", "--wait", "1s")
                joiner.start()
            told = fleet.rotate()
            assert "frozen by ops: sale" in fleet.rotate(status=1)["reason"]
            told_on(fleet.nodes[0], "thaw")
        assert told["nodes"] == 4
        assert fleet.names(joiner)[0] == advance(fleet, before).ring[0][:16]
