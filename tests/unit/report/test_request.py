"""Which requests are for us, and that no answer holds what was asked."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.report.request import BadRequest, Request, Response, encode, is_loopback_name, parse


def _head(first: str = "GET /healthz HTTP/1.1", *headers: str) -> bytes:
    return "\r\n".join([first, *(headers or ("Host: localhost:9521",))]).encode("latin-1")


def _refusal(head: bytes) -> HTTPStatus:
    with pytest.raises(BadRequest) as refused:
        parse(head)
    return refused.value.status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_proper_request_gives_method_and_path(method: str) -> None:
    """The query string is no part of the path."""
    asked = parse(_head(f"{method} /metrics?debug=1 HTTP/1.1"))

    assert asked == Request(method, "/metrics", "localhost:9521")


def test_the_old_version_is_understood() -> None:
    """HTTP/1.0 is what simple probes speak."""
    assert parse(_head("GET /healthz HTTP/1.0")).path == "/healthz"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_not_allowed(method: str) -> None:
    """There is nothing here to change."""
    assert _refusal(_head(f"{method} /healthz HTTP/1.1")) is HTTPStatus.METHOD_NOT_ALLOWED


@pytest.mark.parametrize(
    "first",
    [
        "",
        "GET /healthz",
        "get /healthz HTTP/1.1",
        "GET healthz HTTP/1.1",
        "GET  /healthz HTTP/1.1",
        "GET /heal thz HTTP/1.1",
        "GET /\xe9 HTTP/1.1",
        "GET http://localhost/healthz HTTP/1.1",
        "GET /healthz HTTP/2.0",
        "GET /healthz HTTP/1.1 ",
    ],
)
def test_a_malformed_request_line_is_refused(first: str) -> None:
    """Only the origin form of a path in ASCII is taken."""
    assert _refusal(_head(first)) is HTTPStatus.BAD_REQUEST


def test_a_request_needs_one_host() -> None:
    """No Host header, or two of them, is refused (RFC 9112, 3.2)."""
    assert _refusal(_head("GET / HTTP/1.1", "Accept: */*")) is HTTPStatus.BAD_REQUEST
    assert _refusal(_head("GET / HTTP/1.1", "Host: localhost", "host: localhost")) is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9521", "127.0.0.1:9521", "127.3.2.1", "[::1]", "[::1]:9521"]
)
def test_names_of_loopback_are_accepted(host: str) -> None:
    """A local client names the node's loopback in one of these ways."""
    assert is_loopback_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "rebound.example",
        "localhost.rebound.example",
        "127.0.0.1.rebound.example",
        "localhost:",
        "localhost:9521:1",
        "localhost:999999",
        "::1",
        "[::2]:80",
        "10.0.0.1",
        "0.0.0.0",  # noqa: S104 (a Host header, nothing is bound)
        "2130706433",
        "user@localhost",
    ],
)
def test_other_names_are_turned_away(host: str) -> None:
    """A page whose name was rebound to 127.0.0.1 must not read the answers."""
    assert not is_loopback_name(host)


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused_in_order(head: bytes) -> None:
    """Whatever comes, it is either a request or refused; no other error comes out."""
    try:
        request = parse(head)
    except BadRequest:
        return
    assert request.method in ("GET", "HEAD")
    assert request.path.startswith("/")


def test_an_answer_tells_its_length_and_that_it_is_the_last() -> None:
    """The connection closes after each answer, and nobody may keep or guess at the content."""
    head, _, body = encode(Response(HTTPStatus.OK, b"fine"), body=True).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    headers = (b"Content-Length: 4", b"Connection: close", b"Cache-Control: no-store", b"nosniff")
    for header in (
        *headers,
        b"default-src 'none'",
        b"frame-ancestors 'none'",
        b"no-referrer",
        b"same-origin",
    ):
        assert header in head
    assert body == b"fine"


def test_a_head_request_gets_the_same_head_without_the_body() -> None:
    """The length tells how long the body would be."""
    answer = encode(Response(HTTPStatus.OK, b"fine"), body=False)

    assert b"Content-Length: 4" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_method_that_is_not_allowed_is_told_which_are() -> None:
    """A 405 must carry Allow (RFC 9110, 15.5.6)."""
    assert b"Allow: GET, HEAD" in encode(Response(HTTPStatus.METHOD_NOT_ALLOWED, b""), body=True)
