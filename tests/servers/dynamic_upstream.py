"""Load balancers that have nothing but the dynamic-upstream interface, with faults on demand.

Answers as the module ngx_dynamic_upstream does with nginx 1.22.1 (the table of the interface is kept in the
integration tests of the one in Lua), also where that is odd: each oddity is a switch of the balancer. Many
balancers share one thread, or one process: `python -m tests.servers.dynamic_upstream ADDRESS...`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from agentd.http import ExchangeError, UnixAddress, exchange
from tests.servers.nginx import Nginx

Fault = Literal["hang", "drip", "500", "truncated", "huge", "html", "close", "lie"]
_HANG = 60.0
_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+")
_IPV6 = re.compile(r"\[[0-9a-f:.]+\]")
_SERVER = re.compile(r"server ([0-9a-f.:\[\]]+)((?: [a-z_]+(?:=\w+)?)*);")
_NUMBERS = ("weight", "max_fails", "fail_timeout")
_DIGITS = 19  # more do not fit the module's integer


@dataclass
class Member:
    """A server of an upstream."""

    weight: int = 1
    down: bool = False
    max_fails: int = 1
    fail_timeout: int = 10


@dataclass
class FakeBalancer:
    """One load balancer.

    Attributes:
        address: where it listens; a port of 0 becomes the one that was free.
        zones: server -> its state, for each upstream.
        fault: what is wrong with it; `faulty_on` says with which requests.
        queries: every query string that came, in order.
        hangs: adding an IPv6 address, or a name that resolves, keeps the lock of the zone: that request is
            never answered, nor is any later one about the zone, and each of them takes one more worker.
        refuses: the status for a server that it cannot read.
        weightless: a weight of 0, and numbers that nginx would not start with, are taken.
        portless: a server without a port is taken, and listed so.
        loads: what it begins again with, and a number that changes, once nginx was reloaded.
        stuck: the zones whose lock is kept.
        hung: how many requests were never answered.
    """

    address: tuple[str, int]
    zones: dict[str, dict[str, Member]]
    fault: Fault | None = None
    faulty_on: Literal["all", "changes"] = "all"
    queries: list[str] = field(default_factory=list)
    hangs: bool = True
    refuses: int = 500
    weightless: bool = True
    portless: bool = True
    loads: Callable[[], tuple[object, dict[str, dict[str, Member]]] | None] = lambda: None
    stuck: set[str] = field(default_factory=set)
    hung: int = 0
    _loaded: object = None

    def down(self, zone: str) -> list[str]:
        """The servers that are down."""
        return [server for server, member in self.zones[zone].items() if member.down]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection; after a fault it is closed."""
        fault, head = None, ""
        try:
            while fault is None and "connection: close" not in head.lower():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path, _, query = head.split()[1].partition("?")
                self.queries.append(query)
                changes = "server=" in query
                fault = self.fault if changes or self.faulty_on == "all" else None
                status, body = self._answer(path, query, lie=fault == "lie")
                if status == 0:
                    self.hung += 1
                    fault = "hang"
                await _send(writer, fault, status, body)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    def _answer(self, path: str, query: str, *, lie: bool) -> tuple[int, str]:
        """Status and body; a status of 0 is none."""
        self._reload()
        asked = dict(part.partition("=")[::2] for part in query.split("&"))
        numbers = {name: text for name, text in asked.items() if name in _NUMBERS}
        if any(not one.isdigit() or len(one) > _DIGITS for one in numbers.values()):
            return 400, "bad request\n"
        if {"up", "down"} <= asked.keys() or {"add", "remove"} <= asked.keys():
            return 400, "bad request\n"
        if not self.weightless and int(numbers.get("weight", 1)) not in range(1, 65536):
            return 400, "bad request\n"
        name = asked.get("upstream", "")
        zone = self.zones.get(name)
        if zone is None or path != "/dynamic":
            return 404, "not found\n"
        if name in self.stuck:
            return 0, ""
        values = {one: int(text) % 2**31 for one, text in numbers.items()}
        status = 200 if lie else self._change(name, zone, asked, values)
        verbose = "verbose" in asked or bool(numbers) or bool({"up", "down"} & asked.keys())
        lines = (_line(server, member, verbose=verbose) for server, member in zone.items())
        return status, "".join(lines) if status == 200 else f"{status}\n"

    def _change(
        self, name: str, zone: dict[str, Member], asked: dict[str, str], numbers: dict[str, int]
    ) -> int:
        """Make the change that is asked for, if any. Returns the status, 0 if there is no answer."""
        server = asked.get("server", "")
        if "add" in asked:
            return self._add(name, zone, server, Member(down="down" in asked, **numbers))
        if "remove" not in asked and not numbers and not {"up", "down"} & asked.keys():
            return 200
        member = zone.get(server)
        if member is None or ("remove" in asked and len(zone) == 1):
            return 400
        if "remove" in asked:
            del zone[server]
            return 200
        for one, value in numbers.items():
            setattr(member, one, value)
        if {"up", "down"} & asked.keys():
            member.down = "down" in asked
        return 200

    def _add(self, name: str, zone: dict[str, Member], server: str, member: Member) -> int:
        if server in zone:
            return 400
        host, _, port = server.rpartition(":") if re.search(r":\d*$", server) else (server, "", "80")
        readable = _IPV4.fullmatch(host) or _IPV6.fullmatch(host) or host == "localhost"
        if not readable or not port.isdigit() or int(port) not in range(1, 65536):
            return self.refuses
        if ":" not in server.removeprefix(host) and not self.portless:
            return self.refuses
        if self.hangs and not _IPV4.fullmatch(host):
            self.stuck.add(name)
            return 0
        zone[server] = member
        return 200

    def _reload(self) -> None:
        """Begin again with the file, if nginx was reloaded since the last request."""
        found = self.loads()
        if found and found[0] != self._loaded:
            self._loaded, self.zones = found
            self.stuck.clear()


