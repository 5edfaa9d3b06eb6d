"""The HTTP interface of ngx_dynamic_upstream: the servers of one upstream on one nginx, at run time.

Owns what is sent and what each answer means: an answer is understood to the last character, or refused. It
must not decide which servers there should be, repeat a request, or undo one. The handler's driver and the
commands share it; `config/nginx/dynamic_upstream.lua` serves the same interface.

The interface takes GET only, knows the upstream by its zone, and does not decode values, so only what needs
no encoding can be sent. Adding a host name, or to the module an IPv6 address, blocks an nginx worker for
ever, and each further question blocks one more: so neither is sent, and after a time-out nothing is. A list
may contain other servers, such as `unix:/run/app.sock`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from agentd import http
from agentd.errors import PermanentError, TemporaryError
from handlers.nginx_upstream.server import LAST_PORT, Server

MAX_BYTES: Final = 1_048_576
"""Size limit of an answer; a thousand servers need about 80,000 bytes."""

MOST_WEIGHT: Final = 65535
"""The largest weight that is sent."""

_HTTP_PORT: Final = 80
_MOST_NUMBER: Final = 1_000_000  # for the others; the module would take more than it can hold
_QUOTED: Final = 80  # characters of an answer that an error quotes
_RETRIED: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_CLIENT_ERRORS: Final = range(400, 500)
_URL: Final = re.compile(r"http://(\[[0-9A-Fa-f:.]+\]|[^/:\[\]\s]+)(?::([0-9]{1,5}))?(/[!-~]*)?")
_SOCKET: Final = re.compile(r"unix:(/[^\s:]+)(?::(/[!-~]*))?")
_ZONE: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SENT_ADDRESS: Final = re.compile(r"(?:[0-9.]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_ADDED_ADDRESS: Final = re.compile(r"(?:[0-9.]+|\[[0-9a-f:.]+\]):[1-9][0-9]{0,4}")
_LISTED_ADDRESS: Final = r"(?:[0-9.]+|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+(?=:))(?::[0-9]{1,5})?|unix:/[^\s;]+"
_LINE: Final = re.compile(rf"server ({_LISTED_ADDRESS})((?: [^\s;]+)*) ?;")
_FLAGS: Final = frozenset(("backup", "down"))
_PARAMETER: Final = re.compile(r"([a-z_]+)=(\S*)")
_NUMBER: Final = re.compile(r"([0-9]{1,10})s?")


_HANGS: Final = (
    "a worker of nginx may hang, and each further question would hang one more, so nothing is asked until"
    " nginx was reloaded: reload it, then end (kill -9) the old workers that do not exit"
)
_UNREACHABLE: Final = "is nginx running, with the interface of `agentd example nginx/dynamic-upstream.conf`?"


class Unanswered(TemporaryError):  # noqa: N818 (a kind of TemporaryError)
    """No answer in time. What hangs is told in the message."""


@dataclass(frozen=True, slots=True)
class Desired:
    """How a server is to be: down or up, or of a weight; None leaves that as it is."""

    down: bool | None = None
    weight: int | None = None

    def met_by(self, server: Server) -> bool:
        """Whether the server is like this."""
        return self.down in (None, server.down) and self.weight in (None, server.weight)

    def restoring(self, before: Server) -> Desired:
        """What undoes this on a server that was found like `before`."""
        return Desired(
            down=None if self.down is None else before.down,
            weight=None if self.weight is None else before.weight,
        )

    @property
    def query(self) -> str:
        """As the interface takes it. Raises PermanentError: the weight is not one to send."""
        weight = "" if self.weight is None else _weight(self.weight)
        state = "" if self.down is None else "&down=" if self.down else "&up="
        return weight + state


class UpstreamInterface:
    """The interface of one nginx, for one upstream. One thread at a time may use it.

    The connection is kept from one call to the next until `close`. Errors do not name the interface: the
    caller does.

    Args:
        url: "http://127.0.0.1:9522/upstreams" or "unix:/run/upstreams.sock:/upstreams".
        upstream: the zone.
        timeout: seconds for a whole call.
        module: whether the module ngx_dynamic_upstream may be what answers: after a time-out nothing is sent
            any more until `reset`, and no IPv6 address is added.

    Raises:
        ValueError: the URL or the zone is not of this form; from the methods: the address is not one to send.
        Unanswered: from every method: no answer in time; with `module`, now or earlier.
        TemporaryError: from every method: no answer, a 5xx, or an answer that makes no sense.
        PermanentError: from every method: the interface refused (404: it has no such upstream), or would.
    """

    def __init__(self, url: str, upstream: str, *, timeout: float = 2.0, module: bool = True) -> None:
        self.url = url
        self._module = module
        self._unanswered = ""
        self._upstream = check_zone(upstream)
        self._timeout = timeout
        address, self._path = _parse_url(url)
        self._connection = http.Connection(address)

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        self._connection.close()

    def give_up(self, reason: str) -> None:
        """Ask nothing until `reset`, because of an earlier time-out; with Lua that hangs nothing."""
        if self._module:
            self._unanswered = reason

    def reset(self) -> None:
        """Ask again after a time-out: other workers answer now."""
        self._unanswered = ""

    def list(self) -> dict[str, Server]:
        """The servers by address, with neither `max_conns` nor, in most implementations, backup servers."""
        answer = self._ask("&verbose=")
        if not {"content-length", "transfer-encoding"} & set(answer.headers):
            raise TemporaryError("the answer does not say how long it is, so it may be cut off")
        return _parse_list(answer.body.decode("ascii", "replace"))

    def add(self, server: Server) -> None:
        """Add a server, down from the start if it is. Whether a change was made is for `list` to tell."""
        if not _ADDED_ADDRESS.fullmatch(server.address):
            raise ValueError(
                f"{server.address[:_QUOTED]!r} cannot be added: it needs an IP address and a port"
            )
        if self._module and server.address.startswith("["):
            raise PermanentError(
                "an IPv6 address would hang a worker of nginx, so it is not added at run time"
            )
        self._change("&add=", server.address, _numbers(server) + ("&down=" if server.down else ""))

    def remove(self, address: str) -> None:
        """Remove a server; the last one cannot be removed."""
        self._change("&remove=", address)

    def set(self, server: Server) -> None:
        """Set weight, max_fails and fail_timeout of a server; not whether it is down."""
        self._change("", server.address, _numbers(server))

    def update(self, address: str, desired: Desired) -> None:
        """Take a server down, put it back up, or change its weight alone."""
        self._change("", address, desired.query)

    def _change(self, operation: str, address: str, parameters: str = "") -> None:
        if not _SENT_ADDRESS.fullmatch(address):
            raise ValueError(f"{address[:_QUOTED]!r} cannot be sent: the interface takes IP addresses only")
        self._ask(f"{operation}&server={address}{parameters}")

    def _ask(self, query: str) -> http.Response:
        if self._unanswered:
            raise Unanswered(self._unanswered)
        path = f"{self._path}?upstream={self._upstream}{query}"
        try:
            answer = self._connection.exchange(path, timeout=self._timeout, max_size=MAX_BYTES)
        except http.ExchangeTimeoutError as error:
            if self._module:
                self._unanswered = f"{error}: {_HANGS}"
            raise Unanswered(self._unanswered or str(error)) from error
        except http.ConnectError as error:
            raise TemporaryError(f"{error}; {_UNREACHABLE}") from error
        except http.ExchangeError as error:
            raise TemporaryError(str(error)) from error
        self._check(answer, changes="&server=" in query)
        return answer

    def _check(self, answer: http.Response, *, changes: bool) -> None:
        status = answer.status
        if status == HTTPStatus.NOT_FOUND:
            raise PermanentError(
                f"404: there is no upstream {self._upstream!r}, or no interface at {self._path}"
            )
        if status in _CLIENT_ERRORS and status not in _RETRIED:
            raise PermanentError(f"refused with status {status}{_quote(answer.body)}")
        if (
            changes and status == HTTPStatus.INTERNAL_SERVER_ERROR
        ):  # the module's word for what it cannot take
            raise PermanentError(
                f"refused with status 500: it does not take this, or the zone is full{_quote(answer.body)};"
                " see nginx's error log"
            )
        if status != HTTPStatus.OK:
            raise TemporaryError(f"answered with status {status}{_quote(answer.body)}")


def check_zone(text: str) -> str:
    """The name of an upstream's zone. Raises ValueError if it could be read as more than a name."""
    if not _ZONE.fullmatch(text):
        raise ValueError("the name of an upstream has only letters, digits and . _ -")
    return text


