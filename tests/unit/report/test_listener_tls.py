"""The listener with TLS and a token: nobody who is slow, or speaks something else, holds it up."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from agentd.options import StatusOptions
from agentd.report import listener
from agentd.report.access import Access
from agentd.report.certificate import trusting
from agentd.report.listener import MOST_CONNECTIONS, Listener
from agentd.report.request import Response
from tests.servers.equipment import require
from tests.unit.report.test_access import TOKEN, make_certificate

_PAGES = {"/large": bytes(3_000_000)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A certificate, its key, and a token."""
    require("openssl")
    directory = tmp_path_factory.mktemp("tls")
    token = directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    return *make_certificate(directory, "DNS:localhost"), token


@pytest.fixture
def secured(files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A listener with them; clients may be slow, on a busy machine, unless that is what the test is about."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 60.0)
    cert, key, token = files
    access = Access(StatusOptions(cert_file=cert, key_file=key, token_file=token))
    access.load()
    serving = Listener(
        ("127.0.0.1", 0),
        lambda path: Response(HTTPStatus.OK, _PAGES.get(path, b"fine"), "text/plain"),
        access=access,
    )
    serving.start()
    yield serving
    serving.stop()


def _ask(to: Listener, cert: Path, token: str = TOKEN, path: str = "/", **limits: ssl.TLSVersion) -> bytes:
    context = trusting(cert)
    for name, version in limits.items():
        setattr(context, name, version)
    with (
        socket.create_connection(to.address, timeout=60) as plain,
        context.wrap_socket(plain, suppress_ragged_eofs=False) as client,
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        client.sendall(head.encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_serves_tls(secured: Listener, files: tuple[Path, Path, Path], version: ssl.TLSVersion) -> None:
    """Small pages and large ones, to the end, with a proper goodbye."""
    assert _ask(secured, files[0], maximum_version=version).endswith(b"\r\n\r\nfine")
    assert len(_ask(secured, files[0], path="/large", maximum_version=version)) > 3_000_000


def test_a_wrong_token_is_answered_late(
    secured: Listener, files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that few can be tried; meanwhile others are served."""
    monkeypatch.setattr(listener, "GUESS_DELAY", 0.4)
    began = time.monotonic()

    answer = _ask(secured, files[0], token="wrong")

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"WWW-Authenticate: Basic" in answer
    assert time.monotonic() - began >= 0.4


def test_a_client_that_does_not_shake_hands_holds_nobody_up(
    secured: Listener, files: tuple[Path, Path, Path]
) -> None:
    """Silent ones, half a hello, and plain HTTP, as many as there are places."""
    hello = ssl.MemoryBIO()
    asking = trusting(files[0]).wrap_bio(ssl.MemoryBIO(), hello)
    with suppress(ssl.SSLWantReadError):
        asking.do_handshake()
    half = hello.read()[:100]
    with ExitStack() as stack:
        for number in range(MOST_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(secured.address, timeout=60))
            client.sendall((b"", half, b"GET / HTTP/1.1\r\n\r\n")[number % 3])

        assert _ask(secured, files[0]).endswith(b"fine")


def test_a_handshake_has_a_short_time(secured: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not extend it."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 0.2)
    with socket.create_connection(secured.address, timeout=60) as client:
        client.sendall(b"\x16\x03\x01")
        with suppress(ConnectionError):
            assert client.recv(1) == b""


def test_an_old_version_of_tls_is_refused(secured: Listener, files: tuple[Path, Path, Path]) -> None:
    """TLS 1.1 and earlier are broken."""
    context = trusting(files[0])
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(secured.address, timeout=60) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)
