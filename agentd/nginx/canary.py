"""Asks nginx's workers which generation they serve, over the unix socket of the canary (see `include`).

Owns the questions, and what can be known of the socket itself: whether somebody listens, and whether its file
was removed from under the listener. Whichever worker accepts a connection first answers it; so that all of
them do, many questions are asked at once, each on a connection of its own. Must not keep a connection open: a
draining worker would wait for it.
"""

from __future__ import annotations

import re
import selectors
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple, Self

from agentd.http import ConnectError, ExchangeError, UnixAddress, exchange

_REQUEST: Final = b"GET /generation HTTP/1.0\r\n\r\n"
_LARGEST: Final = 64
_LARGEST_ANSWER: Final = 4096
_PATIENCE: Final = 3.0
_MOST_PENDING: Final = 256
_BIND_TO_LISTEN: Final = 0.02
_STATUS: Final = re.compile(rb"[1-9][0-9]{2}")
_LONGEST_GENERATION: Final = 18
_PID: Final = re.compile("[0-9]{1,10}")
# num refcount protocol flags type state inode path
_SOCKET: Final = re.compile(rb"[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ ([0-9A-F]{8}) [0-9A-F]+ [0-9A-F]+ +[0-9]+ (.+)")
_LISTENING: Final = 0x10000  # __SO_ACCEPTCON in the flags of /proc/net/unix
_SOCKETS: Final = Path("/proc/self/net/unix")  # /proc/net is hidden where ProcSubset=pid is set


class Answer(NamedTuple):
    """What one worker said.

    Attributes:
        generation: such as "42", or e.g. "status 404" if the status is not 200.
        pid: the worker's, as it knows it; 0 if it did not say.
    """

    generation: str
    pid: int


def ask(path: Path, timeout: float = _PATIENCE) -> Answer:
    """What one worker answers.

    Args:
        path: the unix socket.
        timeout: seconds for the whole exchange.

    Raises:
        ExchangeError: nothing listens, or no complete answer arrived in time.
    """
    answer = exchange(UnixAddress(str(path)), "/generation", timeout=timeout, max_size=_LARGEST)
    return _answer(answer.status, answer.body)


class Questions:
    """Many questions at once; those without an answer yet stay open for a few seconds, then are given up.

    Args:
        path: the unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._heard: dict[socket.socket, tuple[float, bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in list(self._heard):
            self._close(connection)
        self._selector.close()

    def ask(self, count: int, wait: float) -> list[Answer]:
        """Ask `count` more times, and return the answers that arrive within `wait` seconds, at most.

        Raises:
            ConnectError: there is no socket, or nobody listens on it.
        """
        self._give_up()
        for _ in range(min(count, _MOST_PENDING - len(self._heard))):
            if not self._open():
                break
        answers: list[Answer] = []
        end = time.monotonic() + wait
        while self._heard and (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                answers += self._read(key.fileobj)  # type: ignore[arg-type] # only sockets are registered
        return answers

    def _open(self) -> bool:
        """Ask once; False if the listener's queue is full."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(self._path))
            connection.send(_REQUEST)
        except BlockingIOError:
            connection.close()
            return False
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            missing = isinstance(error, FileNotFoundError)
            raise ConnectError("there is no such socket" if missing else "nothing is listening") from error
        except OSError as error:
            connection.close()
            if isinstance(error, BrokenPipeError | ConnectionResetError):  # its worker ended just now
                return True
            raise ConnectError(f"{error.strerror}") from error
        self._heard[connection] = time.monotonic(), b""
        self._selector.register(connection, selectors.EVENT_READ)
        return True

    def _read(self, connection: socket.socket) -> Iterator[Answer]:
        began, heard = self._heard[connection]
        try:
            data = connection.recv(_LARGEST_ANSWER)
        except BlockingIOError:
            return
        except OSError:  # its worker ended
            data, heard = b"", b""
        if data and len(heard) < _LARGEST_ANSWER:
            self._heard[connection] = began, heard + data
            return
        self._close(connection)
        head, separator, body = heard.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if separator and len(words) > 1 and _STATUS.fullmatch(words[1]):
            yield _answer(int(words[1]), body)

    def _give_up(self) -> None:
        oldest = time.monotonic() - _PATIENCE
        for connection in [each for each, (began, _) in self._heard.items() if began < oldest]:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        del self._heard[connection]
        self._selector.unregister(connection)
        connection.close()


def _answer(status: int, body: bytes) -> Answer:
    if status != HTTPStatus.OK:
        return Answer(f"status {status}", 0)
    generation, _, pid = body.decode("ascii", "replace").strip().partition(" ")
    if len(generation) > _LONGEST_GENERATION:
        return Answer(f"{len(generation)} characters", 0)
    return Answer(generation, int(pid) if _PID.fullmatch(pid) else 0)


def answers(path: Path) -> bool:
    """Whether a worker answers at all."""
    try:
        ask(path)
    except ExchangeError:
        return False
    return True


def unlinked(path: Path) -> bool:
    """Whether a process of this host listens on the socket, but its file was removed or replaced.

    Nobody can connect to it then, and nginx keeps such a socket through reloads and binary upgrades. If
    another listens under its name, it cannot be told which is nginx's: ask only if nginx does not answer.

    Raises:
        OSError: the kernel's list of sockets cannot be read.
    """
    listening = opened(path)
    if listening != 1:
        return listening > 1  # the name leads to one of them
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False


def opened(path: Path) -> int:
    """How many sockets of this name are listened on, whether or not the name still leads to them.

    Raises:
        OSError: the kernel's list of sockets cannot be read.
    """
    return sum(_listens(line, path) for line in _SOCKETS.read_bytes().split(b"\n"))


def _listens(line: bytes, path: Path) -> bool:
    """Whether a line is its listener; some may be parts of a name, which may contain a newline."""
    found = _SOCKET.fullmatch(line)
    return found is not None and int(found[1], 16) & _LISTENING != 0 and found[2] == bytes(path)


def remove_stale(path: Path) -> bool:
    """Remove the socket file if its listener is gone; return whether it did.

    nginx removes the socket when it stops, but not when it is killed; after that `nginx -t` still passes, but
    every start fails with "Address already in use" (seen with 1.22.1).
    """
    first = _deserted(path)
    if first is None:
        return False
    time.sleep(_BIND_TO_LISTEN)  # an nginx that is starting also refuses, between bind() and listen()
    if _deserted(path) != first:
        return False
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _deserted(path: Path) -> int | None:
    """The inode of a socket that refuses connections, or None for anything else."""
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            return found.st_ino
        except OSError:
            return None
    return None
