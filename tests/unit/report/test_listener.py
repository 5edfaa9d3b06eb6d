"""The listener over real sockets on loopback: it answers, and nobody can hold it up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from structlog.testing import capture_logs

from agentd.errors import AgentdError, ConfigError
from agentd.report import listener
from agentd.report.listener import LARGEST_HEAD, MOST_CONNECTIONS, Listener
from agentd.report.request import Answer


def _answer(path: str) -> Answer:
    if path == "/broken":
        raise AgentdError("the journal is gone")
    return Answer(HTTPStatus.OK, b"asked for " + path.encode(), "text/plain")


@pytest.fixture
def listening() -> Iterator[Listener]:
    """A listener on a free port."""
    serving = Listener(("127.0.0.1", 0), _answer)
    serving.start()
    yield serving
    serving.stop()


def _connect(to: Listener) -> socket.socket:
    return socket.create_connection(to.address, timeout=10)


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
    assert b"script" not in answer
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
    """The reason stands in the log, not in the answer."""
    with capture_logs() as logged:
        answer = _ask(listening, _get("/broken"))

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"journal" not in answer
    assert [(line["event"], line["error"]) for line in logged] == [("status.failed", "the journal is gone")]


def test_a_slow_client_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is for the whole request: a byte now and then does not extend it."""
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.2)
    serving = Listener(("127.0.0.1", 0), _answer)
    serving.start()
    began = time.monotonic()
    with _connect(serving) as connection:
        try:
            while time.monotonic() - began < 5:
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

    assert 0.1 < took < 2.0


def test_silent_clients_cannot_keep_others_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every slot taken one more is turned away, and served again once the idle ones were cut off."""
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.3)
    serving = Listener(("127.0.0.1", 0), _answer)
    serving.start()
    idle = [_connect(serving) for _ in range(MOST_CONNECTIONS)]

    assert _turned_away(serving)
    for connection in idle:
        assert connection.recv(1) == b""
        connection.close()
    serving_again = b"200 OK" in _ask_until_served(serving)
    serving.stop()

    assert serving_again


def _turned_away(serving: Listener) -> bool:
    try:
        return _ask(serving, _get("/")) == b""
    except ConnectionError:
        return True


def _ask_until_served(serving: Listener) -> bytes:
    for _ in range(100):
        if not _turned_away(serving):
            break
    return _ask(serving, _get("/"))


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


def test_stopping_ends_every_thread_and_frees_the_port(listening: Listener) -> None:
    """Even with a silent client connected, `stop` is quick, and the port can be taken again at once."""
    with _connect(listening):
        began = time.monotonic()
        listening.stop()
        took = time.monotonic() - began

    successor = Listener(listening.address, _answer)
    successor.start()
    successor.stop()

    assert took < 2.0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("status")]


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

    class Heart:
        def beat(self, good_for: float) -> None:
            assert good_for > 0.01
            beats.release()

    serving = Listener(("127.0.0.1", 0), _answer, Heart())
    serving.start()

    assert all(beats.acquire(timeout=5) for _ in range(3))
    serving.stop()


def test_it_starts_within_20_milliseconds() -> None:
    """The start of the daemon does not wait for its endpoints."""
    took = []
    for _ in range(5):
        serving = Listener(("127.0.0.1", 0), _answer)
        began = time.perf_counter()
        serving.start()
        took.append(time.perf_counter() - began)
        serving.stop()

    assert min(took) < 0.02