def _parse_url(url: str) -> tuple[http.Address, str]:
    """Where to connect, and the path."""
    if found := _SOCKET.fullmatch(url):
        return http.UnixAddress(found[1]), found[2] or "/"
    found = _URL.fullmatch(url)
    if found and 0 < int(found[2] or _HTTP_PORT) <= LAST_PORT:
        return http.TCPAddress(found[1].strip("[]"), int(found[2] or _HTTP_PORT)), found[3] or "/"
    raise ValueError(f"http://HOST:PORT/PATH or unix:/SOCKET:/PATH is needed, not {url!r}")


def _numbers(server: Server) -> str:
    for name in ("max_fails", "fail_timeout"):
        if not 0 <= getattr(server, name) <= _MOST_NUMBER:
            raise PermanentError(f"{name}={getattr(server, name)} is not sent: at most {_MOST_NUMBER}")
    return f"{_weight(server.weight)}&max_fails={server.max_fails:d}&fail_timeout={server.fail_timeout:d}"


def _weight(weight: int) -> str:
    if not 1 <= weight <= MOST_WEIGHT:
        raise PermanentError(f"a weight of {weight} is not sent: it must be from 1 to {MOST_WEIGHT}")
    return f"&weight={weight:d}"


def _parse_list(text: str) -> dict[str, Server]:
    """Read a verbose list. One line that is not understood makes all of it doubtful."""
    if not text.endswith("\n"):
        state = "ends in the middle of a line" if text else "is empty"
        raise TemporaryError(f"the list of servers {state}")
    servers: dict[str, Server] = {}
    for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n"):
        server = _parse_line(line)
        if servers.setdefault(server.address, server) != server:
            raise TemporaryError(f"the list of servers contradicts itself about {server.address}")
    return servers


def _parse_line(line: str) -> Server:
    found = _LINE.fullmatch(line)
    if found is None:
        raise TemporaryError(f"the answer is not a list of servers{_quote(line.encode())}")
    values: dict[str, int] = {}
    flags = set()
    for word in found[2].split():
        parameter = _PARAMETER.fullmatch(word)
        if not parameter or parameter[1] in _FLAGS:
            flags.add(word)
        elif parameter[1] in values:
            raise TemporaryError(f"the list of servers has {parameter[1]} twice{_quote(line.encode())}")
        elif parameter[1] in ("weight", "max_fails", "fail_timeout"):
            values[parameter[1]] = _number(parameter[2], line)
    if not flags <= _FLAGS:  # the word could say that the server is not in use
        raise TemporaryError(f"the list of servers has an unknown word{_quote(line.encode())}")
    return Server(found[1], **values, backup="backup" in flags, down="down" in flags)


def _number(text: str, line: str) -> int:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise TemporaryError(f"the list of servers has a value that is not a number{_quote(line.encode())}")
    return int(found[1])


def _quote(body: bytes) -> str:
    text = " ".join(body[:_QUOTED].decode("ascii", "replace").split())
    return f": {text}" if text else ""
