"""Something changed -> new configuration served: agentd against the shell glue, and its own steps by hand.

By hand means one process that polls, writes, runs `nginx -t` and signals (see `by_hand.py`): what remains of
the ratio is the price of journal, generations and proof.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.bench import by_hand
from tests.bench.rows import Row, p50, spread
from tests.bench.watch import ConsulWatch
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import TICKET_EVENT, Node, main_job
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.site import Site
from tests.servers.tls import Certificate, make_certificate
from tests.servers.waiting import wait_until

EVENTS = 20
PAUSE = 0.4  # each side is changed every 1.2 s, so that agentd's interval of 1 s never holds a reload
_GLUE = """\
#!/bin/bash
set -eu
new=$(jq -r '.[-1].Payload' | base64 -d)
[ "$new" ] || exit 0
printf '%s' "$new" | base64 -d > {conf}/ticket.key
printf 'location = /marker {{ return 200 "%s"; }}\\n' "${{new:0:16}}" > {conf}/marker.conf
{nginx} -p {directory} -c {conf}/nginx.conf -e {directory}/error.log -s reload
"""


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Rotate a key on each side in turn, then change the instances of a service."""
    certificate = make_certificate(directory)
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    yield from _keys(stack, directory, certificate, consul)
    yield from _instances(stack, directory, certificate, consul)


def _keys(stack: ExitStack, directory: Path, certificate: Certificate, consul: ConsulAgent) -> Iterator[Row]:
    node = Node(directory / "n", certificate, number=1, consul=consul, handlers=main_job(promote_after="0s"))
    stack.callback(node.stop)
    node.start()
    glue = _glue(stack, directory / "g", certificate, consul)
    hand = _by_hand(stack, directory / "h", certificate, node, "event:hand-refresh")
    _until(lambda: _rotate(consul, hand, "hand-refresh", seconds=1.0), "the steps by hand to work")
    took: dict[str, list[float]] = {"ours": [], "glue": [], "hand": []}
    for _ in range(EVENTS):
        took["ours"].append(_rotate_ours(consul, node))
        time.sleep(PAUSE)
        took["glue"].append(_rotate(consul, glue, "glue-refresh"))
        time.sleep(PAUSE)
        took["hand"].append(_rotate(consul, hand, "hand-refresh"))
        time.sleep(PAUSE)
    ours = [1e3 * x for x in took["ours"]]
    what = f"event fired -> new configuration served, p50 of {EVENTS}"
    yield Row(
        what, "ms", p50(ours), "consul watch + jq + base64 x2 + nginx -s reload", 1e3 * p50(took["glue"]),
        1.0, spread(ours),
    )  # fmt: skip
    yield Row(
        what, "ms", p50(ours), "the same steps by hand in one process", 1e3 * p50(took["hand"]), 1.15,
        spread([1e3 * x for x in took["hand"]]),
    )  # fmt: skip


def _instances(
    stack: ExitStack, directory: Path, certificate: Certificate, consul: ConsulAgent
) -> Iterator[Row]:
    site = Site(partial(Node, directory / "s", certificate, number=1), consul)
    stack.callback(site.node.stop)
    ports = [free_port(), free_port()]
    consul.register(site.service, ports[0], identity=f"{site.service}-0")
    site.node.start()
    consul.register("by-hand", ports[0], identity="by-hand-0")
    hand = _by_hand(stack, directory / "i", certificate, site.node, "service:by-hand")
    wait_until(lambda: _marker(hand) == b"%d" % ports[0], "the steps by hand to work")
    took: dict[str, list[float]] = {"ours": [], "hand": []}
    for number in range(EVENTS):
        took["ours"].append(_change_ours(consul, site, ports[1], joins=number % 2 == 0))
        time.sleep(1.5 * PAUSE)
        took["hand"].append(_change_by_hand(consul, hand, ports, joins=number % 2 == 0))
        time.sleep(1.5 * PAUSE)
    ours = [1e3 * x for x in took["ours"]]
    yield Row(
        f"instance changed -> new workers, file driver, p50 of {EVENTS}", "ms", p50(ours),
        "the same steps by hand in one process", 1e3 * p50(took["hand"]), 1.15, spread(ours),
    )  # fmt: skip


