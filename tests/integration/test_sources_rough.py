"""References from servers with bad manners: broken bodies, silence, bytes without end."""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.errors import PermanentError, TemporaryError
from tests.integration.fetching import new_fetcher
from tests.servers.rough import Asked, Manner, RoughServer, dribbles, head, says_nothing, sends, serves
from tests.servers.tls import Certificate

BODY = random.Random(7).randbytes(300_000)
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"

NewServer = Callable[..., RoughServer]


@pytest.fixture
def new_server() -> Iterator[NewServer]:
    """Make rough servers: `new_server(manner, manner, ...)`."""
    with ExitStack() as stack:

        def make(*manners: Manner) -> RoughServer:
            server = RoughServer(list(manners))
            stack.callback(server.stop)
            return server

        yield make


def test_a_broken_body_is_taken_up_where_it_broke(new_server: NewServer, directory: Path) -> None:
    """Twice, and each byte is sent once."""
    server = new_server(
        serves(BODY, etag='"a"', cut=100_000), serves(BODY, etag='"a"', cut=50_000), serves(BODY, etag='"a"')
    )
    fetch = new_fetcher(directory, server.url)
    assert fetch(f"{server.url}/a {DIGEST}").read_bytes() == BODY
    asked = [request.headers.get("range") for request in server.asked]
    assert asked[0] is None
    starts = [int(str(text).removeprefix("bytes=").removesuffix("-")) for text in asked[1:]]
    assert 0 < starts[0] <= 100_000
    assert starts[0] < starts[1] <= 150_000


def test_a_server_without_ranges_sends_all_of_it_again(new_server: NewServer, directory: Path) -> None:
    """The halves are not put together."""
    server = new_server(serves(BODY, etag='"a"', cut=100_000), serves(BODY, etag='"a"', ranges=False))
    assert new_fetcher(directory, server.url)(f"{server.url}/a {DIGEST}").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_as_a_whole(new_server: NewServer, directory: Path) -> None:
    """The server's If-Range sees to it."""
    server = new_server(serves(bytes(len(BODY)), etag='"old"', cut=100_000), serves(BODY, etag='"new"'))
    assert new_fetcher(directory, server.url)(f"{server.url}/a {DIGEST}").read_bytes() == BODY


def test_chunks_that_break_off_are_noticed(new_server: NewServer, directory: Path) -> None:
    """Without a length, the end of the chunks is what counts."""
    chunk = b"4\r\nabcd\r\n"
    begin = head(200, Transfer_Encoding="chunked")
    server = new_server(sends(begin, chunk), sends(begin, chunk, b"0\r\n\r\n"))
    assert new_fetcher(directory, server.url)(f"{server.url}/a").read_bytes() == b"abcd"
    assert len(server.asked) == 2


def test_it_gives_up_in_the_end(new_server: NewServer, directory: Path) -> None:
    """And leaves nothing on disk."""
    server = new_server(serves(BODY, etag='"a"', cut=0))
    with pytest.raises(TemporaryError, match="broke off 3 times"):
        new_fetcher(directory, server.url, attempts=3)(f"{server.url}/a")
    assert [path for path in (directory / "fetched").rglob("*") if path.is_file()] == []


def test_an_endless_body_is_cut(new_server: NewServer, directory: Path) -> None:
    """Without a length, at the limit."""
    server = new_server(sends(head(200), *[bytes(65_536)] * 64))
    with pytest.raises(PermanentError, match="at most 100000"):
        new_fetcher(directory, server.url, max_size=100_000)(f"{server.url}/a")


def test_silence_is_not_waited_for_for_ever(new_server: NewServer, directory: Path) -> None:
    """The read time limit."""
    server = new_server(says_nothing(60.0))
    began = time.monotonic()
    with pytest.raises(TemporaryError, match="timed out after"):
        new_fetcher(directory, server.url, read_timeout="300ms")(f"{server.url}/a")
    assert time.monotonic() - began < 50.0


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX-Slow: ", head(200, Content_Length=10_000), head(200)]
)
def test_a_dribble_ends_with_the_time(new_server: NewServer, directory: Path, start: bytes) -> None:
    """In the head or in the body: each read succeeds, and the whole still has an end."""
    server = new_server(dribbles(start, pause=0.05, seconds=60.0))
    began = time.monotonic()
    with pytest.raises(TemporaryError, match="not fetched within 1 s"):
        new_fetcher(directory, server.url, total_timeout="1s")(f"{server.url}/a")
    assert time.monotonic() - began < 50.0


def test_the_end_of_the_attempt_is_the_end_of_the_fetch(new_server: NewServer, directory: Path) -> None:
    """Whatever `total_timeout` would allow."""
    server = new_server(says_nothing(60.0))
    with pytest.raises(TemporaryError, match="not fetched within"):
        new_fetcher(directory, server.url, seconds=0.5)(f"{server.url}/a")


def test_a_stop_ends_it(new_server: NewServer, directory: Path) -> None:
    """A daemon that is told to stop does not wait for a server."""
    stop, server = threading.Event(), new_server(says_nothing(60.0))
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(TemporaryError, match="agentd is stopping"):
        new_fetcher(directory, server.url, stop=stop)(f"{server.url}/a")
    timer.join()
    assert time.monotonic() - began < 50.0


def test_a_head_that_breaks_off_is_no_answer(new_server: NewServer, directory: Path) -> None:
    """The standard library would take it for a complete answer with an empty body."""
    server = new_server(sends(b"HTTP/1.1 200 OK\r\nServer: x\r\n"))
    with pytest.raises(TemporaryError, match="the answer was cut off"):
        new_fetcher(directory, server.url)(f"{server.url}/a")


