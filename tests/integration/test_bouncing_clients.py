"""The clients of the benches on session tickets: they would not measure nothing."""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.bench.clients import Clients, Tally
from tests.servers.nginx import Nginx
from tests.servers.tls import make_certificate
from tests.servers.waiting import wait_until

ENOUGH = 60


def bounce(directory: Path, keys: list[bytes]) -> Tally:
    """What comes of enough connections to servers that have one ticket key each."""
    certificate = make_certificate(directory)
    servers = {}
    for number, key in enumerate(keys, 1):
        place = directory / f"n{number}"
        place.mkdir()
        one = Nginx(place, certificate, address=f"127.0.0.{number}")
        one.seed_tree()
        (one.conf.parent / "ticket.key").write_bytes(key)
        one.configure(http="ssl_session_ticket_key ticket.key;")
        servers[f"node{number}"] = one
    clients = Clients(directory / "clients.log", servers, oldest=5, rate=100)
    try:
        for one in servers.values():
            one.start()
        clients.start()
        wait_until(lambda: clients.tally().offered >= ENOUGH, "enough connections")
        return clients.tally()
    finally:
        clients.stop()
        for one in servers.values():
            one.stop()


def test_sessions_are_resumed_where_the_key_is_the_same(directory: Path) -> None:
    """Of both versions of TLS; and some began."""
    found = bounce(directory, [secrets.token_bytes(80)] * 3)

    assert (found.resumed, found.missed, found.errors) == (found.offered, [], {})
    assert found.begun


def test_a_node_that_lacks_the_key_is_named(directory: Path) -> None:
    """Sessions are missed on it, and those that it began elsewhere; the other two resume each other's."""
    key = secrets.token_bytes(80)

    found = bounce(directory, [key, key, secrets.token_bytes(80)])

    assert found.resumed
    assert {one.version for one in found.missed} == {"TLSv1_2", "TLSv1_3"}
    assert all("node3" in (one.node, one.issuer) for one in found.missed)
    assert len(found.missed) > found.offered / 4
