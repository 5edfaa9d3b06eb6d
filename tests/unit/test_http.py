"""One bounded HTTP exchange, with servers that do what servers should not."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import http
from tests.unit.scripted_http import ScriptedServer, scripted_server

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server on TCP."""
    with scripted_server() as made:
        yield made


def ask(server: ScriptedServer, answer: bytes, *, method: str = "GET", max_size: int = 1000) -> http.Response:
    """Let the server give this answer, and return what is made of it."""
    server.answers = [answer]
    return http.exchange(server.address, "/", method=method, timeout=60.0, max_size=max_size)


# ---------------------------------------------------------------- what is sent


def test_request_is_sent_as_given(server: ScriptedServer) -> None:
    """The path is not encoded: some servers decode nothing."""
    http.exchange(server.address, "/dynamic?upstream=a&server=[::1]:80&down=", timeout=60.0)

    assert server.requests[0].startswith(b"GET /dynamic?upstream=a&server=[::1]:80&down= HTTP/1.1\r\n")
    assert b"\r\nConnection: close\r\n" in server.requests[0]


def test_headers_replace_the_defaults(server: ScriptedServer) -> None:
    """In any spelling, and each is sent once."""
    http.exchange(server.address, "/", headers={"host": "localhost:1", "X-Key": "a b"}, timeout=60.0)

    assert b"\r\nHost: localhost:1\r\n" in server.requests[0]
    assert b"\r\nX-Key: a b\r\n" in server.requests[0]
    assert server.requests[0].lower().count(b"\r\nhost:") == 1


def test_body_is_sent_with_its_length(server: ScriptedServer) -> None:
    """And a PUT without one says so."""
    http.exchange(server.address, "/", method="PUT", body=b"abc", timeout=60.0)
    http.exchange(server.address, "/", method="PUT", timeout=60.0)

    assert b"\r\nContent-Length: 3\r\n" in server.requests[0]
    assert b"\r\nContent-Length: 0\r\n" in server.requests[1]


@pytest.mark.parametrize(
    "path, method, headers",
    [
        ("/a b", "GET", {}),
        ("/a\r\nX: y", "GET", {}),
        ("/ü", "GET", {}),
        ("", "GET", {}),
        ("/", "GET /x", {}),
        ("/", "get", {}),
        ("/", "GET", {"X": "a\r\nY: b"}),
        ("/", "GET", {"X": "a\0"}),
        ("/", "GET", {"X Y": "a"}),
        ("/", "GET", {"X": "\N{EURO SIGN}"}),
    ],
)
def test_what_could_be_misread_is_never_sent(
    server: ScriptedServer, path: str, method: str, headers: dict[str, str]
) -> None:
    """A line break in a value would be a second request."""
    with pytest.raises(ValueError, match=r"characters|capital letters"):
        http.exchange(server.address, path, method=method, headers=headers, timeout=60.0)

    assert server.connections == 0


@pytest.mark.parametrize(
    "address, host",
    [
        (http.TCPAddress("lb1", 80), "lb1"),
        (http.TCPAddress("lb1", 443), "lb1:443"),
        (http.TCPAddress("lb1", 443, ssl.create_default_context()), "lb1"),
        (http.TCPAddress("::1", 81), "[::1]:81"),
        (http.UnixAddress("/run/s"), "localhost"),
    ],
)
def test_host_names_the_server(address: http.Address, host: str) -> None:
    """Without the port that its scheme implies (RFC 9110, 4.2)."""
    assert f"\r\nHost: {host}\r\n".encode() in http._request(address, "GET", "/", {}, None)


# ---------------------------------------------------------------- whole answers


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 3\r\n\r\nabc",
        OK + b"Content-Length: 3, 3\r\n\r\nabc",
        OK + b"Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n01 \r\nc\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
        b"HTTP/1.1 200\n\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 3\r\n\r\nabc",
    ],
)
def test_whole_answer_is_read(server: ScriptedServer, answer: bytes) -> None:
    """In each way that HTTP has to say where a body ends."""
    found = ask(server, answer)
    assert (found.status, found.body) == (200, b"abc")


