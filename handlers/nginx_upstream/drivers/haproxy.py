"""Sets the servers of a HAProxy backend on its run-time socket.

The backend has slots: servers in its configuration, such as `server-template slot 20 127.0.0.1:1 disabled`.
A server takes a free slot (one in maintenance that nothing known is in), gets its address and weight there,
and is made ready last; whoever goes leaves its slot in maintenance. Where slots run out, one is added.
`backup` stands in HAProxy's configuration alone, so backup servers are not set. HAProxy forgets all of it
when it starts anew; its pid tells.

Source: https://docs.haproxy.org/2.6/management.html#9.3
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentd.handler import PermanentError, TemporaryError
from handlers.nginx_upstream.drivers import UP, Running
from handlers.nginx_upstream.drivers.admin_socket import RuntimeSocket
from handlers.nginx_upstream.render import PLACEHOLDER
from handlers.nginx_upstream.servers import Server, join_address

_MAINT: Final = 0x01
_DRAIN: Final = 0x08
_BATCH: Final = 50  # commands a connection; HAProxy reads a line of 16 KiB at most
_COLUMNS: Final = ("be_name", "srv_name", "srv_addr", "srv_port", "srv_admin_state", "srv_uweight")
_GOOD: Final = ("New server registered", "IP changed from", "no need to change")


@dataclass(frozen=True, slots=True)
class Slot:
    """One server of the backend; `address` is "" where it has none yet, `state` is in HAProxy's words."""

    name: str
    address: str
    weight: int
    state: str


class HAProxyDriver:
    """The driver of one backend.

    Args:
        interface: "unix:/run/haproxy/admin.sock" or "tcp:127.0.0.1:9999".
        backend: its name.
        timeout: seconds for a call.
    """

    def __init__(self, interface: str, backend: str, timeout: float) -> None:
        self._socket = RuntimeSocket(interface, timeout)
        self._backend = backend
        self._slots: dict[str, Slot] = {}
        self._used: set[str] = set()

    def look(self, known: Collection[str] | None) -> Running:
        """List the slots."""
        answer = self._socket.ask(f"show info;show servers state {self._backend}")
        slots = list(_slots(answer, self._backend))
        if not slots:
            raise PermanentError(
                f"{self._socket}: HAProxy has no backend {self._backend}, or it has no servers"
            )
        self._slots = {slot.name: slot for slot in slots}
        self._used = {slot.name for slot in slots if _in_use(slot, known, slots)}
        states = {slot.address: _operators(slot) for slot in slots if slot.name in self._used}
        return Running(states, epoch=_pid(answer))

    def apply(self, servers: Sequence[Server], down: Mapping[str, str]) -> int:
        """Find each server a slot, set what differs, and list again."""
        wanted = [server for server in servers if not server.backup and server.address != PLACEHOLDER.address]
        placed, commands = self._placed(wanted)
        for slot, server in placed:
            commands += _changes(self._backend, slot, server, _state(server, down))
        taken = {slot.name for slot, _ in placed}
        commands += [
            f"set server {self._backend}/{name} state maint"
            for name in sorted(self._used - taken)
            if self._slots[name].state != "maint"
        ]
        self._send(commands)
        if commands:
            self._verify(wanted, down)
        return len(commands)

    def _placed(self, wanted: Sequence[Server]) -> tuple[list[tuple[Slot, Server]], list[str]]:
        """Each server with its slot, and the commands that add slots where they ran out."""
        homes = {slot.address: slot for slot in self._slots.values() if slot.name in self._used}
        free = [slot for slot in self._slots.values() if slot.name not in self._used]
        placed: list[tuple[Slot, Server]] = []
        commands: list[str] = []
        for server in wanted:
            slot = homes.get(server.address) or (free.pop(0) if free else None)
            if slot is None:
                slot = Slot(self._new_name(len(commands)), server.address, server.weight, "maint")
                commands.append(
                    f"add server {self._backend}/{slot.name} {server.address} weight {server.weight}"
                )
            placed.append((slot, server))
        return placed, commands

    def _new_name(self, skip: int) -> str:
        names = (f"agentd{number}" for number in range(1, len(self._slots) + skip + 2))
        return [name for name in names if name not in self._slots][skip]

    def _send(self, commands: Sequence[str]) -> None:
        for start in range(0, len(commands), _BATCH):
            answer = self._socket.ask(";".join(commands[start : start + _BATCH]))
            wrong = [line for line in answer.splitlines() if line.strip() and not line.startswith(_GOOD)]
            if wrong:
                raise PermanentError(f"{self._socket}: HAProxy says: {wrong[0][:160]}")

    def _verify(self, wanted: Sequence[Server], down: Mapping[str, str]) -> None:
        expected = {server.address: (server.weight, _state(server, down)) for server in wanted}
        self.look(expected)
        seen = {
            slot.address: (slot.weight, slot.state)
            for slot in self._slots.values()
            if slot.name in self._used
        }
        if seen != expected:
            wrong = sorted(one for one in seen.keys() | expected if seen.get(one) != expected.get(one))
            raise TemporaryError(
                f"{self._socket}: {len(wrong)} servers are not as they were set, such as {wrong[0]}"
            )


def _in_use(slot: Slot, known: Collection[str] | None, slots: Sequence[Slot]) -> bool:
    """Whether a server of ours is in it; maintenance alone does not say, since operators use it, too."""
    if slot.state != "maint":
        return True
    if known is not None:
        return slot.address in known
    alone = sum(other.address == slot.address for other in slots) == 1
    return alone and slot.address not in ("", PLACEHOLDER.address)


def _operators(slot: Slot) -> str:
    return UP if slot.state == "ready" else slot.state


def _state(server: Server, down: Mapping[str, str]) -> str:
    if not server.down:
        return "ready"
    return "drain" if down.get(server.address) == "drain" else "maint"


def _changes(backend: str, slot: Slot, server: Server, state: str) -> Iterator[str]:
    """The commands that make a slot what it is to be; ready comes last."""
    start = f"set server {backend}/{slot.name}"
    if slot.address != server.address:
        host, _, port = server.address.rpartition(":")
        yield f"{start} addr {host.strip('[]')} port {port}"
    if slot.weight != server.weight:
        yield f"{start} weight {server.weight}"
    if slot.state != state:
        yield f"{start} state {state}"


def _slots(answer: str, backend: str) -> Iterator[Slot]:
    """The rows of `show servers state`; the line of column names says where each column is."""
    columns: list[str] = []
    for line in answer.splitlines():
        words = line.removeprefix("# ").split(" ")
        if line.startswith("# be_id"):
            columns = words
        elif columns and len(words) == len(columns):
            row = dict(zip(columns, words, strict=True))
            if row["be_name"] == backend:
                yield _slot(row)


def _slot(row: Mapping[str, str]) -> Slot:
    try:
        name, host, port, admin, weight = (row[column] for column in _COLUMNS[1:])
        flags = int(admin)
        state = "maint" if flags & _MAINT else "drain" if flags & _DRAIN else "ready"
        return Slot(name, _address(host, int(port)), int(weight), state)
    except (KeyError, ValueError) as error:
        raise TemporaryError("HAProxy's list of servers makes no sense to agentd") from error


def _address(host: str, port: int) -> str:
    try:
        return join_address(host, port)
    except ValueError:  # a name not resolved yet, or a port of 0
        return ""


def _pid(answer: str) -> str:
    return next((line[5:] for line in answer.splitlines() if line.startswith("Pid: ")), "")
