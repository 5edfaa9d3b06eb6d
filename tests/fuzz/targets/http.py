"""HTTP: answers, requests, dates, redirects, and references."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

from agentd import http
from agentd.errors import HandlerError, PermanentError
from agentd.handler import Known
from agentd.report.request import BadRequest, parse
from agentd.sources.allowlist import Allowlist
from agentd.sources.fetcher import Fetcher, Sources
from agentd.sources.options import SourceOptions
from agentd.sources.reference import parse_digest, parse_location, parse_reference
from agentd.sources.request import WebRequest
from agentd.sources.validators import retry_after
from agentd.testing.staging import RecordedLog
from tests.fuzz.served import answer, served, unpacked_here
from tests.fuzz.target import target

_PREFIX = "http://feeds.example/v1/"
_NOW = 1_700_000_000.0
_BETWEEN = b"\n--next answer--\n"


@target(http.ExchangeError)
def http_answer(data: bytes) -> None:
    """Any bytes as an answer."""
    for method in ("GET", "HEAD"):
        with served(data), suppress(http.ExchangeError):
            got = http.exchange(http.UnixAddress("/x"), "/", method=method, timeout=5.0, max_size=10_000)
            assert len(got.body) <= 10_000
            assert 100 <= got.status <= 999


@target(BadRequest)
def http_request(data: bytes) -> None:
    """Any bytes as the head of a request to the listener."""
    request = parse(data)
    assert request.method in ("GET", "HEAD")
    assert request.path.startswith("/")


@target()
def http_retry_after(data: bytes) -> None:
    """A Retry-After header, as it came in an answer that was valid otherwise."""
    wait = retry_after(data.decode("latin-1"), _NOW)
    assert wait is None or (math.isfinite(wait) and 0 <= wait <= 3600)


@target(HandlerError)
def http_fetch(data: bytes) -> None:
    """Whole answers, one after another, to the fetch of a payload: redirects, ranges, packing."""
    options = SourceOptions(allow=(_PREFIX,), attempts=1, max_size=50_000, max_expanded=200_000)
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        sources = Sources(options, Path(directory))
        files = sources.new_directory()
        fetch = Fetcher(sources, files, time.monotonic() + 60, RecordedLog())
        with closing(files), served(*data.split(_BETWEEN)[:4]), unpacked_here():
            fetched = fetch.if_changed(f"{_PREFIX}list.gz", Known("e", "Thu, 01 Jan 1970 00:00:00 GMT"))
            assert fetched is None or fetched.path.stat().st_size <= 200_000


@target(HandlerError)
def http_fetch_headers(data: bytes) -> None:
    """The headers of a good answer: dates, validators, ranges, encodings."""
    lines = [line for line in data.decode("latin-1").split("\n") if line.isprintable() and ": " in line]
    headers = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    body = answer(b"192.0.2.1\n").replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n", 1)
    http_fetch.run(_BETWEEN.join((body, body)))


@target(PermanentError)
def http_redirect(data: bytes) -> None:
    """Where a Location header leads: nowhere that is not allowed."""
    request = WebRequest(parse_location(f"{_PREFIX}a/list"), Allowlist.of((_PREFIX,)))
    found = request._next(request.location, data.decode("latin-1"))
    assert str(found).startswith(_PREFIX)


@target(ValueError)
def reference(data: bytes) -> None:
    """A reference, which is normalised once and for all."""
    text = data.decode("latin-1")
    with suppress(ValueError):
        parse_digest(text)
    found = parse_reference(text)
    assert parse_location(found.location.url) == found.location
    with suppress(PermanentError):
        Allowlist.of((_PREFIX, "file:/srv/lists/", "s3://bucket/a/")).check(found.location)
        assert str(found.location).startswith((_PREFIX, "file:/srv/lists/", "s3://bucket/a/"))