@pytest.mark.parametrize("status", [301, 404, 500, 599])
def test_any_status_is_an_answer(server: ScriptedServer, status: int) -> None:
    """What it means is the caller's business; no redirect is followed."""
    found = ask(server, f"HTTP/1.1 {status} X\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n".encode())
    assert (found.status, len(server.requests)) == (status, 1)


def test_headers_are_found_in_any_spelling(server: ScriptedServer) -> None:
    """A repeated one is joined, and the space around a value is not part of it."""
    found = ask(server, OK + b'ETag:  "a b" \r\nVary: x\r\nvary: y\r\nContent-Length: 0\r\n\r\n').headers

    assert (found["etag"], found.get("VARY"), found.get("Nope")) == ('"a b"', "x, y", None)
    assert sorted(found) == ["content-length", "etag", "vary"]


@pytest.mark.parametrize(
    "method, answer",
    [
        ("HEAD", OK + b"Content-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    ],
)
def test_some_answers_have_no_body(server: ScriptedServer, method: str, answer: bytes) -> None:
    """Whatever their head says, and though the connection stays open (RFC 9112, 6.3)."""
    server.hold.clear()
    assert ask(server, answer, method=method).body == b""


def test_answer_that_comes_before_the_request_was_read_counts(server: ScriptedServer) -> None:
    """A server that refuses a large body says why before it hangs up."""
    server.answers = [b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"]
    try:
        found = http.exchange(server.address, "/", method="POST", body=bytes(10_000_000), timeout=60.0)
    except http.IncompleteError as error:  # the reset may overtake the answer
        assert "reset" in str(error)  # noqa: PT017 (either is right)
    else:
        assert found.status == 413


# ---------------------------------------------------------------- answers that are not whole


@pytest.mark.parametrize(
    "answer, words",
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK", "cut off"),
        (OK, "cut off"),
        (OK + b"Content-Length: 3\r\n", "cut off"),
        (OK + b"Content-Length: 3\r\n\r", "cut off"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "cut off"),
        (OK + b"Content-Length: 4\r\n\r\nabc", "cut off after 3 of 4 bytes"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", "cut off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", "cut off after 2 bytes"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "cut off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "cut off"),
    ],
)
def test_answer_that_is_cut_off_is_an_error(server: ScriptedServer, answer: bytes, words: str) -> None:
    """In its head as in its body."""
    with pytest.raises(http.IncompleteError, match=words):
        ask(server, answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"<html>hello</html>\n\n",
        b"\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"A : b\r\n\r\n",
        OK + b"A: b\r\n folded\r\n\r\n",
        OK + b"A: b\0c\r\n\r\n",
        OK + b"A: b\rc\r\n\r\n",
        *(
            OK + b"Content-Length: " + length + b"\r\n\r\nabc"
            for length in (b"-5", b"+3", b"0x10", b"3.0", b"1_0", b"", b"3, 4", b"9" * 30, b"\xb2", b"3 3")
        ),
        *(
            OK + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\nabc\r\n0\r\n\r\n"
            for size in (b"-5", b"+3", b"0x3", b"", b"zz", b" 3", b"f" * 20, b"3 3")
        ),
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_valid_http_is_an_error(server: ScriptedServer, answer: bytes) -> None:
    """A doubtful length above all: others might see the end of the body elsewhere."""
    with pytest.raises(http.NotHTTPError, match=r"HTTP|protocol"):
        ask(server, answer)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 1001\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + bytes(100) + b"\r\n385\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + bytes(1001),
    ],
)
def test_body_that_is_too_large_is_not_read_to_its_end(server: ScriptedServer, answer: bytes) -> None:
    """As soon as its size is known, or it has come."""
    server.hold.clear()
    with pytest.raises(http.TooLargeError, match="more than 1000 bytes"):
        ask(server, answer)


def test_body_of_the_largest_size_is_taken(server: ScriptedServer) -> None:
    """The limit itself is allowed."""
    assert len(ask(server, OK + b"Content-Length: 1000\r\n\r\n" + bytes(1000)).body) == 1000


@pytest.mark.parametrize(
    "answer",
    [
        b"x" * 100_000,
        OK + b"A: " + b"b" * 100_000,
        OK + b"A: b\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 2000,
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 20_000,
    ],
)
def test_head_that_is_too_large_is_an_error(server: ScriptedServer, answer: bytes) -> None:
    """However it is spread over lines, interim answers and trailers."""
    server.hold.clear()
    with pytest.raises(http.TooLargeError, match="the head of the answer is too large"):
        ask(server, answer)


# ---------------------------------------------------------------- several exchanges, streams


def test_connection_serves_several_exchanges(server: ScriptedServer) -> None:
    """Where the server keeps it open."""
    server.keep = True
    with http.Connection(server.address) as connection:
        found = [connection.exchange(f"/{number}", timeout=60.0).body for number in range(3)]

    assert (found, server.connections, len(server.requests)) == ([b"ok"] * 3, 1, 3)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
    ],
)
def test_connection_that_the_server_gives_up_is_made_anew(server: ScriptedServer, answer: bytes) -> None:
    """It says so; or it sends more than was asked, which must not answer the next request."""
    server.answers = [answer]
    with http.Connection(server.address) as connection:
        found = [connection.exchange("/", timeout=60.0).body for _ in range(2)]

    assert (found, server.connections) == ([b"ok", b"ok"], 2)


