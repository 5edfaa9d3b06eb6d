"""The driver for a HAProxy backend, over HAProxy's run-time socket.

The backend has slots: servers in its configuration, such as `server-template slot 20 127.0.0.1:1 disabled`.
A server takes a free slot (one in maintenance with no known server in it), is given its address and weight
there, and is made ready last; a server that is removed leaves its slot in maintenance. When slots run out,
one is added. `backup` can only be set in HAProxy's configuration, so backup servers are left out here.
HAProxy forgets all of it when it restarts; its pid shows that.

Source: https://docs.haproxy.org/2.6/management.html#9.3
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentd import haproxy
from agentd.handler import PermanentError, TemporaryError
from handlers.nginx_upstream.hosts import parse_host
from handlers.nginx_upstream.render import PLACEHOLDER
from handlers.nginx_upstream.runtime import UP, Applied, Running
from handlers.nginx_upstream.server import Server, join_address

_MAINT: Final = 0x01
_DRAIN: Final = 0x08
_BATCH: Final = 50  # commands a connection; HAProxy reads a line of 16 KiB at most
_COLUMNS: Final = ("srv_name", "srv_addr", "srv_port", "srv_admin_state", "srv_uweight")
_HEAD: Final = "# be_id "
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,256}")
_NUMBER: Final = re.compile("[0-9]{1,10}")
_PID: Final = re.compile("^Pid: ([0-9]{1,10})$", re.MULTILINE)
_QUOTED: Final = 160  # characters of an answer
_GOOD: Final = ("New server registered", "IP changed from", "no need to change")


@dataclass(frozen=True, slots=True)
class Slot:
    """One server of the backend; `address` is "" while it has none, `state` is HAProxy's word."""

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

    least_weight = 0  # which HAProxy takes for out of use

    def __init__(self, interface: str, backend: str, timeout: float) -> None:
        self._interface = interface
        self._timeout = timeout
        self._backend = backend
        self._slots: dict[str, Slot] = {}
        self._used: set[str] = set()

    def look(self, known: Collection[str] | None) -> Running:
        """List the slots."""
        answer = self._ask(f"show info;show servers state {self._backend}")
        slots = _slots(answer, self._backend)
        pid = _pid(answer)
        self._slots = {slot.name: slot for slot in slots}
        self._used = {slot.name for slot in slots if _in_use(slot, known, slots)}
        used = [slot for slot in slots if slot.name in self._used]
        states = {slot.address: UP if slot.state == "ready" else slot.state for slot in used}
        return Running(states, {slot.address: slot.weight for slot in used}, pid)

    def reset(self) -> None:
        """It asks whatever happened before."""

    def give_up(self, reason: str) -> None:
        """It asks all the same: HAProxy does not hang."""

    def compare(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:  # noqa: ARG002 (nginx's)
        """What `apply` would do."""
        return Applied(self._commands(self._wanted(servers), down))

    def apply(self, servers: Sequence[Server], down: Mapping[str, str], method: str = "") -> Applied:  # noqa: ARG002 (nginx's)
        """Find a slot for each server, set what differs, and list again to verify."""
        wanted = self._wanted(servers)
        commands = self._commands(wanted, down)
        self._send(commands)
        if commands:
            self._verify(wanted, down)
        return Applied(commands)

    def _wanted(self, servers: Sequence[Server]) -> list[Server]:
        return [server for server in servers if not server.backup and server.address != PLACEHOLDER.address]

    def _commands(self, wanted: Sequence[Server], down: Mapping[str, str]) -> list[str]:
        placed, commands = self._placed(wanted)
        for slot, server in placed:
            commands += _changes(self._backend, slot, server, _state(server, down))
        taken = {slot.name for slot, _ in placed}
        commands += [
            f"set server {self._backend}/{name} state maint"
            for name in sorted(self._used - taken)
            if self._slots[name].state != "maint"
        ]
        return commands

    def _ask(self, commands: str) -> str:
        return haproxy.ask(self._interface, commands, self._timeout)

    def _placed(self, wanted: Sequence[Server]) -> tuple[list[tuple[Slot, Server]], list[str]]:
        """Each server with its slot, and the commands that add slots where there are too few."""
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
            answer = self._ask(";".join(commands[start : start + _BATCH]))
            wrong = [line for line in answer.splitlines() if line.strip() and not line.startswith(_GOOD)]
            if wrong and wrong[0].startswith("Permission denied"):
                raise PermanentError("HAProxy denied permission: the socket needs `level admin`")
            if wrong:
                raise PermanentError(f"HAProxy says: {wrong[0][:_QUOTED]}")

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
                f"{len(wrong)} servers do not have the values that were set, such as {wrong[0]}"
            )


