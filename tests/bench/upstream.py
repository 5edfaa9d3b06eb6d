"""Instance registered or deregistered -> nginx routes accordingly: both drivers against the shell glue."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.bench.rows import Row, p50, spread
from tests.servers.backend import Backend
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.nginx import Nginx
from tests.servers.process import ServerProcess
from tests.servers.site import Site
from tests.servers.tls import Certificate, make_certificate
from tests.servers.waiting import wait_until

CYCLES = 20
PAUSE = (
    0.4  # three sides in turn: each is changed every 1.2 s, so that agentd's interval never holds a reload
)
_GLUE = """\
#!/bin/bash
set -eu
servers=$(jq -r '.[].Service | "server \\(.Address):\\(.Port);"')
printf 'upstream api {{ zone api 1m; %s }}\n' "$servers" > {conf}/api.new
mv {conf}/api.new {conf}/api.conf
{nginx} -p {directory} -c {conf}/nginx.conf -e {directory}/error.log -s reload
"""


@dataclass
class Side:
    """One way of following the service `name`, of which one instance stays, and one comes and goes."""

    name: str
    nginx: Nginx
    stays: Backend
    toggled: Backend = field(default_factory=Backend)
    took: list[float] = field(default_factory=list)


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Register and deregister an instance on each side in turn."""
    certificate = make_certificate(directory)
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    file = _ours(stack, directory / "f", certificate, consul, "file")
    run_time = _ours(stack, directory / "r", certificate, consul, "dynamic")
    glue = _glue(stack, directory / "g", certificate, consul)
    _answer(stack, directory / "b", certificate, [file, run_time, glue])
    for side in (file, run_time, glue):
        wait_until(partial(_serves, side), "the upstream to be served")
        time.sleep(1)
    for _ in range(CYCLES):
        for side in (file, run_time, glue):
            side.took.append(_joined(consul, side))
            time.sleep(PAUSE)
        for side in (file, run_time, glue):
            side.took.append(_left(consul, side))
            time.sleep(PAUSE)
    against = "consul watch -type=service + jq + nginx -s reload"
    for what, side, goal in (("file driver", file, 1.0), ("run-time driver", run_time, 0.5)):
        yield Row(
            f"instance (de)registered -> routed, {what}, p50 of {2 * CYCLES}", "ms", p50(side.took) * 1e3,
            against, p50(glue.took) * 1e3, goal, spread([1e3 * took for took in side.took]),
        )  # fmt: skip


# ---------------------------------------------------------------- the sides


def _ours(
    stack: ExitStack, directory: Path, certificate: Certificate, consul: ConsulAgent, driver: str
) -> Side:
    node = partial(Node, directory, certificate, number=1)
    options = {"sync": "2s"} if driver == "dynamic" else {}  # the default; a site's own is quicker
    site = Site(node, consul, driver=driver, **options)
    stack.callback(site.node.stop)
    del site.node.config["handlers"]["blacklist"]  # the glue has none either
    site.node.configure()
    stays = Backend()
    site.register(stays)
    site.node.start()
    return Side(site.service, site.node.nginx, stays)


def _glue(stack: ExitStack, directory: Path, certificate: Certificate, consul: ConsulAgent) -> Side:
    directory.mkdir()
    nginx = Nginx(directory, certificate)
    nginx.seed_tree()
    conf, name = nginx.conf.parent, "api-glue"
    (conf / "api.conf").write_text("upstream api { server 127.0.0.1:1 down; }\n")
    nginx.configure(http="include api.conf;", server="location = /via/api { proxy_pass http://api; }")
    stack.callback(nginx.stop)
    nginx.start()
    stays = Backend()
    _register(consul, name, stays)
    script = directory / "glue.sh"
    script.write_text(_GLUE.format(conf=conf, directory=directory, nginx=nginx.binary))
    script.chmod(0o755)
    argv = [shutil.which("consul") or "consul", "watch", "-type=service", f"-service={name}"]
    argv += ["-passingonly=true", str(script)]
    watch = ServerProcess(argv, directory / "watch.log", environment=consul.environment)
    stack.callback(watch.stop)
    watch.start(lambda: True)
    return Side(name, nginx, stays)


def _answer(stack: ExitStack, directory: Path, certificate: Certificate, sides: list[Side]) -> None:
    """One nginx answers for all instances: the port, in next to no time."""
    directory.mkdir()
    nginx = Nginx(directory, certificate)
    nginx.seed_tree()
    ports = [backend.port for side in sides for backend in (side.stays, side.toggled)]
    nginx.configure(
        http="".join(f'server {{ listen 127.0.0.1:{port}; return 200 "{port}"; }}\n' for port in ports)
    )
    stack.callback(nginx.stop)
    nginx.start()


# ---------------------------------------------------------------- one change


def _register(consul: ConsulAgent, name: str, backend: Backend) -> None:
    consul.register(name, backend.port, identity=f"{name}-{backend.port}")


def _joined(consul: ConsulAgent, side: Side) -> float:
    """Seconds until the instance just registered answers."""
    return _timed(
        lambda: _register(consul, side.name, side.toggled),
        lambda: _who(side.nginx) == str(side.toggled.port),
    )


def _left(consul: ConsulAgent, side: Side) -> float:
    """Seconds until of two requests in a row none goes to the instance just deregistered."""
    return _timed(
        lambda: consul.deregister(f"{side.name}-{side.toggled.port}"),
        lambda: str(side.toggled.port) not in (_who(side.nginx), _who(side.nginx)),
    )


def _serves(side: Side) -> bool:
    return _who(side.nginx) == str(side.stays.port)


def _timed(change: Callable[[], object], routed: Callable[[], bool]) -> float:
    began = time.monotonic()
    change()
    wait_until(routed, "the change to be routed", pause=0.001)
    return time.monotonic() - began


def _who(nginx: Nginx) -> str:
    """Who answers; a bare client, so that asking costs next to nothing."""
    with socket.create_connection((nginx.address, nginx.port), timeout=5) as connection:
        connection.sendall(b"GET /via/api HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")[2].decode()
