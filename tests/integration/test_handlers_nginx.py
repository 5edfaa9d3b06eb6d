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

from agentd.testing import HandlerBench, event, key
from config.examples.maintenance import Maintenance
from handlers.ip_blacklist import IPBlacklist
from handlers.tls_ticket_keys import TicketKeys
from tests.servers.nginx import Nginx
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient

NewNginx = Callable[..., Nginx]
SNIPPETS = Path(__file__).parents[2] / "config" / "nginx"
KEYS = [random.Random(seed).randbytes(size) for seed, size in enumerate((48, 80, 48))]


def publish(tree: Path, *benches: HandlerBench) -> None:
    """Make what the benches hold the current generation, on a path of its own."""
    generations = tree / "generations"
    generations.mkdir(parents=True, exist_ok=True)
    made = generations / f"{len(list(generations.iterdir())):06}"
    made.mkdir()
    (made / "agentd.conf").write_text("include agentd/current/*/*.conf;\n")
    for bench in benches:
        for path, data in bench.files.items():
            (made / path).parent.mkdir(exist_ok=True)
            (made / path).write_bytes(data)
    flip = tree / "flip"
    flip.symlink_to(f"generations/{made.name}")
    flip.replace(tree / "current")


def started(handler: type[IPBlacklist | TicketKeys | Maintenance], **options: object) -> HandlerBench:
    """A bench with its initial files."""
    bench = HandlerBench(handler, options)
    bench.initial()
    return bench


def complaints(nginx: Nginx) -> list[str]:
    """The warnings and errors of nginx's log."""
    lines = nginx.error_log.read_text().splitlines()
    return [line for line in lines if any(f"[{level}]" in line for level in ("warn", "error", "emerg"))]


# ---------------------------------------------------------------- ip_blacklist


@pytest.fixture
def guarded(new_nginx: NewNginx) -> tuple[Nginx, HandlerBench]:
    """An nginx with the server snippet and an empty blacklist."""
    nginx = new_nginx()
    nginx.configure(
        server=(SNIPPETS / "agentd-server.conf").read_text() + 'location /early { return 200 "in"; }'
    )
    bench = started(IPBlacklist)
    publish(nginx.tree, bench)
    nginx.start()
    return nginx, bench


def statuses(nginx: Nginx, *clients: str) -> list[int]:
    """What each client is answered."""
    return [nginx.get(client=client)[0] for client in clients]


def test_empty_blacklist_blocks_nobody(guarded: tuple[Nginx, HandlerBench]) -> None:
    """Before any event everybody is served, and nginx has nothing to complain of."""
    nginx, _ = guarded

    assert statuses(nginx, "192.0.2.1", "2001:db8::1") == [200, 200]
    assert complaints(nginx) == []


def test_exactly_the_named_addresses_are_blocked(guarded: tuple[Nginx, HandlerBench]) -> None:
    """First and last address of a block are refused, their neighbours are not, in either family."""
    nginx, bench = guarded
    bench.handle(
        event("block", "192.0.2.64/26\n192.0.2.128/26\n192.0.2.70\n2001:db8:0:4::/62\n2001:db8:0:4::1")
    )

    publish(nginx.tree, bench)
    nginx.reload()

    assert statuses(nginx, "192.0.2.64", "192.0.2.191", "::ffff:192.0.2.100") == [403, 403, 403]
    assert statuses(nginx, "192.0.2.63", "192.0.2.192") == [200, 200]
    assert statuses(nginx, "2001:db8:0:4::", "2001:db8:0:7:ffff:ffff:ffff:ffff") == [403, 403]
    assert statuses(nginx, "2001:db8:0:3:ffff:ffff:ffff:ffff", "2001:db8:0:8::") == [200, 200]
    assert complaints(nginx) == []


def test_remove_and_expiry_let_through(guarded: tuple[Nginx, HandlerBench]) -> None:
    """After a removal and an expiry the addresses are served, and the rest stays blocked."""
    nginx, bench = guarded
    bench.handle(event("block", "192.0.2.0/24\nadd 198.51.100.1 10m\nremove 192.0.2.7"))
    publish(nginx.tree, bench)
    nginx.reload()
    before = statuses(nginx, "192.0.2.6", "192.0.2.7", "192.0.2.8", "198.51.100.1")

    bench.advance(600)
    publish(nginx.tree, bench)
    nginx.reload()

    assert before == [403, 200, 403, 403]
    assert statuses(nginx, "192.0.2.8", "198.51.100.1") == [403, 200]


def test_a_return_in_a_location_does_not_bypass_it(guarded: tuple[Nginx, HandlerBench]) -> None:
    """The server snippet refuses before any location answers."""
    nginx, bench = guarded
    bench.handle(event("block", "192.0.2.1"))
    publish(nginx.tree, bench)
    nginx.reload()

    assert nginx.get("/early", client="192.0.2.1")[0] == 403
    assert nginx.get("/early", client="192.0.2.2") == (200, "in")


def test_blocking_the_end_of_ipv4_space_spares_ipv6(guarded: tuple[Nginx, HandlerBench]) -> None:
    """Nginx looks every IPv6 client up as 255.255.255.255, so that one is never in the list."""
    nginx, bench = guarded
    bench.handle(event("block", "254.0.0.0/8\n255.255.255.254"))
    publish(nginx.tree, bench)
    nginx.reload()

    assert statuses(nginx, "254.255.255.255", "255.255.255.254", "2001:db8::1") == [403, 403, 200]