def _change_ours(consul: ConsulAgent, site: Site, port: int, *, joins: bool) -> float:
    before = _generation(site.node)
    return _timed(
        lambda: _toggle(consul, site.service, port, joins=joins),
        lambda: _generation(site.node) not in (b"", before),
        10.0,
    )


def _change_by_hand(consul: ConsulAgent, nginx: Nginx, ports: Sequence[int], *, joins: bool) -> float:
    serve = " ".join(map(str, sorted(ports if joins else ports[:1]))).encode()
    return _timed(
        lambda: _toggle(consul, "by-hand", ports[1], joins=joins), lambda: _marker(nginx) == serve, 10.0
    )


def _toggle(consul: ConsulAgent, service: str, port: int, *, joins: bool) -> None:
    if joins:
        consul.register(service, port, identity=f"{service}-1")
    else:
        consul.deregister(f"{service}-1")


def _by_hand(stack: ExitStack, directory: Path, certificate: Certificate, node: Node, follow: str) -> Nginx:
    """An nginx that reads the same blacklist as the node's, and the process that feeds it by hand."""
    directory.mkdir()
    nginx = Nginx(directory, certificate)
    nginx.seed_tree("include agentd/current/*/*.conf;\n")
    shutil.copytree(node.nginx.tree / "current" / "blacklist", nginx.tree / "current" / "blacklist")
    conf = nginx.conf.parent
    (conf / "by_hand.conf").write_bytes(b"")
    (conf / "marker.conf").write_bytes(by_hand.marker("none"))
    nginx.configure(http="include by_hand.conf;", server="include marker.conf;")
    stack.callback(nginx.stop)
    nginx.start()
    argv = [sys.executable, "-m", "tests.bench.by_hand", f"{node.consul.address}:{node.consul.ports['http']}"]
    hand = ServerProcess([*argv, follow, nginx.binary, str(directory)], directory / "hand.log")
    stack.callback(hand.stop)
    hand.start(lambda: True)
    return nginx


def _glue(stack: ExitStack, directory: Path, certificate: Certificate, consul: ConsulAgent) -> Nginx:
    directory.mkdir()
    nginx = Nginx(directory, certificate)
    nginx.seed_tree()
    conf = nginx.conf.parent
    (conf / "ticket.key").write_bytes(os.urandom(48))
    (conf / "marker.conf").write_text('location = /marker { return 200 "none"; }\n')
    nginx.configure(http="ssl_session_ticket_key ticket.key;", server="include marker.conf;")
    stack.callback(nginx.stop)
    nginx.start()
    script = directory / "glue.sh"
    script.write_text(_GLUE.format(conf=conf, directory=directory, nginx=nginx.binary))
    script.chmod(0o755)
    watch = ConsulWatch(consul, "glue-refresh", script)
    stack.callback(watch.stop)
    watch.start()
    _until(lambda: _rotate(consul, nginx, "glue-refresh", seconds=1.0), "the glue to work")
    return nginx


def _until(rotate: Callable[[], object], what: str) -> None:
    """Rotate until one rotation is seen to work."""

    def works() -> bool:
        try:
            rotate()
        except TimeoutError:
            return False
        return True

    wait_until(works, what)


def _rotate(consul: ConsulAgent, nginx: Nginx, event: str, *, seconds: float = 10.0) -> float:
    key = base64.b64encode(os.urandom(48))
    return _timed(lambda: consul.fire(event, key), lambda: _marker(nginx) == key[:16], seconds)


def _rotate_ours(consul: ConsulAgent, node: Node) -> float:
    before = _generation(node)
    key = base64.b64encode(os.urandom(48))
    return _timed(
        lambda: consul.fire(TICKET_EVENT, key), lambda: _generation(node) not in (b"", before), 10.0
    )


def _generation(node: Node) -> bytes:
    with socket.socket(socket.AF_UNIX) as canary:
        canary.connect(str(node.nginx.canary))
        return _get(canary, "/generation").partition(b" ")[0]


def _marker(nginx: Nginx) -> bytes:
    with socket.create_connection((nginx.address, nginx.port), timeout=5) as connection:
        return _get(connection, "/marker")


def _get(connection: socket.socket, path: str) -> bytes:
    """The body; a bare client, so that asking costs next to nothing on either side."""
    connection.settimeout(5)
    connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    return b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")[2]


def _timed(fire: Callable[[], object], served: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    fire()
    wait_until(served, "the new configuration", seconds=seconds, pause=0.001)
    return time.monotonic() - began
