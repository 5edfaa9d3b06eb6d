"""The listener over real sockets on loopback: it answers, and nobody can hold it up."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path
from queue import Queue

import pytest
from structlog.testing import capture_logs

from agentd.errors import AgentdError, ConfigError
from agentd.heartbeat import Heartbeat
from agentd.report import listener
from agentd.report.listener import LARGEST_HEAD, MOST_CONNECTIONS, Listener
from agentd.report.request import Response
from tests.servers.ports import free_port


def _answer(path: str) -> Response:
    if path == "/broken":
        raise AgentdError("the journal is gone")
    if path == "/mistake":
        raise KeyError(path)
    return Response(HTTPStatus.OK, b"asked for " + path.encode(), "text/plain")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may be slow, on a busy machine, unless that is what the test is about."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 60.0)


@pytest.fixture
def listening() -> Iterator[Listener]:
    """A listener on a free port."""
    serving = Listener(("127.0.0.1", 0), _answer)
    serving.start()
    yield serving
    serving.stop()


def _connect(to: Listener) -> socket.socket:
    return socket.create_connection(to.address, timeout=60)


def _read(connection: socket.socket) -> bytes:
    answer = b""
    while received := connection.recv(65536):
        answer += received
    return answer


def _ask(to: Listener, request: bytes) -> bytes:
    with _connect(to) as connection:
        connection.sendall(request)
        return _read(connection)


def _get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_a_path_is_answered(listening: Listener) -> None:
    """The callable's answer comes back and the connection is closed."""
    answer = _ask(listening, _get("/healthz"))

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nasked for /healthz")


def test_a_head_request_gets_no_body(listening: Listener) -> None:
    """HEAD ends with the headers."""
    assert _ask(listening, _get("/healthz", "HEAD")).endswith(b"\r\n\r\n")


def test_a_request_may_come_byte_by_byte(listening: Listener) -> None:
    """What the network cuts into pieces is one request."""
    with _connect(listening) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in _get("/slow"):
            connection.sendall(bytes([byte]))

        assert _read(connection).endswith(b"asked for /slow")


