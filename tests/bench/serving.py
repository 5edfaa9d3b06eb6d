"""Event fired -> new configuration served: agentd, check and proof included, against the shell glue."""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench.rows import Row, p50, spread
from tests.bench.watch import ConsulWatch
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import TICKET_EVENT, Node, main_job
from tests.servers.nginx import Nginx
from tests.servers.tls import Certificate, make_certificate
from tests.servers.waiting import wait_until

EVENTS = 20
PAUSE = 0.6  # each side is fired at every 1.2 s, so that agentd's interval of 1 s never holds a reload
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
    """Rotate a key on each side in turn."""
    certificate = make_certificate(directory)
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    node = Node(directory / "n", certificate, number=1, consul=consul, handlers=main_job(promote_after="0s"))
    stack.callback(node.stop)
    node.start()
    glue = _glue(stack, directory / "g", certificate, consul)
    took: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(EVENTS):
        took["ours"].append(_rotate_ours(consul, node))
        time.sleep(PAUSE)
        took["theirs"].append(_rotate_theirs(consul, glue))
        time.sleep(PAUSE)
    yield Row(
        f"event fired -> new configuration served, p50 of {EVENTS}", "ms", p50(took["ours"]) * 1e3,
        "consul watch + jq + base64 x2 + nginx -s reload", p50(took["theirs"]) * 1e3, 1.0,
        spread([1e3 * x for x in took["ours"]]),
    )  # fmt: skip


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
    wait_until(lambda: _try_theirs(consul, nginx), "the glue to work")
    return nginx


def _try_theirs(consul: ConsulAgent, nginx: Nginx) -> bool:
    try:
        _rotate_theirs(consul, nginx, seconds=1.0)
    except TimeoutError:
        return False
    return True


def _rotate_theirs(consul: ConsulAgent, nginx: Nginx, *, seconds: float = 10.0) -> float:
    key = base64.b64encode(os.urandom(48))
    return _timed(lambda: consul.fire("glue-refresh", key), lambda: _marker(nginx) == key[:16], seconds)


def _rotate_ours(consul: ConsulAgent, node: Node) -> float:
    before = _generation(node)
    key = base64.b64encode(os.urandom(48))
    return _timed(
        lambda: consul.fire(TICKET_EVENT, key), lambda: _generation(node) not in (b"", before), 10.0
    )


def _generation(node: Node) -> bytes:
    with socket.socket(socket.AF_UNIX) as canary:
        canary.connect(str(node.nginx.canary))
        return _get(canary, "/generation")


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