def _in_use(slot: Slot, known: Collection[str] | None, slots: Sequence[Slot]) -> bool:
    """Whether a server of ours is in it; maintenance alone does not tell, since operators use it too."""
    if slot.state != "maint":
        return True
    if known is not None:
        return slot.address in known
    alone = sum(other.address == slot.address for other in slots) == 1
    return alone and slot.address not in ("", PLACEHOLDER.address)


def _state(server: Server, down: Mapping[str, str]) -> str:
    if not server.down:
        return "ready"
    return "drain" if down.get(server.address) == "drain" else "maint"


def _changes(backend: str, slot: Slot, server: Server, state: str) -> Iterator[str]:
    """The commands that make a slot what it should be; ready comes last."""
    start = f"set server {backend}/{slot.name}"
    if slot.address != server.address:
        host, _, port = server.address.rpartition(":")
        yield f"{start} addr {host.strip('[]')} port {port}"
    if slot.weight != server.weight:
        yield f"{start} weight {server.weight}"
    if slot.state != state:
        yield f"{start} state {state}"


def _slots(answer: str, backend: str) -> list[Slot]:
    """The rows of `show servers state`, read by the line of column names.

    Raises:
        TemporaryError: it was cut off.
        PermanentError: HAProxy has no such backend, or lists its servers in a way that is not understood.
    """
    _, head, rest = answer.partition(_HEAD)
    if not head:
        raise PermanentError(f"HAProxy has no backend {backend}, or it does not list its servers")
    listed, end, _ = rest.partition("\n\n")  # an empty line ends every answer
    if not end:
        raise TemporaryError("HAProxy's list of servers was cut off")
    first, *lines = listed.split("\n")
    columns = f"{_HEAD.removeprefix('# ')}{first}".split(" ")
    if missing := [name for name in _COLUMNS if columns.count(name) != 1]:
        raise PermanentError(f"HAProxy's list of servers has no column {missing[0]}: is this HAProxy?")
    slots = [_slot(columns, line.split(" ")) for line in lines]
    if len({slot.name for slot in slots}) < len(slots):
        raise PermanentError("HAProxy's list of servers names a server twice")
    if not slots:
        raise PermanentError(f"HAProxy's backend {backend} has no servers")
    return slots


def _slot(columns: Sequence[str], words: Sequence[str]) -> Slot:
    if len(words) != len(columns):
        raise PermanentError(
            f"HAProxy's list of servers has a line of {len(words)} words under {len(columns)} columns"
        )
    row = dict(zip(columns, words, strict=True))
    if not _NAME.fullmatch(row["srv_name"]):  # it becomes a part of commands
        raise PermanentError(f"HAProxy's list of servers has the name {row['srv_name'][:32]!r}")
    flags = _number(row, "srv_admin_state")
    state = "maint" if flags & _MAINT else "drain" if flags & _DRAIN else "ready"
    address = _address(row["srv_addr"], _number(row, "srv_port"))
    return Slot(row["srv_name"], address, _number(row, "srv_uweight"), state)


def _number(row: Mapping[str, str], column: str) -> int:
    if not _NUMBER.fullmatch(row[column]):
        raise PermanentError(
            f"HAProxy's list of servers has a {column} that is not a number: {row[column][:32]!r}"
        )
    return int(row[column])


def _address(host: str, port: int) -> str:
    """As nginx writes it; "" for what no server is reached by: a name not resolved yet, a port of 0."""
    try:
        return "" if parse_host(host).is_unspecified else join_address(host, port)
    except ValueError:
        return ""


def _pid(answer: str) -> str:
    """HAProxy's pid, which changes when it has forgotten what was set."""
    found = _PID.search(answer)
    if found is None:
        raise PermanentError("HAProxy's `show info` has no pid: is this HAProxy?")
    return found[1]