def test_connection_that_was_closed_while_idle_is_made_anew(server: ScriptedServer) -> None:
    """Servers hang up on those that are silent for long."""
    with http.Connection(server.address) as connection:
        connection.exchange("/", timeout=60.0)
        wire = connection._wire
        assert wire is not None
        wire._socket.recv(1, socket.MSG_PEEK)  # until the end has come
        assert connection.exchange("/", timeout=60.0).body == b"ok"


def test_exchange_is_given_up_from_another_thread(server: ScriptedServer) -> None:
    """At once, and for good."""
    server.answers = [b""]
    server.hold.clear()
    connection = http.Connection(server.address)
    aborting = threading.Timer(0.2, connection.abort)
    aborting.start()
    with pytest.raises(http.IncompleteError):
        connection.exchange("/", timeout=30.0)
    with pytest.raises(http.StoppedError):
        connection.exchange("/", timeout=30.0)
    aborting.join()


def test_unread_answer_is_not_taken_for_the_next(server: ScriptedServer) -> None:
    """The connection is made anew."""
    server.keep = True
    with http.Connection(server.address) as connection:
        assert connection.send("/", timeout=60.0).status == 200
        connection.close()
        assert connection.exchange("/", timeout=60.0).body == b"ok"


def test_stream_is_read_in_pieces(server: ScriptedServer) -> None:
    """And knows how much there is."""
    server.answers = [OK + b"Content-Length: 100000\r\n\r\n" + bytes(100_000)]
    with http.Connection(server.address) as connection:
        answer = connection.send("/", timeout=60.0)
        first = answer.read(10)
        rest = list(answer)

    assert (len(first), answer.length, answer.size, len(b"".join(rest))) == (10, 100_000, 100_000, 99_990)
    assert answer.read() == b""


def test_stream_that_breaks_off_gives_what_came(server: ScriptedServer) -> None:
    """So that the rest can be asked for."""
    server.answers = [OK + b"Content-Length: 5\r\n\r\nabc"]
    with http.Connection(server.address) as connection:
        answer = connection.send("/", timeout=60.0)
        assert answer.read() == b"abc"
        with pytest.raises(http.IncompleteError, match="after 3 of 5 bytes"):
            answer.read()


def test_many_threads_ask_at_once(tmp_path: Path) -> None:
    """No exchange shares anything with another."""
    found: list[bytes] = []
    with scripted_server(tmp_path / "s") as server:
        threads = [
            threading.Thread(
                target=lambda: found.append(http.exchange(server.address, "/", timeout=60.0).body)
            )
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert found == [b"ok"] * 20


# ---------------------------------------------------------------- what it costs


def test_import_is_light() -> None:
    """Commands that must start at once use it."""
    heavy = ("ssl", "http.client", "email", "dataclasses", "pydantic", "urllib3", "asyncio", "logging")
    # Where coverage is measured some are there before.
    script = (
        "import sys; before = set(sys.modules); import agentd.http;"
        f" sys.exit(' '.join(set({heavy}) & (set(sys.modules) - before)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
