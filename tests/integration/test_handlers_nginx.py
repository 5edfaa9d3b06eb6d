"""What the handlers stage, in a real nginx: it loads, blocks whom it should, and resumes sessions."""

from __future__ import annotations

import base64
import ipaddress
import random
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.testing import HandlerHarness, event, key
from config.examples.maintenance.maintenance import Maintenance
from handlers.ip_blacklist.handler import IPBlacklist
from handlers.tls_ticket_keys import TicketKeys
from tests.servers.nginx import Nginx, temporary_paths
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient

NewNginx = Callable[..., Nginx]
SNIPPETS = Path(__file__).parents[2] / "config" / "nginx"
KEYS = [random.Random(seed).randbytes(size) for seed, size in enumerate((48, 80, 48))]


def publish(tree: Path, *harnesses: HandlerHarness) -> None:
    """Make what the harnesses hold the current generation, on a path of its own."""
    generations = tree / "generations"
    generations.mkdir(parents=True, exist_ok=True)
    made = generations / f"{len(list(generations.iterdir())):06}"
    made.mkdir()
    (made / "agentd.conf").write_text("include agentd/current/*/*.conf;\n")
    for harness in harnesses:
        for path, data in harness.files.items():
            (made / path).parent.mkdir(exist_ok=True)
            (made / path).write_bytes(data)
    flip = tree / "flip"
    flip.symlink_to(f"generations/{made.name}")
    flip.replace(tree / "current")


def started(handler: type[IPBlacklist | TicketKeys | Maintenance], **options: object) -> HandlerHarness:
    """A harness with its initial files."""
    harness = HandlerHarness(handler, options)
    harness.initial()
    return harness


def complaints(nginx: Nginx) -> list[str]:
    """The warnings and errors of nginx's log."""
    lines = nginx.error_log.read_text().splitlines()
    return [line for line in lines if any(f"[{level}]" in line for level in ("warn", "error", "emerg"))]


# ---------------------------------------------------------------- ip_blacklist


@pytest.fixture
def guarded(new_nginx: NewNginx) -> tuple[Nginx, HandlerHarness]:
    """An nginx with the server snippet and an empty blacklist."""
    nginx = new_nginx()
    nginx.configure(
        server=(SNIPPETS / "agentd-server.conf").read_text() + 'location /early { return 200 "in"; }'
    )
    harness = started(IPBlacklist)
    publish(nginx.tree, harness)
    nginx.start()
    return nginx, harness


def statuses(nginx: Nginx, *clients: str) -> list[int]:
    """What each client is answered."""
    return [nginx.get(client=client)[0] for client in clients]


def test_empty_blacklist_blocks_nobody(guarded: tuple[Nginx, HandlerHarness]) -> None:
    """Before any event everybody is served, and nginx has nothing to complain of."""
    nginx, _ = guarded

    assert statuses(nginx, "192.0.2.1", "2001:db8::1") == [200, 200]
    assert complaints(nginx) == []


def test_exactly_the_named_addresses_are_blocked(guarded: tuple[Nginx, HandlerHarness]) -> None:
    """First and last address of a block are refused, their neighbours are not, in either family."""
    nginx, harness = guarded
    harness.handle(
        event("block", "192.0.2.64/26\n192.0.2.128/26\n192.0.2.70\n2001:db8:0:4::/62\n2001:db8:0:4::1")
    )

    publish(nginx.tree, harness)
    nginx.reload()

    assert statuses(nginx, "192.0.2.64", "192.0.2.191", "::ffff:192.0.2.100") == [403, 403, 403]
    assert statuses(nginx, "192.0.2.63", "192.0.2.192") == [200, 200]
    assert statuses(nginx, "2001:db8:0:4::", "2001:db8:0:7:ffff:ffff:ffff:ffff") == [403, 403]
    assert statuses(nginx, "2001:db8:0:3:ffff:ffff:ffff:ffff", "2001:db8:0:8::") == [200, 200]
    assert complaints(nginx) == []


def test_remove_and_expiry_let_through(guarded: tuple[Nginx, HandlerHarness]) -> None:
    """After a removal and an expiry the addresses are served, and the rest stays blocked."""
    nginx, harness = guarded
    harness.handle(event("block", "192.0.2.0/24\nadd 198.51.100.1 10m\nremove 192.0.2.7"))
    publish(nginx.tree, harness)
    nginx.reload()
    before = statuses(nginx, "192.0.2.6", "192.0.2.7", "192.0.2.8", "198.51.100.1")

    harness.advance(600)
    publish(nginx.tree, harness)
    nginx.reload()

    assert before == [403, 200, 403, 403]
    assert statuses(nginx, "192.0.2.8", "198.51.100.1") == [403, 200]


def test_a_return_in_a_location_does_not_bypass_it(guarded: tuple[Nginx, HandlerHarness]) -> None:
    """The server snippet refuses before any location answers."""
    nginx, harness = guarded
    harness.handle(event("block", "192.0.2.1"))
    publish(nginx.tree, harness)
    nginx.reload()

    assert nginx.get("/early", client="192.0.2.1")[0] == 403
    assert nginx.get("/early", client="192.0.2.2") == (200, "in")


def test_blocking_the_end_of_ipv4_space_spares_ipv6(guarded: tuple[Nginx, HandlerHarness]) -> None:
    """Nginx looks every IPv6 client up as 255.255.255.255, so that one is never in the list."""
    nginx, harness = guarded
    harness.handle(event("block", "254.0.0.0/8\n255.255.255.254"))
    publish(nginx.tree, harness)
    nginx.reload()

    assert statuses(nginx, "254.255.255.255", "255.255.255.254", "2001:db8::1") == [403, 403, 200]


