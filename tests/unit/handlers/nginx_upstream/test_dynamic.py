"""The driver for the dynamic-upstream interface: which calls it makes, their order, and its last look."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import PermanentError, TemporaryError
from handlers.nginx_upstream.dynamic import DynamicDriver
from handlers.nginx_upstream.interface import Desired, UpstreamInterface
from handlers.nginx_upstream.server import Server


class Zone(UpstreamInterface):
    """An upstream in memory that keeps the interface's rules.

    Attributes:
        calls: the changes asked for.
        deaf: changes are answered and not made.
    """

    def __init__(self, *servers: Server) -> None:
        super().__init__("unix:/nowhere:/", "api")
        self.servers = {server.address: server for server in servers}
        self.calls: list[str] = []
        self.deaf = False

    def list(self) -> dict[str, Server]:
        """What there is."""
        return dict(self.servers)

    def _told(self, call: str, server: Server) -> bool:
        self.calls.append(f"{call} {server.address}")
        return not self.deaf

    def add(self, server: Server) -> None:
        """A duplicate is refused."""
        if self._told("add", server):
            if server.address in self.servers:
                raise PermanentError("duplicate")
            if server.weight < 1:
                raise PermanentError("a weight of 0 is not sent")
            self.servers[server.address] = server

    def remove(self, address: str) -> None:
        """The last one is refused."""
        if self._told("remove", self.servers[address]):
            if len(self.servers) == 1:
                raise PermanentError("last")
            del self.servers[address]

    def set(self, server: Server) -> None:
        """Everything but down."""
        if self._told("set", server):
            self.servers[server.address] = replace(server, down=self.servers[server.address].down)

    def update(self, address: str, desired: Desired) -> None:
        """Take down or put up."""
        if self._told("down" if desired.down else "up", self.servers[address]):
            self.servers[address] = replace(self.servers[address], down=bool(desired.down))


def driven(zone: Zone, *servers: Server) -> int:
    """Look, then apply; how many changes that took."""
    driver = DynamicDriver(zone)
    driver.look(None)
    return len(driver.apply(servers, {}).changes)


def test_nothing_is_called_when_nothing_differs() -> None:
    """One list was enough."""
    zone = Zone(Server("1.1.1.1:1"), Server("1.1.1.2:1", weight=5))

    assert driven(zone, Server("1.1.1.2:1", weight=5), Server("1.1.1.1:1", max_conns=9)) == 0
    assert zone.calls == []


def test_new_servers_come_before_old_ones_go() -> None:
    """The last server cannot be removed, and a gap would be an error."""
    zone = Zone(Server("127.0.0.1:1", down=True))

    driven(zone, Server("1.1.1.1:1"), Server("1.1.1.2:1"))

    assert zone.calls == ["add 1.1.1.1:1", "add 1.1.1.2:1", "remove 127.0.0.1:1"]


def test_what_differs_is_set() -> None:
    """Weights, limits, down and up."""
    zone = Zone(Server("1.1.1.1:1"), Server("1.1.1.2:1", down=True), Server("1.1.1.3:1"))

    driven(
        zone,
        Server("1.1.1.1:1", weight=2, fail_timeout=3),
        Server("1.1.1.2:1"),
        Server("1.1.1.3:1", down=True),
    )

    assert zone.calls == ["down 1.1.1.3:1", "set 1.1.1.1:1", "up 1.1.1.2:1"]


def test_backup_servers_are_left_to_the_file() -> None:
    """The interface does not list them."""
    zone = Zone(Server("1.1.1.1:1"))

    assert driven(zone, Server("1.1.1.1:1"), Server("1.1.1.2:1", backup=True)) == 0


V6 = Server("[2001:db8::1]:80")


def test_an_ipv6_address_is_left_to_a_reload() -> None:
    """The others are set, and once it is there it is changed like them."""
    zone = Zone(Server("1.1.1.1:1"), Server("1.1.1.2:1"))
    driver = DynamicDriver(zone)

    driver.look(None)
    applied = driver.apply([Server("1.1.1.1:1", weight=2), V6], {})
    zone.servers[V6.address] = V6
    driver.look(None)
    later = driver.apply([Server("1.1.1.1:1", weight=2), replace(V6, down=True)], {})

    assert zone.calls == ["set 1.1.1.1:1", "remove 1.1.1.2:1", f"down {V6.address}"]
    assert list(applied.left) == [V6.address]
    assert later.left == {}


def test_the_last_servers_stay_until_their_successors_serve() -> None:
    """All that there should be waits for a reload."""
    zone = Zone(Server("127.0.0.1:1", down=True))
    driver = DynamicDriver(zone)
    driver.look(None)

    applied = driver.apply([V6], {})

    assert zone.calls == []
    assert applied.left.keys() == {V6.address, "127.0.0.1:1"}


def test_lua_takes_an_ipv6_address() -> None:
    """Only the module hangs."""
    zone = Zone(Server("1.1.1.1:1"))
    driver = DynamicDriver(zone, module=False)
    driver.look(None)

    applied = driver.apply([V6], {})

    assert zone.calls == [f"add {V6.address}", "remove 1.1.1.1:1"]
    assert applied.left == {}


@pytest.mark.parametrize("method", ["ip_hash", "hash", "random"])
def test_some_methods_leave_everything_to_a_reload(method: str) -> None:
    """Workers would crash, or send to servers that were removed; with the reason."""
    zone = Zone(Server("1.1.1.1:1", weight=5), Server("1.1.1.2:1"), Server("1.1.1.4:1"))
    driver = DynamicDriver(zone)
    driver.look(None)

    applied = driver.apply([Server("1.1.1.1:1"), Server("1.1.1.3:1"), Server("1.1.1.4:1")], {}, method)

    assert zone.calls == []
    assert applied.left.keys() == {"1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"}
    assert {f"balanced by {method}" in reason for reason in applied.left.values()} == {True}


@pytest.mark.parametrize("odd", ["web.example:80", "unix:/run/app.sock", "9.9.9.9"])
def test_an_odd_server_does_not_stop_the_rest(odd: str) -> None:
    """Somebody added it by hand: one that cannot be sent is named, one without a port is removed."""
    zone = Zone(Server(odd), Server("1.1.1.1:1"))
    zone.remove = partial(UpstreamInterface.remove, zone)  # type: ignore[method-assign]  # with its own check
    zone._change = lambda *_: zone.servers.pop(odd)  # type: ignore[method-assign,assignment]
    if ":" in odd:
        zone._change = partial(UpstreamInterface._change, zone)  # type: ignore[method-assign]

    with pytest.raises(PermanentError, match="remove it by hand") if ":" in odd else nullcontext():
        driven(zone, Server("1.1.1.1:1", weight=3), Server("1.1.1.2:1"))

    assert zone.servers.keys() - {odd} == {"1.1.1.1:1", "1.1.1.2:1"}
    assert zone.servers["1.1.1.1:1"].weight == 3
    assert (odd in zone.servers) == (":" in odd)


def test_a_change_that_is_refused_does_not_stop_the_rest() -> None:
    """It is named, with the reason."""
    zone = Zone(Server("1.1.1.1:1"))

    with pytest.raises(PermanentError, match=r"1\.1\.1\.9:1: a weight of 0 is not sent"):
        driven(zone, Server("1.1.1.1:1", weight=3), Server("1.1.1.9:1", weight=0))

    assert zone.servers["1.1.1.1:1"].weight == 3


def test_a_change_that_was_not_made_is_found_out() -> None:
    """An answer of 200 is no proof."""
    zone = Zone(Server("1.1.1.1:1"))
    zone.deaf = True

    with pytest.raises(
        TemporaryError, match=r"1 servers do not have the values that were set, such as 1\.1\.1\.2:1"
    ):
        driven(zone, Server("1.1.1.1:1"), Server("1.1.1.2:1"))


servers = st.builds(
    Server,
    st.sampled_from([f"1.1.1.{n}:80" for n in range(6)]),
    weight=st.integers(1, 3),
    max_fails=st.integers(0, 2),
    fail_timeout=st.integers(1, 2),
    down=st.booleans(),
)
sets = st.lists(servers, min_size=1, unique_by=lambda server: server.address)


@given(sets, sets)
def test_any_set_becomes_any_other(before: list[Server], after: list[Server]) -> None:
    """Without a call that the interface refuses, and then with nothing left to do."""
    zone = Zone(*before)
    servers = [
        Server(one.address, one.weight, one.max_fails, one.fail_timeout, down=one.down) for one in after
    ]

    driven(zone, *servers)

    assert zone.servers == {server.address: server for server in after}
    assert driven(zone, *servers) == 0
