"""One client of the listener, plain or with TLS: what was received, what is still to be sent, and until when.

No method waits: those that cannot go on raise `Blocked`, which says for what the socket has to be watched.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from agentd.report.request import Response


class Blocked(Exception):  # noqa: N818 (nothing is wrong)
    """It can go on once this happens to the socket: `selectors.EVENT_READ` or `EVENT_WRITE`."""

    def __init__(self, event: int) -> None:
        super().__init__(event)
        self.event = event


class Connection:
    """One client.

    Args:
        client: as accepted; closed with the connection.
        context: with which it is secured; None: not at all.
        patience: seconds for the handshake and the head.

    Attributes:
        since: monotonic seconds.
        deadline: monotonic seconds; None while its answer is made.
        body: whether the answer is to have its body.
        delayed: the answer that is sent at the deadline; None if there is none.
        unsent: what is left of the answer; None before there is one.

    Raises:
        OSError: the client is gone.
    """

    def __init__(self, client: socket.socket, context: ssl.SSLContext | None, patience: float) -> None:
        client.setblocking(False)  # noqa: FBT003 (the library's signature)
        self.client = client if context is None else _secured(client, context)
        self.since = time.monotonic()
        self.deadline: float | None = self.since + patience
        self.head = b""
        self.body = True
        self.delayed: Response | None = None
        self.unsent: deque[memoryview] | None = None
        self.drained = 0
        self._shaken = context is None

    def receive(self, most: int) -> bytes:
        """What has arrived of the request; b"" if the client has ended. Raises Blocked, OSError."""
        with _translated(selectors.EVENT_READ):
            if not self._shaken:
                assert isinstance(self.client, ssl.SSLSocket)  # noqa: S101 (tells mypy)
                self.client.do_handshake()
                self._shaken = True
            return self.client.recv(most)

    def answer(self, parts: Iterable[bytes]) -> None:
        """Have these sent by `send`."""
        self.unsent = deque(memoryview(part) for part in parts if part)

    def send(self) -> None:
        """Send what is left of the answer, and that it was the last. Raises Blocked, OSError."""
        unsent = self.unsent or deque()
        while unsent:
            with _translated(selectors.EVENT_WRITE):
                sent = self.client.send(unsent[0])
            unsent[0] = unsent[0][sent:]
            if not unsent[0]:
                unsent.popleft()
        if isinstance(self.client, ssl.SSLSocket):
            with suppress(OSError, ValueError):  # it says goodbye; the client's own is not waited for
                self.client.unwrap()
        self.client.shutdown(socket.SHUT_WR)  # from now on, TLS is over as well

    def drain(self, most: int) -> bytes:
        """What the client still sends, which means nothing. Raises Blocked, OSError."""
        with _translated(selectors.EVENT_READ):
            return self.client.recv(most)


def _secured(client: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
    except BaseException:
        client.close()
        raise


@contextmanager
def _translated(event: int) -> Iterator[None]:
    """What a socket says that would have to wait, as `Blocked`; a plain one waits for that event."""
    try:
        yield
    except BlockingIOError:
        raise Blocked(event) from None
    except ssl.SSLWantReadError:
        raise Blocked(selectors.EVENT_READ) from None
    except ssl.SSLWantWriteError:
        raise Blocked(selectors.EVENT_WRITE) from None