def test_nginx_agrees_with_a_naive_model(guarded: tuple[Nginx, HandlerHarness]) -> None:
    """Of 120 overlapping blocks nginx blocks just the addresses that `ipaddress` finds in them."""
    nginx, harness = guarded
    rng = random.Random(7)
    named = [f"203.0.{rng.randrange(4)}.{rng.randrange(256)}/{rng.randrange(25, 33)}" for _ in range(60)]
    named += [
        f"2001:db8::{rng.randrange(4):x}:{rng.randrange(65536):x}/{rng.randrange(113, 129)}"
        for _ in range(60)
    ]
    networks = [ipaddress.ip_network(text, strict=False) for text in named]
    harness.handle(event("block", "\n".join(named)))
    publish(nginx.tree, harness)
    nginx.reload()
    clients = [end + step for net in networks[::2] for end in (net[0], net[-1]) for step in (-1, 0, 1)]

    wrong = [
        client
        for client in clients
        if (nginx.get(client=str(client))[0] == 403) != any(client in network for network in networks)
    ]

    assert wrong == []
    assert complaints(nginx) == []


# ---------------------------------------------------------------- tls_ticket_keys


@pytest.fixture
def pair(new_nginx: NewNginx) -> list[tuple[Nginx, HandlerHarness]]:
    """Two nodes that have started, each with a random key of its own."""
    nodes = []
    for last in (1, 2):
        nginx, harness = new_nginx(address=f"127.0.0.{last}"), started(TicketKeys)
        publish(nginx.tree, harness)
        nodes.append((nginx.start(), harness))
    return nodes


def load(nginx: Nginx, harness: HandlerHarness) -> None:
    """Commit and reload."""
    publish(nginx.tree, harness)
    nginx.reload()


def rotation(number: int) -> bytes:
    """The payload that brings key `number`."""
    return base64.b64encode(KEYS[number])


def resumed(client: TLSClient, nginx: Nginx) -> bool:
    """Whether the client's session is resumed on this node."""
    return client.connect(nginx.address, nginx.tls_port).resumed


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_reload_keeps_sessions(
    pair: list[tuple[Nginx, HandlerHarness]], certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """With the initial key alone sessions outlive a reload of their node, as they do not without."""
    (nginx, harness), (other, _) = pair
    client = TLSClient(certificate, version)
    resumed(client, nginx)

    load(nginx, harness)

    assert resumed(client, nginx)
    assert not resumed(client, other)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_no_session_is_lost_by_a_rotation(
    pair: list[tuple[Nginx, HandlerHarness]], certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """Sessions are resumed on the other node before, while and after one node is a step ahead."""
    for number in (0, 1):
        for nginx, harness in pair:
            harness.handle(event("rotate", rotation(number), ltime=number + 1))
            if number == 0:
                harness.advance(60)
            load(nginx, harness)
    (first, ahead), (second, behind) = pair
    client = TLSClient(certificate, version)
    resumed(client, first)
    seen = []

    for nginx, harness in ((first, ahead), (second, behind)):
        harness.advance(60)
        load(nginx, harness)
        seen += [resumed(client, node) for node in (second, first, second, first)]

    assert seen == [True] * 8
    # The third line is each node's own initial key, on its way out.
    rings = [harness.files["tickets/tickets.conf"].splitlines()[:2] for harness in (ahead, behind)]
    assert rings[0] == rings[1]


def test_every_stage_of_the_ring_loads(new_nginx: NewNginx) -> None:
    """Keys of 48 and 80 bytes mix, staged, promoted and retired, without a complaint."""
    nginx, harness = new_nginx(), started(TicketKeys, retire_after="5m")
    publish(nginx.tree, harness)
    nginx.start()
    for number in range(3):
        harness.handle(event("rotate", rotation(number), ltime=number + 1))
        load(nginx, harness)
    for seconds in (60, 300):
        harness.advance(seconds)
        load(nginx, harness)

    assert complaints(nginx) == []
    assert harness.files["tickets/tickets.conf"].count(b"ssl_session_ticket_key") == 1


# ---------------------------------------------------------------- what the operator copies


def test_http_snippet_loads(new_nginx: NewNginx) -> None:
    """An nginx.conf that has the snippets and all handlers' files passes `nginx -t` without a warning."""
    nginx = new_nginx()
    publish(nginx.tree, started(TicketKeys), started(IPBlacklist), started(Maintenance))
    server = f"server {{ listen {nginx.address}:{nginx.port}; include {SNIPPETS}/agentd-server.conf; }}"
    ours = f"access_log off; {temporary_paths(nginx.directory)}"  # an ordinary user cannot write to Debian's
    nginx.conf.write_text(
        f"pid {nginx.pid_file}; events {{}} http {{ {ours} include {SNIPPETS}/agentd-http.conf; {server} }}\n"
    )

    check = subprocess.run(
        [nginx.binary, "-t", "-c", str(nginx.conf), "-e", str(nginx.error_log)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (check.returncode, complaints(nginx)) == (0, []), check.stderr


def test_maintenance_example(new_nginx: NewNginx) -> None:
    """The example answers 503 with the key's text while there is one."""
    nginx, harness = new_nginx(), started(Maintenance)
    nginx.configure(server="if ($maintenance) { return 503 $maintenance; }")
    publish(nginx.tree, harness)
    nginx.start()
    before = nginx.get()[0]

    harness.handle(key("site/maintenance", "Back at 14:00; sorry {really}."))
    load(nginx, harness)

    assert before == 200
    assert nginx.get() == (503, "Back at 14:00; sorry {really}.")