def test_a_refusal_echoes_nothing(listening: Listener) -> None:
    """What a stranger sent is not sent back."""
    answer = _ask(listening, b"EVIL /<script> HTTP/1.1\r\nHost: localhost\r\nX: <script>\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"<script>" not in answer
    assert b"EVIL" not in answer


def test_a_body_is_not_read_and_does_no_harm(listening: Listener) -> None:
    """The answer arrives although the client sent more than was read."""
    body = b"x" * 50_000
    request = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n" + body

    assert _ask(listening, request).startswith(b"HTTP/1.1 405 ")


def test_a_head_without_end_is_refused(listening: Listener) -> None:
    """More than 8 KiB of headers is answered with 431 and not collected."""
    answer = _ask(listening, b"GET / HTTP/1.1\r\nX: " + b"x" * LARGEST_HEAD)

    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_leaves_does_no_harm(listening: Listener) -> None:
    """Half a request and a closed connection: the next client is served."""
    with _connect(listening) as connection:
        connection.sendall(b"GET / HT")

    assert b"200 OK" in _ask(listening, _get("/"))


def test_a_failing_answer_is_a_500_that_tells_nothing(listening: Listener) -> None:
    """The reason is in the log, not in the answer."""
    with capture_logs() as logged:
        answer = _ask(listening, _get("/broken"))

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"journal" not in answer
    assert [(line["event"], line["error"]) for line in logged] == [("status.failed", "the journal is gone")]


def test_a_slow_client_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is for the whole request: a byte now and then does not extend it."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 0.2)
    serving = Listener(("127.0.0.1", 0), _answer)
    serving.start()
    began = time.monotonic()
    with _connect(serving) as connection:
        try:
            while time.monotonic() - began < 30:
                connection.sendall(b"G")
                connection.settimeout(0.02)
                try:
                    if connection.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
        except ConnectionError:
            pass
    took = time.monotonic() - began
    serving.stop()

    assert 0.1 < took < 20


def test_idle_connections_do_not_keep_others_out(listening: Listener) -> None:
    """However many are held open, and opened again, each request is answered at once."""
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(_connect(listening))
        began = time.monotonic()
        answers = []
        for _ in range(38):
            answers.append(_ask(listening, _get("/healthz")))
            stack.enter_context(_connect(listening))

        assert sum(b"200 OK" in answer for answer in answers) == 38
        assert time.monotonic() - began < 20


def test_the_oldest_connection_makes_room(listening: Listener) -> None:
    """The one more closes the first that is open, and no other."""
    with ExitStack() as stack:
        oldest, *_, second = [stack.enter_context(_connect(listening)) for _ in range(MOST_CONNECTIONS)]
        newest = stack.enter_context(_connect(listening))

        assert _read(oldest) == b""
        for connection in (second, newest):
            connection.sendall(_get("/"))
            assert b"200 OK" in _read(connection)


def test_nobody_has_to_make_room_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """All places may be taken, for as long as it likes."""
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(listener, "_YOUNG", 0.0)
    dropped: list[str] = []
    serving = Listener(("127.0.0.1", 0), _answer, dropped=dropped.append)
    serving.start()
    with ExitStack() as stack:
        connections = [stack.enter_context(_connect(serving)) for _ in range(4)]
        for part in (b"GET ", b"/all HTTP/1.1\r\n", b"Host: localhost\r\n"):
            for connection in connections:
                connection.sendall(part)
        for connection in connections:
            connection.sendall(b"\r\n")
            assert _read(connection).endswith(b"asked for /all")
    serving.stop()

    assert dropped == []


def test_half_a_request_is_dropped_and_a_slow_reader_too() -> None:
    """Neither a head that does not end nor a response that is not read holds a slot."""
    serving = Listener(("127.0.0.1", 0), lambda _: Response(HTTPStatus.OK, bytes(20_000_000), "text/plain"))
    serving.start()
    with ExitStack() as stack:
        for number in range(MOST_CONNECTIONS):
            connection = stack.enter_context(_connect(serving))
            connection.sendall(_get("/") if number % 2 else b"GET /")

        assert _ask(serving, _get("/", "HEAD")).startswith(b"HTTP/1.1 200 OK")
    serving.stop()


def test_answers_in_the_making_are_not_dropped() -> None:
    """All who asked for one path meanwhile get the next answer together; another path does not wait."""
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(path: str) -> Response:
        if path == "/slow":
            begun.release()
            go.wait(60)
        return Response(HTTPStatus.OK, b"done", "text/plain")

    serving = Listener(("127.0.0.1", 0), slow)
    serving.start()
    with ExitStack() as stack:
        waiting = [stack.enter_context(_connect(serving)) for _ in range(MOST_CONNECTIONS - 1)]
        for connection in waiting:
            connection.sendall(_get("/slow"))
        assert begun.acquire(timeout=60)

        assert _ask(serving, _get("/quick")).endswith(b"done")
        assert not begun.acquire(timeout=0)
        go.set()
        assert all(_read(connection).endswith(b"done") for connection in waiting)
    serving.stop()


def test_askers_for_what_never_comes_keep_nobody_out() -> None:
    """They hold all places for a page that is stuck: the oldest of them make room."""
    go = threading.Event()

    def stuck(path: str) -> Response:
        if path == "/stuck":
            go.wait(60)
        return Response(HTTPStatus.OK, b"done", "text/plain")

    serving = Listener(("127.0.0.1", 0), stuck)
    serving.start()
    with ExitStack() as stack:
        for _ in range(2 * MOST_CONNECTIONS // 3):
            for _ in range(2):  # some are in the making, the others wait for the next time
                stack.enter_context(_connect(serving)).sendall(_get("/stuck"))

        assert _ask(serving, _get("/quick")).endswith(b"done")
        go.set()
    serving.stop()


_HOLD = """
import socket, sys
sys.stdin.readline()
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(80)]
print("held", flush=True)
sys.stdin.read()
"""


def test_without_a_free_descriptor_the_oldest_makes_room() -> None:
    """The process may open fewer files than the listener would take connections."""
    serving = Listener(("127.0.0.1", 0), _answer)
    serving.start()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    argv = [sys.executable, "-c", _HOLD, str(serving.address[1])]
    with (
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as others,
        socket.socket() as connection,
    ):
        known = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (known + 20, before[1]))
        try:
            assert others.stdin is not None
            assert others.stdout is not None
            others.stdin.write(b"connect\n")
            others.stdin.flush()
            assert others.stdout.readline() == b"held\n"
            connection.settimeout(60)
            connection.connect(serving.address)
            connection.sendall(_get("/"))
            assert _read(connection).endswith(b"asked for /")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            others.communicate()
    serving.stop()


def _idle(to: Listener, stop: threading.Event) -> None:
    """Hold a connection, and open another one at once when it is dropped."""
    while not stop.is_set():
        with suppress(OSError), _connect(to) as connection:
            connection.settimeout(0.5)
            while not stop.is_set():
                with suppress(TimeoutError):
                    if not connection.recv(1):
                        break


def _drip(to: Listener, stop: threading.Event) -> None:
    """Send a request that never ends, a byte at a time."""
    while not stop.is_set():
        with suppress(OSError), _connect(to) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            while not stop.wait(0.05):
                connection.sendall(b"x")


def _read_slowly(to: Listener, stop: threading.Event) -> None:
    """Ask for the largest page, and read a byte at a time."""
    while not stop.is_set():
        with suppress(OSError), _connect(to) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.sendall(_get("/large"))
            while connection.recv(1) and not stop.wait(0.05):
                pass


def _tries(to: Listener, path: str) -> int:
    """How often it has to be asked for: who is slow to say so may have to make room, and asks again."""
    for tries in range(1, 50):
        with suppress(OSError):
            if _ask(to, _get(path)).endswith(b"fine"):
                return tries
    return pytest.fail(f"{path} is never answered")


@pytest.mark.parametrize("most,rounds", [(MOST_CONNECTIONS, 50), (16, 5)])
def test_nobody_keeps_others_from_their_answers(
    monkeypatch: pytest.MonkeyPatch, most: int, rounds: int
) -> None:
    """40 idle clients that come again, 10 that drip, 10 that read slowly: with room for all, and without.

    Long before the time is up in which those that hold the places have to go.
    """
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", most)
    stop = threading.Event()
    dropped: list[str] = []
    pages = {"/large": bytes(5_000_000)}
    serving = Listener(
        ("127.0.0.1", 0),
        lambda path: Response(HTTPStatus.OK, pages.get(path, b"fine"), "text/plain"),
        dropped=dropped.append,
    )
    serving.start()
    hostile = [
        threading.Thread(target=target, args=(serving, stop), daemon=True)
        for target, count in ((_idle, 40), (_drip, 10), (_read_slowly, 10))
        for _ in range(count)
    ]
    for thread in hostile:
        thread.start()

    took, tries = [], []
    for path in ("/healthz", "/metrics") * rounds:
        began = time.monotonic()
        tries.append(_tries(serving, path))
        took.append(time.monotonic() - began)

    stop.set()
    for thread in hostile:
        thread.join()
    serving.stop()
    assert max(took) < 30
    assert most == 16 or set(tries) == {1}
    assert set(dropped) <= {"full", "head", "answer"}
    assert ("full" in dropped) == (most == 16)


class _Flooded(socket.socket):
    """Whenever a connection is accepted, the next one waits; each was reset at once."""

    accepted = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.accepted += 1
        assert self.accepted < MOST_CONNECTIONS
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours, None


def test_a_flood_of_connections_gives_others_their_turn() -> None:
    """A connection that is gone when it is accepted takes no place, so the places do not end it."""
    serving = Listener(("127.0.0.1", 0), _answer)
    with _Flooded() as flooded:
        serving._accept(flooded)

    assert flooded.accepted > 1
    serving._selector.close()


def test_an_answer_that_is_not_taken_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time for all of it; the count says why."""
    monkeypatch.setattr(listener, "ANSWER_TIMEOUT", 0.2)
    dropped: Queue[str] = Queue()
    serving = Listener(
        ("127.0.0.1", 0),
        lambda _: Response(HTTPStatus.OK, bytes(20_000_000), "text/plain"),
        dropped=dropped.put,
    )
    serving.start()
    with _connect(serving) as connection:
        connection.sendall(_get("/"))

        assert dropped.get(timeout=60) == "answer"
    serving.stop()


def test_a_page_with_a_mistake_ends_no_thread(listening: Listener) -> None:
    """Each is answered, with a 500."""
    with capture_logs():
        answers = [_ask(listening, _get("/mistake")) for _ in range(20)]

    assert all(answer.startswith(b"HTTP/1.1 500 ") for answer in answers)


def test_a_head_has_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent client is cut off long before the time of a whole request is over."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 0.2)
    serving = Listener(("127.0.0.1", 0), _answer)
    serving.start()
    with _connect(serving) as silent:
        began = time.monotonic()

        assert silent.recv(1) == b""
    serving.stop()
    assert time.monotonic() - began < 20


def test_many_clients_at_once_are_all_answered(listening: Listener) -> None:
    """As many as there are slots are served side by side."""
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(_ask(listening, _get("/"))))
        for _ in range(MOST_CONNECTIONS // 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(b"200 OK" in answer for answer in answers) == MOST_CONNECTIONS // 2


def test_stopping_ends_every_thread_and_frees_the_port() -> None:
    """Even with a silent client connected, `stop` is quick, and the port can be taken again at once."""
    before = set(threading.enumerate())
    listening = Listener(("127.0.0.1", free_port()), _answer)
    listening.start()
    with _connect(listening):
        began = time.monotonic()
        listening.stop()
        took = time.monotonic() - began

    successor = Listener(listening.address, _answer)
    successor.start()
    successor.stop()

    assert took < 20
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("status")]


def test_stopping_twice_or_before_the_start_does_nothing() -> None:
    """`stop` is for clean-up, whatever came before."""
    idle = Listener(("127.0.0.1", 0), _answer)

    idle.stop()
    idle.start()
    idle.stop()
    idle.stop()


def test_a_taken_port_is_a_clear_error(listening: Listener) -> None:
    """The operator reads which address, why, and what to do."""
    with pytest.raises(
        ConfigError, match=r"status.address: cannot listen on 127.0.0.1 port \d+.*in use.*choose another"
    ):
        Listener(listening.address, _answer).start()


def test_an_address_that_is_not_ours_is_a_clear_error() -> None:
    """An address that this machine does not have cannot be listened on."""
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1 port 80"):
        Listener(("192.0.2.1", 80), _answer).start()


def test_ipv6_works_too() -> None:
    """The loopback address ::1 is as good."""
    serving = Listener(("::1", 0), _answer)
    serving.start()
    answer = _ask(serving, b"GET /six HTTP/1.1\r\nHost: [::1]:1\r\n\r\n")
    serving.stop()

    assert answer.endswith(b"asked for /six")


def test_the_accepting_thread_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heart beats also while nobody connects."""
    monkeypatch.setattr(listener, "_ACCEPT_WAIT", 0.01)
    beats = threading.Semaphore(0)

    class Heart(Heartbeat):
        def beat(self, good_for: float) -> None:
            assert good_for > 0.01
            beats.release()

    serving = Listener(("127.0.0.1", 0), _answer, Heart("status", time.monotonic, 1.0))
    serving.start()

    assert all(beats.acquire(timeout=60) for _ in range(3))
    serving.stop()


def test_it_starts_within_20_milliseconds() -> None:
    """The start of the daemon does not wait for its endpoints."""
    took = []
    for _ in range(20):
        serving = Listener(("127.0.0.1", 0), _answer)
        began = time.perf_counter()
        serving.start()
        took.append(time.perf_counter() - began)
        serving.stop()

    assert min(took) < 0.02
