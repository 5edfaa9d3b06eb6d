"""A connection under one deadline: each step that may take too long, and each way in which it can fail."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import http
from tests.unit.scripted_http import ScriptedServer, scripted_server

OK = b"HTTP/1.1 200 OK\r\n"
SHORT = 0.5
"""Seconds of an exchange that is to time out."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server on TCP."""
    with scripted_server() as made:
        yield made


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    "answer", [b"", OK, OK + b"Content-Length: 99999\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
def test_server_that_drips_does_not_extend_the_deadline(server: ScriptedServer, answer: bytes) -> None:
    """In the head as in the body: each byte comes well within any timeout per read."""
    server.answers, server.drip = [answer], True

    began = time.monotonic()
    with pytest.raises(http.ExchangeTimeoutError, match=r"timed out after 0.5 s while reading the answer"):
        http.exchange(server.address, "/", timeout=SHORT)
    assert time.monotonic() - began < 20


def test_server_that_never_answers_times_out(server: ScriptedServer) -> None:
    """It took the request and keeps silent."""
    server.answers = [b""]
    server.hold.clear()
    with pytest.raises(http.ExchangeTimeoutError, match="while waiting for the answer"):
        http.exchange(server.address, "/", timeout=SHORT)


def test_silence_is_limited_by_itself(server: ScriptedServer) -> None:
    """Though there is plenty of time in all."""
    server.answers = [OK]
    server.hold.clear()
    with pytest.raises(http.ExchangeTimeoutError, match=r"timed out after 0.1 s while reading"):
        http.exchange(server.address, "/", timeout=http.Timeouts(60.0, idle=0.1))


def test_request_that_nobody_reads_times_out() -> None:
    """The other side's queue is full, and its program stands still."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = http.TCPAddress("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(http.ExchangeTimeoutError, match="while sending the request"):
            http.exchange(address, "/", method="PUT", body=bytes(50_000_000), timeout=SHORT)


def test_connecting_is_limited_by_itself(tmp_path: Path) -> None:
    """A unix socket whose queue is full lets nobody in."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(http.ExchangeTimeoutError, match=r"timed out after 0.1 s while connecting"):
            http.exchange(http.UnixAddress(path), "/", timeout=http.Timeouts(60.0, connect=0.1))


def test_looking_up_a_name_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver takes no deadline and may wait for half a minute."""
    answered = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, port: int, **options: int) -> object:
        if options.get("flags") == socket.AI_NUMERICHOST:
            return real(host, port, **options)
        answered.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(http.ExchangeTimeoutError, match="while looking up the host name"):
        http.exchange(http.TCPAddress("slow.invalid", 80), "/", timeout=SHORT)
    answered.set()


def test_tls_handshake_is_limited(server: ScriptedServer) -> None:
    """A server that does not speak TLS may keep silent for ever."""
    server.hold.clear()
    assert isinstance(server.address, http.TCPAddress)
    address = server.address._replace(tls=ssl.create_default_context())
    with pytest.raises(http.ExchangeTimeoutError, match="while doing the TLS handshake"):
        http.exchange(address, "/", timeout=SHORT)


def test_exchange_ends_once_it_is_told_to_stop(server: ScriptedServer) -> None:
    """A daemon that wants to end does not wait for a server."""
    server.answers = [OK]
    server.hold.clear()
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()

    with pytest.raises(http.StoppedError, match="stopping"):
        http.exchange(server.address, "/", timeout=http.Timeouts(60.0, stop=stop))


# ---------------------------------------------------------------- no connection


def test_nobody_listens() -> None:
    """On the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(http.ConnectError, match="nothing is listening there"):
        http.exchange(http.TCPAddress("127.0.0.1", port), "/", timeout=60.0)


def test_no_such_socket(tmp_path: Path) -> None:
    """The file is missing."""
    with pytest.raises(http.ConnectError, match="no such socket"):
        http.exchange(http.UnixAddress(str(tmp_path / "s")), "/", timeout=60.0)


def test_deserted_socket(tmp_path: Path) -> None:
    """The file is left from a server that was killed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    with pytest.raises(http.ConnectError, match="nothing is listening there"):
        http.exchange(http.UnixAddress(str(tmp_path / "s")), "/", timeout=60.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to any socket")
def test_socket_of_somebody_else(tmp_path: Path) -> None:
    """Its mode keeps us out."""
    with scripted_server(tmp_path / "s") as server:
        (tmp_path / "s").chmod(0)
        with pytest.raises(http.ConnectError, match="permission to connect is denied"):
            http.exchange(server.address, "/", timeout=60.0)


def test_path_that_is_too_long_for_a_socket() -> None:
    """The kernel takes 107 bytes."""
    with pytest.raises(http.ConnectError, match="too long"):
        http.exchange(http.UnixAddress("/" + "s" * 200), "/", timeout=60.0)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".invalid", "127.0.0.1.1"])
def test_name_that_nobody_knows(host: str) -> None:
    """Or that cannot be one."""
    with pytest.raises(http.ConnectError, match="cannot be resolved"):
        http.exchange(http.TCPAddress(host, 80), "/", timeout=60.0)


def test_next_address_is_tried(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have addresses where nobody listens."""
    assert isinstance(server.address, http.TCPAddress)
    good = socket.getaddrinfo("127.0.0.1", server.address.port, type=socket.SOCK_STREAM)
    bad = socket.getaddrinfo("127.0.0.1", 1, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: bad + good)

    assert http.exchange(server.address, "/", timeout=60.0).body == b"ok"


def test_server_that_speaks_no_tls(server: ScriptedServer) -> None:
    """It answers the handshake in plain text."""
    server.answers = [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    assert isinstance(server.address, http.TCPAddress)
    threading.Thread(target=_plain_text, args=(listener := socket.create_server(("127.0.0.1", 0)),)).start()
    address = http.TCPAddress("127.0.0.1", listener.getsockname()[1], ssl.create_default_context())
    with pytest.raises(http.ConnectError, match="TLS failed"):
        http.exchange(address, "/", timeout=60.0)


def _plain_text(listener: socket.socket) -> None:
    with listener, listener.accept()[0] as connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
