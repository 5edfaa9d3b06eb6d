"""One bounded GET: what is made of the bytes that come."""

from __future__ import annotations

import socket
import time

import pytest

from agentd.errors import BalancerError
from agentd.fleet.exchange import Reply, _parse, _read, _request


def test_request_is_sent_as_it_stands() -> None:
    """Nothing is quoted: the interface decodes nothing."""
    sent = _request("::1", 81, "/dynamic?upstream=a&server=[::1]:80&down=")
    assert sent.startswith(b"GET /dynamic?upstream=a&server=[::1]:80&down= HTTP/1.1\r\nHost: [::1]:81\r\n")
    assert sent.endswith(b"Connection: close\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
    ],
)
def test_whole_answer_is_read(data: bytes) -> None:
    """In each way that HTTP has to say where it ends."""
    assert _parse(data) == Reply(200, b"abc")


@pytest.mark.parametrize(
    "data,said",
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", "cut short"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 banana\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cut short"),
    ],
)
def test_anything_else_is_an_error(data: bytes, said: str) -> None:
    """Which says what is wrong."""
    with pytest.raises(BalancerError, match=said):
        _parse(data)


def test_answer_that_is_too_large_is_not_read_to_its_end() -> None:
    """The limit counts while it comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 1001)
        with pytest.raises(BalancerError, match="larger than 1000 bytes"):
            _read(ours, time.monotonic() + 5, 1000)


def test_deadline_is_of_the_whole_answer() -> None:
    """However lively the other side is: what came before it counts for nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x")
        with pytest.raises(TimeoutError):
            _read(ours, time.monotonic() - 1, 1000)