def test_nginx_agrees_with_a_naive_model(guarded: tuple[Nginx, HandlerBench]) -> None:
    """Of 120 overlapping blocks nginx blocks just the addresses that `ipaddress` finds in them."""
    nginx, bench = guarded
    rng = random.Random(7)
    named = [f"203.0.{rng.randrange(4)}.{rng.randrange(256)}/{rng.randrange(25, 33)}" for _ in range(60)]
    named += [
        f"2001:db8::{rng.randrange(4):x}:{rng.randrange(65536):x}/{rng.randrange(113, 129)}"
        for _ in range(60)
    ]
    networks = [ipaddress.ip_network(text, strict=False) for text in named]
    bench.handle(event("block", "\n".join(named)))
    publish(nginx.tree, bench)
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
def pair(new_nginx: NewNginx) -> list[tuple[Nginx, HandlerBench]]:
    """Two nodes that have started, each with a random key of its own."""
    nodes = []
    for last in (1, 2):
        nginx, bench = new_nginx(address=f"127.0.0.{last}"), started(TicketKeys)
        publish(nginx.tree, bench)
        nodes.append((nginx.start(), bench))
    return nodes


def load(nginx: Nginx, bench: HandlerBench) -> None:
    """Commit and reload."""
    publish(nginx.tree, bench)
    nginx.reload()


def rotation(number: int) -> bytes:
    """The payload that brings key `number`."""
    return base64.b64encode(KEYS[number])


def resumed(client: TLSClient, nginx: Nginx) -> bool:
    """Whether the client's session is resumed on this node."""
    return client.connect(nginx.address, nginx.tls_port).resumed


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_reload_keeps_sessions(
    pair: list[tuple[Nginx, HandlerBench]], certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """With the initial key alone sessions outlive a reload of their node, as they do not without."""
    (nginx, bench), (other, _) = pair
    client = TLSClient(certificate, version)
    resumed(client, nginx)

    load(nginx, bench)

    assert resumed(client, nginx)
    assert not resumed(client, other)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_no_session_is_lost_by_a_rotation(
    pair: list[tuple[Nginx, HandlerBench]], certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """Sessions are resumed on the other node before, while and after one node is a step ahead."""
    for number in (0, 1):
        for nginx, bench in pair:
            bench.handle(event("rotate", rotation(number), ltime=number + 1))
            if number == 0:
                bench.advance(60)
            load(nginx, bench)
    (first, ahead), (second, behind) = pair
    client = TLSClient(certificate, version)
    resumed(client, first)
    seen = []

    for nginx, bench in ((first, ahead), (second, behind)):
        bench.advance(60)
        load(nginx, bench)
        seen += [resumed(client, node) for node in (second, first, second, first)]

    assert seen == [True] * 8
    # The third line is each node's own initial key, on its way out.
    rings = [bench.files["tickets/tickets.conf"].splitlines()[:2] for bench in (ahead, behind)]
    assert rings[0] == rings[1]


def test_every_stage_of_the_ring_loads(new_nginx: NewNginx) -> None:
    """Keys of 48 and 80 bytes mix, staged, promoted and retired, without a complaint."""
    nginx, bench = new_nginx(), started(TicketKeys, retire_after="5m")
    publish(nginx.tree, bench)
    nginx.start()
    for number in range(3):
        bench.handle(event("rotate", rotation(number), ltime=number + 1))
        load(nginx, bench)
    for seconds in (60, 300):
        bench.advance(seconds)
        load(nginx, bench)

    assert complaints(nginx) == []
    assert bench.files["tickets/tickets.conf"].count(b"ssl_session_ticket_key") == 1


# ---------------------------------------------------------------- what the operator copies


def test_http_snippet_loads(new_nginx: NewNginx) -> None:
    """An nginx.conf that has the snippets and all handlers' files passes `nginx -t` without a warning."""
    nginx = new_nginx()
    publish(nginx.tree, started(TicketKeys), started(IPBlacklist), started(Maintenance))
    server = f"server {{ listen {nginx.address}:{nginx.port}; include {SNIPPETS}/agentd-server.conf; }}"
    nginx.conf.write_text(
        f"pid {nginx.pid_file}; events {{}} http {{ include {SNIPPETS}/agentd-http.conf; {server} }}\n"
    )

    check = subprocess.run(
        [nginx.binary, "-t", "-c", str(nginx.conf), "-e", str(nginx.error_log)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (check.returncode, complaints(nginx)) == (0, []), check.stderr


def test_maintenance_example(new_nginx: NewNginx) -> None:
    """The example answers 503 with the key's text while there is one."""
    nginx, bench = new_nginx(), started(Maintenance)
    nginx.configure(server="if ($maintenance) { return 503 $maintenance; }")
    publish(nginx.tree, bench)
    nginx.start()
    before = nginx.get()[0]

    bench.handle(key("site/maintenance", "Back at 14:00; sorry {really}."))
    load(nginx, bench)

    assert before == 200
    assert nginx.get() == (503, "Back at 14:00; sorry {really}.")
