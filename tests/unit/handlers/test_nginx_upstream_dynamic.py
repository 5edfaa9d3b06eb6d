"""The driver of the HTTP interface: which calls it makes, in which order, and whether it looks afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import PermanentError, TemporaryError
from handlers.nginx_upstream.drivers.dynamic import DynamicDriver
from handlers.nginx_upstream.drivers.interface import Peer, UpstreamInterface
from handlers.nginx_upstream.servers import Server


class Zone(UpstreamInterface):
    """An upstream in memory that keeps the interface's rules.

    Attributes:
        calls: the changes asked for.
        deaf: changes are answered and not made.
    """

    def __init__(self, *peers: Peer) -> None:
        super().__init__("unix:/nowhere:/", "api")
        self.peers = {peer.address: peer for peer in peers}
        self.calls: list[str] = []
        self.deaf = False

    def list(self) -> dict[str, Peer]:
        """What there is."""
        return dict(self.peers)

    def _told(self, call: str, peer: Peer) -> bool:
        self.calls.append(f"{call} {peer.address}")
        return not self.deaf

    def add(self, peer: Peer) -> dict[str, Peer]:
        """A duplicate is refused."""
        if self._told("add", peer):
            if peer.address in self.peers:
                raise PermanentError("duplicate")
            self.peers[peer.address] = peer
        return self.list()

    def remove(self, address: str) -> dict[str, Peer]:
        """The last one is refused."""
        if self._told("remove", self.peers[address]):
            if len(self.peers) == 1:
                raise PermanentError("last")
            del self.peers[address]
        return self.list()

    def set(self, peer: Peer) -> dict[str, Peer]:
        """Everything but down."""
        if self._told("set", peer):
            self.peers[peer.address] = replace(peer, down=self.peers[peer.address].down)
        return self.list()

    def down(self, address: str) -> dict[str, Peer]:
        """Take out."""
        if self._told("down", self.peers[address]):
            self.peers[address] = replace(self.peers[address], down=True)
        return self.list()

    def up(self, address: str) -> dict[str, Peer]:
        """Put back."""
        if self._told("up", self.peers[address]):
            self.peers[address] = replace(self.peers[address], down=False)
        return self.list()


def driven(zone: Zone, *servers: Server) -> int:
    """Look, then apply."""
    driver = DynamicDriver(zone)
    driver.look(None)
    return driver.apply(servers, {})


def test_nothing_is_called_when_nothing_differs() -> None:
    """One list was enough."""
    zone = Zone(Peer("1.1.1.1:1"), Peer("1.1.1.2:1", weight=5))

    assert driven(zone, Server("1.1.1.2:1", weight=5), Server("1.1.1.1:1", max_conns=9)) == 0
    assert zone.calls == []


def test_new_servers_come_before_old_ones_go() -> None:
    """The last server cannot be removed, and a gap would be an error."""
    zone = Zone(Peer("127.0.0.1:1", down=True))

    driven(zone, Server("1.1.1.1:1"), Server("1.1.1.2:1"))

    assert zone.calls == ["add 1.1.1.1:1", "add 1.1.1.2:1", "remove 127.0.0.1:1"]


def test_what_differs_is_set() -> None:
    """Weights, limits, down and up."""
    zone = Zone(Peer("1.1.1.1:1"), Peer("1.1.1.2:1", down=True), Peer("1.1.1.3:1"))

    driven(
        zone,
        Server("1.1.1.1:1", weight=2, fail_timeout=3),
        Server("1.1.1.2:1"),
        Server("1.1.1.3:1", down=True),
    )

    assert zone.calls == ["down 1.1.1.3:1", "set 1.1.1.1:1", "up 1.1.1.2:1"]


def test_backup_servers_are_left_to_the_file() -> None:
    """The interface does not list them."""
    zone = Zone(Peer("1.1.1.1:1"))

    assert driven(zone, Server("1.1.1.1:1"), Server("1.1.1.2:1", backup=True)) == 0


def test_a_change_that_was_not_made_is_found_out() -> None:
    """An answer of 200 is no proof."""
    zone = Zone(Peer("1.1.1.1:1"))
    zone.deaf = True

    with pytest.raises(TemporaryError, match=r"1 servers are not as they were set, such as 1\.1\.1\.2:1"):
        driven(zone, Server("1.1.1.1:1"), Server("1.1.1.2:1"))


peers = st.builds(
    Peer,
    st.sampled_from([f"1.1.1.{n}:80" for n in range(6)]),
    weight=st.integers(1, 3),
    max_fails=st.integers(0, 2),
    fail_timeout=st.integers(1, 2),
    down=st.booleans(),
)
sets = st.lists(peers, min_size=1, unique_by=lambda peer: peer.address)


@given(sets, sets)
def test_any_set_becomes_any_other(before: list[Peer], after: list[Peer]) -> None:
    """Without a call that the interface refuses, and then with nothing left to do."""
    zone = Zone(*before)
    servers = [
        Server(one.address, one.weight, one.max_fails, one.fail_timeout, down=one.down) for one in after
    ]

    driven(zone, *servers)

    assert zone.peers == {peer.address: peer for peer in after}
    assert driven(zone, *servers) == 0
