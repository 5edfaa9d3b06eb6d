"""Load balancers that have nothing but the dynamic-upstream interface, with faults on demand.

Answers as ngx_dynamic_upstream does (the table of the interface is kept in the integration tests of the real
one). Many balancers share one thread, or one process: `python -m tests.servers.dynamic_upstream ADDRESS...`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Fault = Literal["hang", "drip", "500", "truncated", "huge", "html", "close", "lie"]
_HANG = 60.0


@dataclass
class Member:
    """A server of an upstream."""

    weight: int = 1
    down: bool = False


@dataclass
class FakeBalancer:
    """One load balancer.

    Attributes:
        address: where it listens; a port of 0 becomes the one that was free.
        zones: server -> its state, for each upstream.
        fault: what is wrong with it; `faulty_on` says with which requests.
        queries: every query string that came, in order.
    """

    address: tuple[str, int]
    zones: dict[str, dict[str, Member]]
    fault: Fault | None = None
    faulty_on: Literal["all", "changes"] = "all"
    queries: list[str] = field(default_factory=list)

    def down(self, zone: str) -> list[str]:
        """The servers that are down."""
        return [server for server, member in self.zones[zone].items() if member.down]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        try:
            target = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
            path, _, query = target.partition("?")
            self.queries.append(query)
            changes = "server=" in query
            fault = self.fault if changes or self.faulty_on == "all" else None
            status, body = self._answer(path, query, lie=fault == "lie")
            await _send(writer, fault, status, body)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    def _answer(self, path: str, query: str, *, lie: bool) -> tuple[int, str]:
        asked = dict(part.partition("=")[::2] for part in query.split("&"))
        zone = self.zones.get(asked.get("upstream", ""))
        if zone is None or path != "/dynamic":
            return 404, "not found\n"
        if "server" in asked:
            member = zone.get(asked["server"])
            weight = asked.get("weight", "1")
            if member is None or ("up" in asked and "down" in asked) or not weight.isdigit():
                return 400, "bad request\n"
            if not lie:
                member.down = member.down if not {"up", "down"} & set(asked) else "down" in asked
                member.weight = int(asked.get("weight", member.weight))
        verbose = "verbose" in asked or "server" in asked
        return 200, "".join(_line(server, member, verbose=verbose) for server, member in zone.items())


def _line(server: str, member: Member, *, verbose: bool) -> str:
    more = f" weight={member.weight} max_fails=1 fail_timeout=10" if verbose else ""
    return f"server {server}{more}{' down' if member.down else ''};\n"


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
    head = f"HTTP/1.1 {status} Fake\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode())
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
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    async def _listen(self) -> None:
        for balancer in self.balancers:
            server = await asyncio.start_server(balancer.serve, *balancer.address)
            self._servers.append(server)
            balancer.address = server.sockets[0].getsockname()[:2]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
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