def test_a_tls_answer_that_ends_without_notice_is_cut_off(directory: Path, certificate: Certificate) -> None:
    """Its head says no length, so anybody on the way could have cut the connection (RFC 9112, 9.8)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection = context.wrap_socket(listener.accept()[0], server_side=True)
            with connection:  # closing it sends no close_notify
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nabc")

        server = threading.Thread(target=serve)
        server.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/a"
        fetch = new_fetcher(directory, url, attempts=1, ca_file=str(certificate.certificate))
        with pytest.raises(TemporaryError, match="broke off 1 times, last after 3 bytes"):
            fetch(url)
        server.join()


def test_a_head_that_says_there_is_no_body_is_an_answer(new_server: NewServer, directory: Path) -> None:
    """An empty file is a file."""
    server = new_server(sends(head(200, Content_Length=0)))
    assert new_fetcher(directory, server.url)(f"{server.url}/a").read_bytes() == b""


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\x16\x03\x01"]
)
def test_what_is_no_http_is_for_later(new_server: NewServer, directory: Path, answer: bytes) -> None:
    """A server that is being replaced, or another protocol; nothing of it is quoted."""
    server = new_server(sends(answer))
    fetch = new_fetcher(directory, server.url, attempts=1)
    with pytest.raises(TemporaryError, match=r"not (valid )?HTTP|cut off|without an answer") as caught:
        fetch(f"{server.url}/a?sig=SECRET")
    assert "SECRET" not in str(caught.value)
    assert "nonsense" not in str(caught.value)


def endless(start: bytes, more: bytes) -> Manner:
    """Send the start, and more of it until the client has enough."""

    def manner(client: socket.socket, _: Asked) -> None:
        client.sendall(start)
        client.settimeout(20)
        while True:
            client.sendall(more * 100)

    return manner


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = head(200, Transfer_Encoding="chunked")


@pytest.mark.parametrize(
    "manner,reason",
    [
        (sends(CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"), "no usable size"),
        (sends(CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n"), "no usable size"),
        (sends(CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"), "no usable size"),
        (sends(CHUNKED, b"0_5\r\nhello\r\n0\r\n\r\n"), "no usable size"),
        (sends(CHUNKED, b" 5\r\nhello\r\n0\r\n\r\n"), "no usable size"),
        (sends(CHUNKED, b"\r\nhello\r\n0\r\n\r\n"), "no usable size"),
        (sends(CHUNKED, b"5" * 5000 + b"\r\nhello\r\n0\r\n\r\n"), "too large"),
        (sends(CHUNKED, b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n"), "too large"),
        (endless(CHUNKED, b"1;" + b"a" * 1000 + b"\r\nx\r\n"), "chunks' headers"),
        (endless(CHUNKED, b"1\r\nx\r\n"), "max_size"),
        (endless(CHUNKED + b"0\r\n", b"a: b\r\n"), "too large"),
        (endless(OK, b"a: b\r\n"), "too large"),
        (endless(OK + b"a: ", b"b"), "too large"),
        (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "too large"),
        (endless(b"", b"\r\n"), "not HTTP"),
        (sends(OK, b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"), "Content-Length"),
        (sends(OK, b"Content-Length: -5\r\n\r\nhello"), "Content-Length"),
        (sends(OK, b"Content-Length: +5\r\n\r\nhello"), "Content-Length"),
        (sends(OK, b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello"), "Content-Length"),
        (sends(OK, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "not clear"),
        (sends(OK, b"X: a\x00b\r\n\r\nhello"), "not a header"),
        (sends(head(304), b"hello"), "answered 304 instead of 200"),
        (sends(head(204), b"hello"), "answered 204 instead of 200"),
        (sends(head(302, Location="/a")), "more than 5 redirects"),
        (sends(head(302, Location="http://127.0.0.2/a")), "a place that is not allowed"),
        (sends(head(302, Location="https://127.0.0.1/a")), "a place that is not allowed"),
        (sends(head(302, Location="file:///etc/passwd")), "not followed"),
        (sends(head(302)), "without saying where"),
        (sends(head(302, Location="http://[::1/a")), "unusable address"),
    ],
)
def test_a_hostile_answer_is_an_error_of_its_fetch(
    new_server: NewServer, directory: Path, manner: Manner, reason: str
) -> None:
    """Clear, and soon; nothing of it is kept."""
    server = new_server(manner)
    began = time.monotonic()
    fetch = new_fetcher(directory, server.url, attempts=2, max_size=10_000)

    with pytest.raises((TemporaryError, PermanentError), match=reason):
        fetch(f"{server.url}/a")

    assert time.monotonic() - began < 50
    assert not [path for path in (directory / "fetched").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "text", ["9" * 5000, "-5", "nan", "inf", "1e400", "Thu, 01 Jan 99999999999 00:00:00 GMT"]
)
def test_a_wait_that_makes_no_sense_is_bounded(new_server: NewServer, directory: Path, text: str) -> None:
    """A server may not put us off for more than an hour."""
    server = new_server(sends(head(503, Retry_After=text)))

    with pytest.raises(TemporaryError, match="answered 503") as raised:
        new_fetcher(directory, server.url)(f"{server.url}/a")

    assert raised.value.retry_after is None or 0 <= raised.value.retry_after <= 3600
