"""Five real nodes on loopback: Consul agent, nginx, agentd; and `consul watch` with a script and an nginx.

Both sides block addresses that events bring, on the same Consul agents, and are asked in the same way whether
one is blocked: by what the nginx of each node answers.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.bench.watch import ConsulWatch
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job, start_fleet
from tests.servers.followers import open_log
from tests.servers.nginx import Nginx
from tests.servers.tls import Certificate, make_certificate
from tests.servers.waiting import wait_until

NODES: Final = 5
FLEET: Final = "bench"
_LONGEST: Final = 30.0
_PAUSE: Final = 0.002  # seconds between two rounds of questions
_SCRIPT: Final = """\
#!/bin/bash
set -eu
cd {conf}
jq -r '.[]? | "\\(.ID) \\(.Payload | @base64d)"' > batch
[ -s batch ] || exit 0
while read -r id verb address; do
    echo "$id" >> ../applied
    echo "deny $address;" >> deny.conf
done < batch
{nginx} -p {directory} -c {conf}/nginx.conf -e {directory}/error.log -s reload
"""


class Glue:
    """`consul watch -type event` on one node, whose script adds `deny` lines and reloads an nginx of its own.

    Args:
        directory: its own.
        node: the node beside which it runs, on the same Consul agent.
        certificate: of its nginx.
        event: the name that it watches.
    """

    def __init__(self, directory: Path, node: Node, certificate: Certificate, event: str) -> None:
        directory.mkdir()
        self.nginx = Nginx(directory, certificate, address=node.consul.address)
        self.nginx.seed_tree()
        self._applied = directory / "applied"
        conf = self.nginx.conf.parent
        for file in (conf / "deny.conf", self._applied):
            file.touch()
        self.nginx.configure(http="include deny.conf;")
        script = directory / "block.sh"
        script.write_text(_SCRIPT.format(conf=conf, directory=directory, nginx=self.nginx.binary))
        script.chmod(0o755)
        self.watch = ConsulWatch(node.consul, event, script)

    def start(self) -> None:
        """Start nginx and the watch."""
        self.nginx.start()
        self.watch.start()

    def stop(self) -> None:
        """Stop both."""
        self.watch.stop()
        self.nginx.stop()

    def applied(self) -> list[str]:
        """The IDs of the events that its script was given, in order."""
        return self._applied.read_text().split()


class RealFleet:
    """The nodes, running and warm; `stack` stops them.

    Args:
        stack: what stops them.
        directory: empty.
        glue: the event that `consul watch` watches on each of them; None for no such side.
    """

    def __init__(self, stack: ExitStack, directory: Path, *, glue: str | None = None) -> None:
        certificate = make_certificate(directory)
        self.certificate = certificate
        self._numbers = iter(range(1, 1 << 24))
        self.nodes = start_fleet(stack, directory, certificate, NODES, main_job(kept=True), settings())
        self.glues: list[Glue] = []
        for node in self.nodes if glue else ():
            one = Glue(directory / f"g{node.name}", node, certificate, glue or "")
            stack.callback(one.stop)
            one.start()
            self.glues.append(one)
        sides = [BLACKLIST_EVENT, *([glue] if glue and glue != BLACKLIST_EVENT else [])]
        for name in sides:
            self._warm(name, [one.nginx for one in (self.glues if name == glue else self.nodes)])

    def _warm(self, name: str, servers: Sequence[Nginx]) -> None:
        """Fire until an event has come through on all nodes."""

        def works() -> bool:
            address = self.address()
            self.nodes[0].consul.fire(name, f"add {address}".encode())
            try:
                await_blocked(servers, address, seconds=3.0)
            except TimeoutError:
                return False
            return True

        wait_until(works, f"{name} to come through")

    def address(self) -> str:
        """One that nobody has blocked."""
        number = next(self._numbers)
        return f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    def publish(self, count: int = 1, *, through: int = 0) -> list[str]:
        """Publish that so many addresses are to be blocked, as `agentd publish` does; returns them."""
        from agentd.fleet.envelope import Draft  # noqa: PLC0415 (it is the bench that publishes, not the daemon)

        addresses = [self.address() for _ in range(count)]
        with open_log(self.nodes[through].consul, FLEET) as log:
            for address in addresses:
                draft = Draft(f"add {address}".encode(), issued=time.time(), publisher="bench")
                log.publish(BLACKLIST_EVENT, draft, keep="all")
        return addresses


def settings() -> dict[str, Any]:
    """What a node of the fleet has in its configuration beside the handlers."""
    return {"fleet": {"name": FLEET}}


def await_blocked(servers: Sequence[Nginx], address: str, *, seconds: float = _LONGEST) -> None:
    """Wait until each of them blocks the address. Raises TimeoutError."""
    left = list(servers)

    def all_blocked() -> bool:
        left[:] = [one for one in left if not is_blocked(one, address)]
        return not left

    wait_until(all_blocked, f"{address} to be blocked", seconds=seconds, pause=_PAUSE)


def is_blocked(nginx: Nginx, address: str) -> bool:
    """What nginx answers; a bare client, so that asking costs next to nothing on either side."""
    with socket.create_connection((nginx.address, nginx.port), timeout=5) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nX-Forwarded-For: {address}\r\n\r\n".encode())
        return b" 403 " in connection.recv(32)


def timed(act: Callable[[], str], servers: Sequence[Nginx]) -> float:
    """Milliseconds from the beginning of `act` until all servers block the address that it returns."""
    began = time.monotonic()
    await_blocked(servers, act())
    return 1e3 * (time.monotonic() - began)


def round_robin(fleet: RealFleet) -> Iterator[Node]:
    """The nodes whose Consul agent runs, in turn, without end."""
    while True:
        yield from (node for node in fleet.nodes if node.consul.process.running)
