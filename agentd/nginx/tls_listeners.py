"""Which listeners of nginx take session ticket keys, and what its files say about the keys that they use.

Owns the facts about nginx on which that rests (measured on 1.22.1): the keys are those of a socket's default
server, whatever name the client sends; tickets are off if the default server or the named one has them off.
So one question for each socket is enough, and one for each directive that turns tickets off for others.
Only `http {}` is looked at: `stream {}` and `mail {}` have keys of their own, and QUIC has no TLS 1.2.
It must not connect to anything.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentd.nginx.files import Directive, NginxFiles
from agentd.wire import Address, TCPAddress, UnixAddress

DIRECTIVES: Final = frozenset(
    {
        "http", "server", "listen", "server_name", "ssl", "ssl_session_ticket_key", "ssl_session_tickets",
        "ssl_conf_command", "ssl_reject_handshake",
    }
)  # fmt: skip
"""All that `questions` needs of the files."""

_LAST_PORT: Final = 65535
_PORT: Final = re.compile("[0-9]{1,5}")
_MOST_PORTS: Final = 1000  # of one range
_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Question:
    """One handshake that shows a key, and what the files say about its answer.

    Attributes:
        listener: as in `listen`, such as "*:443", "[::1]:8443", "unix:/run/tls.sock".
        names: the server's; `server` is the first.
        place: FILE:LINE of the `listen`; "" if there is none in the files.
        address: where to connect; None if `unaskable` says why not.
        sni: the server name to send; "" to send none.
        proxy_protocol: whether the listener expects the PROXY protocol.
        off: FILE:LINE and directive that turns tickets off; "" if nothing does.
        own: FILE:LINE and the reason for which another key than the tree's encrypts; "" if there is none.
        unaskable: why there is no way to ask.
    """

    listener: str
    names: tuple[str, ...] = ()
    place: str = ""
    address: Address | None = None
    sni: str = ""
    proxy_protocol: bool = False
    off: str = ""
    own: str = ""
    unaskable: str = ""

    @property
    def server(self) -> str:
        """What to call the server: its first name; "" without one."""
        return next((name for name in self.names if name != "_"), "")

    @property
    def part(self) -> str:
        """What it is about: listener and server name."""
        return f"{self.listener} ({self.server})" if self.server else self.listener

    @property
    def item(self) -> str:
        """The same, as `probe` has it."""
        return f"{self.listener} {self.server}".rstrip()


def questions(files: NginxFiles, tree: Path) -> list[Question]:
    """What to ask, sockets in the order of the files.

    Args:
        files: nginx's, with at least `DIRECTIVES`.
        tree: the directory of the current generation, as the include names it: .../agentd/current.
    """
    http = _Block()
    servers: dict[int, _Block] = {}
    for one in files.directives:
        blocks = [block.name for block in one.blocks]
        if blocks == ["http"] and one.name == "server":
            servers[id(one)] = _Block()
        elif blocks == ["http"]:
            http.add(one)
        elif blocks == ["http", "server"]:
            servers[id(one.blocks[1])].add(one)
    sockets: dict[str, _Socket] = {}
    for block in servers.values():
        server = _Server(block, http, tree)
        for listen in block.of("listen") or (None,):
            for name in _sockets(listen):
                sockets.setdefault(name, _Socket(name)).add(server, listen)
    return [question for socket in sockets.values() if socket.tls for question in socket.questions(sockets)]


def socket_name(text: str) -> str:
    """One name for each socket, however `listen` has it: "443", "0.0.0.0:443" and "*:443" are one.

    Raises:
        ValueError: it is no address with a port, and no unix socket.
    """
    if text.startswith("unix:/"):
        return text
    if text.startswith("unix:"):
        raise ValueError(f"{text!r}: the path of a unix socket must be absolute, as in unix:/run/tls.sock")
    host, found, port = text.rpartition(":")
    if not found or host.endswith(":") or (":" in host and not host.startswith("[")):
        raise ValueError(f"{text!r} has no port: write it as 10.0.0.1:443, [::1]:443, *:443 or unix:/PATH")
    if not (_PORT.fullmatch(port) and 0 < int(port) <= _LAST_PORT):
        raise ValueError(f"{text!r}: {port!r} is not a port")
    if host in ("*", "0.0.0.0"):  # noqa: S104 (nothing is bound here)
        return f"*:{int(port)}"
    if host == "localhost":
        host = "127.0.0.1"
    try:
        plain = host.removeprefix("[").removesuffix("]").replace("%", "/")  # nginx takes no zone
        address = ipaddress.IPv6Address(plain) if host.startswith("[") else ipaddress.IPv4Address(plain)
    except ValueError:
        raise ValueError(f"{text!r}: {host!r} is not an IP address, `*` or `localhost`") from None
    return f"[{address}]:{int(port)}" if host.startswith("[") else f"{address}:{int(port)}"


def address_of(name: str, taken: Container[str] = ()) -> Address | None:
    """Where to connect to ask a socket.

    Args:
        name: see `socket_name`.
        taken: all sockets: one of a loopback address would answer instead of the wildcard's.

    Returns:
        None if every loopback address has a socket of its own.
    """
    if name.startswith("unix:"):
        return UnixAddress(name.removeprefix("unix:"))
    host, _, port = name.rpartition(":")
    free: Iterator[str]
    if host == "*":
        candidates = (f"127.0.0.{last}" for last in range(1, 255))
        free = (one for one in candidates if f"{one}:{port}" not in taken)
    elif host == "[::]":
        free = (one for one in ("::1",) if f"[{one}]:{port}" not in taken)
    else:
        free = iter((host.strip("[]"),))
    found = next(free, None)
    return None if found is None else TCPAddress(found, int(port))


def is_askable(name: str) -> bool:
    """Whether a client can send this server name."""
    return bool(_HOST.fullmatch(name)) and not name.replace(".", "").isdigit()


# ---------------------------------------------------------------- what the files say


class _Block:
    """The directives directly in one block."""

    def __init__(self) -> None:
        self._directives: list[Directive] = []

    def add(self, one: Directive) -> None:
        self._directives.append(one)

    def of(self, name: str) -> list[Directive]:
        return [one for one in self._directives if one.name == name]


class _Server:
    """One server: what it has, or inherits from `http {}`."""

    def __init__(self, block: _Block, http: _Block, tree: Path) -> None:
        self.names = tuple(name for one in block.of("server_name") for name in one.arguments if name)
        self.plain_ssl = _is_on(block, http, "ssl")
        self.rejects = _is_on(block, http, "ssl_reject_handshake")
        self.off = _off(block, http)
        self.own = _own(block, http, tree)

    @property
    def sni(self) -> str:
        """A name that leads to this server; "" if there is none that can be told from its patterns."""
        return next(filter(is_askable, map(_example, filter(lambda name: name != "_", self.names))), "")


def _example(name: str) -> str:
    """A name that a wildcard matches; a regular expression stays what it is."""
    if name.startswith("*."):
        return f"agentd{name[1:]}"
    return f"{name[:-1]}invalid" if name.endswith(".*") else name.removeprefix(".")


def _is_on(block: _Block, http: _Block, name: str) -> bool:
    found = block.of(name) or http.of(name)
    return bool(found) and found[-1].arguments == ("on",)


def _off(block: _Block, http: _Block) -> str:
    tickets = block.of("ssl_session_tickets") or http.of("ssl_session_tickets")
    commands = block.of("ssl_conf_command") or http.of("ssl_conf_command")
    for one in (*tickets[-1:], *commands):
        if one.arguments == ("off",) or (
            one.name == "ssl_conf_command"
            and one.arguments[:1] == ("Options",)
            and "-SessionTicket" in ",".join(one.arguments[1:]).split(",")
        ):
            return f"{one.place}: {one.name} {' '.join(one.arguments)}"
    return ""


def _own(block: _Block, http: _Block, tree: Path) -> str:
    if own := block.of("ssl_session_ticket_key"):
        if own[0].file.is_relative_to(tree):
            return ""
        return f"{own[0].place}: the server has its own ssl_session_ticket_key"
    keys = http.of("ssl_session_ticket_key")
    if keys and keys[0].file.is_relative_to(tree):
        return ""
    if any(one.file.is_relative_to(tree) for one in keys):
        return f"{keys[0].place}: this ssl_session_ticket_key comes before those of the tree"
    where = f"{keys[0].place}: http {{}} has its own ssl_session_ticket_key, and " if keys else ""
    return f"{where}http {{}} does not include the tree's keys"


# ---------------------------------------------------------------- sockets


def _sockets(listen: Directive | None) -> Iterator[str]:
    """The names of the sockets of one `listen` (None: of a server without one); none for QUIC."""
    if listen is None:
        yield "*:80"
        return
    if not listen.arguments or "quic" in listen.arguments:
        return
    text = listen.arguments[0]
    if text.isascii() and text.replace("-", "").isdigit():
        text = f"*:{text}"
    elif not text.startswith("unix:") and (":" not in text or text.endswith("]")):
        text = f"{text}:80"
    host, _, port = text.rpartition(":")
    first, dash, last = port.partition("-")
    if dash and _PORT.fullmatch(first) and _PORT.fullmatch(last) and not text.startswith("unix:"):
        texts = [f"{host}:{number}" for number in range(int(first), int(last) + 1)[:_MOST_PORTS]]
    else:
        texts = [text]
    for one in texts:
        try:
            yield socket_name(one)
        except ValueError:
            yield one  # a host name: only nginx knows which addresses it found for it


@dataclass(slots=True)
class _Socket:
    """One listening socket; the first of `servers` is its default server."""

    name: str
    servers: list[_Server] = field(default_factory=list)
    place: str = ""
    proxy_protocol: bool = False
    ssl: bool = False

    def add(self, server: _Server, listen: Directive | None) -> None:
        parameters = frozenset(listen.arguments[1:] if listen else ())
        # nginx has one set of these for a socket, whichever `listen` brings them.
        self.ssl = self.ssl or "ssl" in parameters
        self.proxy_protocol = self.proxy_protocol or "proxy_protocol" in parameters
        if not self.servers or parameters & {"default_server", "default"}:
            self.servers.insert(0, server)
            self.place = listen.place if listen else ""
        else:
            self.servers.append(server)

    @property
    def tls(self) -> bool:
        return self.ssl or self.servers[0].plain_ssl

    def questions(self, taken: Container[str]) -> Iterator[Question]:
        default = self.servers[0]
        open_ones = [server for server in self.servers if not server.rejects]
        # A default server that rejects what has no known name still lends its keys to the named ones.
        first = default if not default.rejects else next((one for one in open_ones if one.sni), None)
        if first is None:
            return
        yield self._question(first, default.off or first.off, default.own, taken)
        if default.off:
            return
        seen = {first.off}
        for server in open_ones:
            if server.off and server.off not in seen:
                seen.add(server.off)
                yield self._question(server, server.off, "", taken, named=True)

    def _question(
        self, server: _Server, off: str, own: str, taken: Container[str], *, named: bool = False
    ) -> Question:
        try:
            address = address_of(socket_name(self.name), taken)
            unaskable = "" if address else "every loopback address has a listener of its own"
        except ValueError:
            address, unaskable = None, "only nginx knows what address that is"
        if named and not server.sni:
            address, unaskable = None, "its server names are regular expressions"
        return Question(
            listener=self.name,
            names=server.names,
            place=self.place,
            address=address,
            sni=server.sni,
            proxy_protocol=self.proxy_protocol,
            off=off,
            own=own,
            unaskable=unaskable,
        )
