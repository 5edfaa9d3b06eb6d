"""The question that the canary answers, over a unix socket in a temporary directory."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from handlers.nginx_reload.canary import ask, remove_stale


@contextmanager
def serving(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """A server that takes one request, keeps it in the list and gives the answer."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(BrokenPipeError):  # it may have heard enough
                requests.append(connection.recv(1000))
                connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        yield requests
        thread.join(5)


@pytest.mark.parametrize(
    "answer,said",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n42", "42"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n<html>", "HTTP/1.1 404 Not Found"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"9" * 100_000, "9" * 64),
        (b"", ""),
    ],
)
def test_the_answer_is_the_body_of_a_200(tmp_path: Path, answer: bytes, said: str) -> None:
    """Anything else is told by its status line, and no answer is taken without bound."""
    with serving(tmp_path / "s", answer) as requests:
        assert ask(tmp_path / "s") == said

    assert requests == [b"GET /generation HTTP/1.0\r\n\r\n"]


def test_nobody_listening_is_an_error(tmp_path: Path) -> None:
    """The caller tells it apart from a wrong answer."""
    with pytest.raises(OSError, match="No such file"):
        ask(tmp_path / "none")


def test_a_listener_that_never_answers_is_an_error(tmp_path: Path) -> None:
    """It must not hold the proof for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        with pytest.raises(TimeoutError):
            ask(tmp_path / "s", timeout=0.01)


def test_a_socket_without_listener_is_removed(tmp_path: Path) -> None:
    """As a killed nginx leaves it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

    assert remove_stale(path)
    assert not path.exists()


def test_a_socket_with_listener_stays(tmp_path: Path) -> None:
    """It is nginx's own business."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        assert not remove_stale(path)
        assert path.exists()


def test_a_socket_replaced_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starting nginx may bind a new one between the two looks."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old, socket.socket(socket.AF_UNIX) as new:
        old.bind(str(path))

        def replace(_seconds: float) -> None:
            path.rename(tmp_path / "old")
            new.bind(str(path))

        monkeypatch.setattr("handlers.nginx_reload.canary.time.sleep", replace)

        assert not remove_stale(path)
        assert path.exists()


def test_only_a_socket_is_ever_removed(tmp_path: Path) -> None:
    """A file of someone else under the configured path is left alone."""
    path = tmp_path / "s"
    path.write_text("mine")

    assert not remove_stale(path)
    assert path.read_text() == "mine"


def test_no_socket_is_nothing_to_remove(tmp_path: Path) -> None:
    """The usual case of an nginx that was stopped."""
    assert not remove_stale(tmp_path / "none")