def _line(server: str, member: Member, *, verbose: bool) -> str:
    more = (
        f" weight={member.weight} max_fails={member.max_fails} fail_timeout={member.fail_timeout}"
        if verbose
        else ""
    )
    return f"server {server}{more}{' down' if member.down else ''};\n"


def read_by(
    nginx: Nginx, upstream: str, count: int = 1
) -> Callable[[], tuple[object, dict[str, dict[str, Member]]] | None]:
    """For `loads`: what this nginx, with so many workers, has read of an upstream.

    The generation that its canary names; None while old workers accept connections beside new ones.
    """
    canary = UnixAddress(nginx.agentd_section["canary"])

    def loads() -> tuple[object, dict[str, dict[str, Member]]] | None:
        if not nginx.process.running:
            return None
        workers = frozenset(nginx.workers())  # before the question, which an old one could still answer
        try:
            answer = exchange(canary, "/generation", timeout=5.0).body.split()[0].decode()
        except (ExchangeError, IndexError):
            return None
        file = nginx.tree / "generations" / f"{int(answer):06}" / "upstreams" / f"{upstream}.conf"
        if len(workers) != count or nginx.workers() != workers or not file.exists():
            return None
        return workers, {upstream: members(file)}

    return loads


def members(file: Path) -> dict[str, Member]:
    """The servers of an upstream's file, as the interface lists them: without backups."""
    found = {}
    for address, words in _SERVER.findall(file.read_text()):
        given = dict(word.partition("=")[::2] for word in words.split())
        if "backup" not in given:
            numbers = {
                name: int(given[name].removesuffix("s"))
                for name in ("weight", "max_fails", "fail_timeout")
                if name in given
            }
            found[address] = Member(down="down" in given, **numbers)
    return found


async def _send(writer: asyncio.StreamWriter, fault: Fault | None, status: int, body: str) -> None:
    if fault == "hang":
        await asyncio.sleep(_HANG)
    if fault == "close":
        return
    if fault == "500":
        status, body = 500, "<html>Internal Server Error</html>"
    if fault == "html":
        body = "<html><body>Welcome to nginx!</body></html>"
    if fault == "huge":
        body = "server 192.0.2.1:80;\n" * 500_000
    content = body.encode()
    head = f"HTTP/1.1 {status} Fake\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n"
    # Said, or the client might ask again just before it learns that the connection is closed.
    closing = "Connection: close\r\n" if fault else ""
    writer.write(f"{head}{closing}\r\n".encode())
    if fault == "truncated":
        content = content[: len(content) // 2]
    for byte in content if fault == "drip" else ():
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)
    writer.write(content if fault != "drip" else b"")
    await writer.drain()


class FakeBalancers:
    """Balancers that listen while entered."""

    def __init__(self, balancers: list[FakeBalancer]) -> None:
        self.balancers = balancers
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(60)
        return self

    async def _listen(self) -> None:
        for balancer in self.balancers:
            server = await asyncio.start_server(balancer.serve, *balancer.address)
            self._servers.append(server)
            balancer.address = server.sockets[0].getsockname()[:2]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _hang_up(self) -> None:
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forever(addresses: list[str]) -> None:
    """Serve the upstream `app` with four servers on each address, until killed."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        zones = {"app": {f"10.0.0.{at}:80": Member() for at in range(1, 5)}}
        await asyncio.start_server(FakeBalancer((host, int(port)), zones).serve, host, int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_forever(sys.argv[1:]))
