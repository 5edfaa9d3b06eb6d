"""What HAProxy and nginx's run-time interface answer to `nginx_upstream`."""

from __future__ import annotations

from contextlib import suppress

from agentd.errors import HandlerError
from handlers.nginx_upstream.haproxy import HAProxyDriver
from handlers.nginx_upstream.interface import UpstreamInterface
from handlers.nginx_upstream.server import Server
from tests.fuzz.served import answer, served
from tests.fuzz.target import target

_SERVERS = (Server("192.0.2.1:80"), Server("192.0.2.2:80", weight=3, down=True))


@target(HandlerError)
def haproxy(data: bytes) -> None:
    """The answers on the run-time socket: two of them, to what is asked and to what is set."""
    driver = HAProxyDriver("unix:/run/haproxy.sock", "app", 5.0)
    first, _, second = data.partition(b"\n--\n")
    with served(first, second, first):
        driver.look(None)
        commands = driver._commands(_SERVERS, {})
        assert all(one.isascii() and one.isprintable() and ";" not in one for one in commands)
        driver.apply(_SERVERS, {"192.0.2.2:80": "drain"})


@target()
def upstream_interface(data: bytes) -> None:
    """The list of servers, whole answers and bodies of good ones."""
    for whole in (data, answer(data)):
        interface = UpstreamInterface("http://127.0.0.1:9522/upstreams", "api")
        with served(whole), suppress(HandlerError):
            servers = interface.list()
            assert all(Server.parse(one.text()) == one for one in servers.values())
        interface.close()
