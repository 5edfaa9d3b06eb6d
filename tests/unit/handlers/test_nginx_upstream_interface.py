"""The wire of the run-time interface: what is sent, what is understood, and what is refused."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.handler import HandlerError, PermanentError, TemporaryError
from handlers.nginx_upstream.drivers.interface import MOST_BYTES, Peer, UpstreamInterface

LIST = (
    "server 127.0.0.1:6001 weight=1 max_fails=1 fail_timeout=10;\n"
    "server [::1]:6002 weight=5 max_fails=0 fail_timeout=3 down;\n"
)


class Scripted:
    """A server on a unix socket that answers each connection with the next of `answers` and closes.

    Attributes:
        asked: the request lines.
        answers: bytes; the last one is given again and again.
        hold: set to let it close: until then a connection stays open after the answer.
    """

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self.answers: list[bytes] = [ok(LIST)]
        self.hold = threading.Event()
        self.hold.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(65536).decode().splitlines()[0])
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                try:
                    connection.sendall(answer)
                except BrokenPipeError:
                    continue
                self.hold.wait(5)

    def close(self) -> None:
        """End it."""
        self.hold.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def ok(body: str, status: str = "200 OK") -> bytes:
    """An answer as nginx gives it."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Scripted]:
    """The server."""
    scripted = Scripted(tmp_path / "s")
    yield scripted
    scripted.close()


@pytest.fixture
def interface(served: Scripted, tmp_path: Path) -> UpstreamInterface:
    """A client of it, for the upstream `api`."""
    assert served.asked == []
    return UpstreamInterface(f"unix:{tmp_path}/s:/dynamic", "api", timeout=1.0)


def test_a_list_is_understood(interface: UpstreamInterface, served: Scripted) -> None:
    """By address, with everything that is in it."""
    peers = interface.list()

    assert served.asked == ["GET /dynamic?upstream=api&verbose= HTTP/1.0"]
    assert peers == {
        "127.0.0.1:6001": Peer("127.0.0.1:6001"),
        "[::1]:6002": Peer("[::1]:6002", weight=5, max_fails=0, fail_timeout=3, down=True),
    }


@pytest.mark.parametrize(
    "call, query",
    [
        (lambda one: one.down("1.2.3.4:80"), "&server=1.2.3.4:80&down="),
        (lambda one: one.up("[::1]:80"), "&server=[::1]:80&up="),
        (lambda one: one.remove("1.2.3.4:80"), "&remove=&server=1.2.3.4:80"),
        (lambda one: one.set_weight("1.2.3.4:80", 3), "&server=1.2.3.4:80&weight=3"),
        (
            lambda one: one.set(Peer("1.2.3.4:80", 2, 3, 4, down=True)),
            "&server=1.2.3.4:80&weight=2&max_fails=3&fail_timeout=4",
        ),
        (
            lambda one: one.add(Peer("1.2.3.4:80", down=True)),
            "&add=&server=1.2.3.4:80&weight=1&max_fails=1&fail_timeout=10&down=",
        ),
    ],
)
def test_each_operation_is_one_get(
    interface: UpstreamInterface, served: Scripted, call: Callable[[UpstreamInterface], object], query: str
) -> None:
    """Nothing is encoded, since nothing is decoded; the answer is the list."""
    assert call(interface) == interface.list()
    assert served.asked[0] == f"GET /dynamic?upstream=api{query}&verbose= HTTP/1.0"


@pytest.mark.parametrize(
    "value", ["", "a b:80", "host:80&down=", "1.2.3.4:80\r\nX: y", "1.2.3.4%3A80", "ü:80"]
)
def test_what_would_need_encoding_is_never_sent(
    interface: UpstreamInterface, served: Scripted, value: str
) -> None:
    """It could only be misread."""
    with pytest.raises(ValueError, match="cannot be told"):
        interface.down(value)

    assert served.asked == []


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "http://", "http://a b/", "http://h:123456/x", "unix:relative", "127.0.0.1:80"],
)
def test_another_kind_of_address_is_refused(url: str) -> None:
    """When the object is made."""
    with pytest.raises(ValueError, match="is needed"):
        UpstreamInterface(url, "api")


@pytest.mark.parametrize(
    "url, target",
    [
        ("http://127.0.0.1:81/dynamic", (("127.0.0.1", 81), "/dynamic")),
        ("http://[::1]:81", (("::1", 81), "/")),
        ("http://lb1.example/d", (("lb1.example", 80), "/d")),
        ("unix:/run/s.sock", ("/run/s.sock", "/")),
    ],
)
def test_addresses_are_taken_apart(url: str, target: tuple[object, str]) -> None:
    """Into what to connect to, and the path."""
    interface = UpstreamInterface(url, "api")

    assert (interface._target, interface._path) == target


# ---------------------------------------------------------------- bad answers


@pytest.mark.parametrize(
    "answer, kind, reason",
    [
        (ok("", "500 Internal Server Error"), TemporaryError, "status 500"),
        (ok("", "302 Found"), TemporaryError, "status 302"),
        (ok("", "404 Not Found"), PermanentError, "status 404 for upstream api"),
        (ok("", "400 Bad Request"), PermanentError, "status 400"),
        (b"", TemporaryError, r"no HTTP answer \(0 bytes\)"),
        (b"SSH-2.0-OpenSSH\r\n", TemporaryError, "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n", TemporaryError, "no HTTP answer"),
        (ok(LIST)[:-20], TemporaryError, "cut off: 100 of 120 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + LIST[:-20].encode(), TemporaryError, "in the middle of a line"),
        (ok("<html>hello</html>\n"), TemporaryError, "no list of servers: '<html>hello</html>'"),
        (ok("server host.example:80;\n"), TemporaryError, "no list of servers"),
        (ok("server 1.2.3.4:80 weight=1;\nserver 1.2.\n"), TemporaryError, "no list of servers"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000_000, TemporaryError, f"longer than {MOST_BYTES}"),
    ],
)
def test_a_bad_answer_is_a_clear_error(
    interface: UpstreamInterface, served: Scripted, answer: bytes, kind: type[HandlerError], reason: str
) -> None:
    """It names the interface and what is wrong, and never quotes more than a line."""
    served.answers = [answer]

    with pytest.raises(kind, match=reason) as caught:
        interface.list()

    assert interface.url in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_answer_that_does_not_end_is_given_up(served: Scripted, tmp_path: Path) -> None:
    """However it hangs, the whole call has one time limit."""
    served.hold.clear()
    began = time.monotonic()

    with pytest.raises(TemporaryError, match=r"no answer within 0\.1 s"):
        UpstreamInterface(f"unix:{tmp_path}/s:/dynamic", "api", timeout=0.1).list()

    assert time.monotonic() - began < 1.0


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    """In the system's own words."""
    with pytest.raises(TemporaryError, match="No such file"):
        UpstreamInterface(f"unix:{tmp_path}/none:/", "api").list()
