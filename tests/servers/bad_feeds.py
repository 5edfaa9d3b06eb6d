"""A web server of three blacklist feeds: a good one that changes, one that drips, one that is broken."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from tests.servers.ports import free_port

_ADDRESSES: Final = 100
_DRIPS: Final = 0.5  # seconds between two bytes
_BOMB: Final = gzip.compress(b"192.0.2.1\n" * 10_000_000, 1)
_YEAR: Final = "Last-Modified: Wed, 21 Oct 99999999999 07:28:00 GMT\r\n"


def _answer(body: bytes, *lines: str, status: int = 200) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} Broken", *lines, "Connection: close"))
    return f"{head}\r\n".encode() + body


def _list(count: int) -> bytes:
    return b"".join(b"47.0.%d.1\n" % number for number in range(count))


_WAYS: Final[tuple[bytes, ...]] = (
    b"",  # it hangs up
    _answer(_list(200), "Content-Length: 2000"),  # and cuts short
    _answer(b"-5\r\n47.0.0.1\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    _answer(_list(200), "Content-Length: -1"),
    _answer(_list(200), _YEAR.strip(), _YEAR.strip().replace("Last-Modified", "Date")),
    _answer(_BOMB, f"Content-Length: {len(_BOMB)}", "Content-Encoding: gzip"),
    _answer(b"\x1f\x8b" + bytes(range(256)), "Content-Encoding: gzip"),
    _answer(b"<html><body>Please log in</body></html>", "Content-Type: text/html"),
    _answer(b"", "X: " + "x" * 100_000),
    _answer(b"", "Location: /broken", status=302),
    _answer(b"", "Retry-After: " + "9" * 400, status=503),
    _answer(b"", status=404),
    _answer(b""),
    _answer(bytes(range(256)) * 4000),
    _answer(b"[" * 100_000),
    _answer(b"0.0.0.0/0\n::/0\n"),
    b"\xff\xfe\0\0" * 1000,
)


class BadFeeds:
    """The server: /good, /drip and /broken.

    Args:
        every: seconds after which the good feed has another version.

    Attributes:
        began: when its first version did, in unix seconds.
        asked: path -> when it was asked for, each time.
    """

    def __init__(self, every: float) -> None:
        self.began, self._every = time.time(), every
        self.asked: dict[str, list[float]] = {"/good": [], "/drip": [], "/broken": []}
        self._stopped = threading.Event()
        feeds = self

        class Asked(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                feeds.asked[self.path].append(time.time())
                feeds._answers[self.path](self.wfile.write)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._answers: dict[str, Callable[[Callable[[bytes], object]], None]] = {
            "/good": self._good,
            "/drip": self._drip,
            "/broken": self._broken,
        }
        self._server = _Server(("127.0.0.1", free_port()), Asked)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Hang up everywhere."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    # ------------------------------------------------------------------ the good one

    @property
    def version(self) -> int:
        """The version that it serves now, from 0."""
        return int((time.time() - self.began) / self._every)

    def replaced(self, version: int) -> float:
        """When a version gave way to the next one, in unix seconds."""
        return self.began + (version + 1) * self._every

    @staticmethod
    def address(version: int) -> str:
        """The address that only this version lists."""
        return f"46.{version // 250 % 250}.{version % 250}.1"

    def _good(self, write: Callable[[bytes], object]) -> None:
        lines = [f"45.200.{number}.1" for number in range(_ADDRESSES)]
        body = "\n".join([*lines, self.address(self.version), ""]).encode()
        write(_answer(body, f"Content-Length: {len(body)}"))

    # ------------------------------------------------------------------ the bad ones

    def _drip(self, write: Callable[[bytes], object]) -> None:
        write(_answer(b"", "Content-Length: 1000000"))
        while not self._stopped.wait(_DRIPS):
            write(b"4")

    def _broken(self, write: Callable[[bytes], object]) -> None:
        write(_WAYS[len(self.asked["/broken"]) % len(_WAYS)])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that has had enough is no error here."""
