"""A load balancer in memory: an `Interface` with faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agentd.errors import BalancerError
from agentd.fleet.dynamic_upstream import Balancer, Peer, Wish

SERVERS = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")


@dataclass
class MemoryInterface:
    """One balancer with three servers.

    Attributes:
        fails: methods (look, change) that raise.
        deaf: it agrees to every change and makes none.
        late: it makes the change, and then fails to say so.
        on_change: called at each change.
        log: what was asked for.
    """

    name: str
    servers: dict[str, Peer] = field(default_factory=lambda: {name: Peer(name) for name in SERVERS})
    fails: set[str] = field(default_factory=set)
    deaf: bool = False
    late: bool = False
    on_change: Callable[[], object] | None = None
    log: list[tuple[str, Wish]] = field(default_factory=list)

    @property
    def balancer(self) -> Balancer:
        """Named after the node."""
        return Balancer(self.name, "192.0.2.1", 80)

    def peers(self) -> tuple[Peer, ...]:
        """List."""
        if "look" in self.fails:
            raise BalancerError("no whole answer within 3 s")
        return tuple(self.servers.values())

    def change(self, server: str, wish: Wish) -> None:
        """Change."""
        self.log.append((server, wish))
        if self.on_change:
            self.on_change()
        if "change" in self.fails:
            raise BalancerError("it answered 500")
        if not self.deaf:
            before = self.servers[server]
            self.servers[server] = replace(
                before,
                down=before.down if wish.down is None else wish.down,
                weight=before.weight if wish.weight is None else wish.weight,
            )
        if self.late:
            self.late = False
            raise BalancerError("no whole answer within 3 s")

    def down(self) -> list[str]:
        """The servers that are down."""
        return [name for name, peer in self.servers.items() if peer.down]
