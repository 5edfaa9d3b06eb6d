"""A load balancer in memory, with faults."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from agentd.errors import TemporaryError
from handlers.nginx_upstream.commands.balancers import Balancer
from handlers.nginx_upstream.interface import Desired, UpstreamInterface
from handlers.nginx_upstream.server import Server

SERVERS = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")


@dataclass
class MemoryInterface(UpstreamInterface):
    """One load balancer with three servers.

    Attributes:
        fails: methods (look, change) that raise.
        deaf: it agrees to every change and makes none.
        late: it makes the change, and then fails to say so.
        on_change: called at each change.
        log: what was asked for.
        open: whether a connection is open.
    """

    name: str
    servers: dict[str, Server] = field(default_factory=lambda: {name: Server(name) for name in SERVERS})
    fails: set[str] = field(default_factory=set)
    deaf: bool = False
    late: bool = False
    on_change: Callable[[], object] | None = None
    log: list[tuple[str, Desired]] = field(default_factory=list)
    open: bool = False

    def list(self) -> dict[str, Server]:
        """List."""
        if "look" in self.fails:
            raise TemporaryError("timed out after 3 s")
        self.open = True
        return dict(self.servers)

    def close(self) -> None:
        """Hang up."""
        self.open = False

    def update(self, address: str, desired: Desired) -> None:
        """Change."""
        self.log.append((address, desired))
        if self.on_change:
            self.on_change()
        if "change" in self.fails:
            raise TemporaryError("answered with status 500")
        if not self.deaf:
            before = self.servers[address]
            self.servers[address] = replace(
                before,
                down=before.down if desired.down is None else desired.down,
                weight=before.weight if desired.weight is None else desired.weight,
            )
        if self.late:
            self.late = False
            raise TemporaryError("timed out after 3 s")

    def down(self) -> builtins.list[str]:
        """The servers that are down."""
        return [name for name, server in self.servers.items() if server.down]


def interfaces(them: Iterable[MemoryInterface]) -> dict[Balancer, MemoryInterface]:
    """By load balancer, named after the node."""
    return {Balancer(one.name, "192.0.2.1", 80): one for one in them}
