"""Sets servers through the HTTP interface of ngx_dynamic_upstream, whoever serves it.

The interface lists no backup servers: those are in the file alone, and take effect with the next reload.
New servers are added before old ones are removed, since the last one cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

from agentd.handler import TemporaryError
from handlers.nginx_upstream.drivers import UP, Running
from handlers.nginx_upstream.drivers.interface import Peer, UpstreamInterface
from handlers.nginx_upstream.servers import Server

_Call = Callable[[], Mapping[str, Peer]]


class DynamicDriver:
    """The driver of one upstream."""

    def __init__(self, interface: UpstreamInterface) -> None:
        self._interface = interface
        self._peers: Mapping[str, Peer] = {}

    def look(self, known: Collection[str] | None) -> Running:  # noqa: ARG002 (every server listed is one)
        """List."""
        self._peers = self._interface.list()
        return Running({address: "down" if peer.down else UP for address, peer in self._peers.items()})

    def apply(self, servers: Sequence[Server], down: Mapping[str, str]) -> int:  # noqa: ARG002 (a server knows)
        """Compare, call, and list again."""
        wanted = {server.address: _peer(server) for server in servers if not server.backup}
        calls = list(self._calls(wanted))
        for call in calls:
            call()
        if calls:
            self._peers = self._interface.list()
            if self._peers != wanted:
                raise TemporaryError(f"{self._interface.url}: {_difference(self._peers, wanted)}")
        return len(calls)

    def _calls(self, wanted: Mapping[str, Peer]) -> Iterator[_Call]:
        """What to call, in an order in which no server is missed and none serves that must not."""
        interface, peers = self._interface, self._peers
        both = [(peers[address], peer) for address, peer in wanted.items() if address in peers]
        yield from (partial(interface.down, new.address) for old, new in both if new.down and not old.down)
        yield from (partial(interface.add, peer) for address, peer in wanted.items() if address not in peers)
        yield from (partial(interface.set, new) for old, new in both if _numbers(old) != _numbers(new))
        yield from (partial(interface.up, new.address) for old, new in both if old.down and not new.down)
        yield from (partial(interface.remove, address) for address in peers if address not in wanted)


def _peer(server: Server) -> Peer:
    return Peer(server.address, server.weight, server.max_fails, server.fail_timeout, server.down)


def _numbers(peer: Peer) -> tuple[int, int, int]:
    return peer.weight, peer.max_fails, peer.fail_timeout


def _difference(seen: Mapping[str, Peer], wanted: Mapping[str, Peer]) -> str:
    """What the interface has done otherwise."""
    wrong = sorted(
        address for address in seen.keys() | wanted.keys() if seen.get(address) != wanted.get(address)
    )
    return f"{len(wrong)} servers are not as they were set, such as {wrong[0]}"
