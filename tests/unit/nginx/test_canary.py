"""The question that the canary answers, over a unix socket in a temporary directory."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agentd.http import ConnectError, ExchangeError
from agentd.nginx.canary import Questions, ask, opened, remove_stale, unlinked
from tests.unit.scripted_http import scripted_server


@pytest.mark.parametrize(
    "answer,said",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n42 4711\n", ("42", 4711)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n42\n", ("42", 0)),
        (b"HTTP/1.1 404 Not Found\r\n\r\n<html>", ("status 404", 0)),
        (b"HTTP/1.1 200 OK\r\n\r\n", ("", 0)),
        (b"HTTP/1.1 200 OK\r\n\r\n42 " + b"9" * 11, ("42", 0)),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"9" * 40 + b" 7", ("40 characters", 0)),
    ],
)
def test_answer_is_the_body_of_a_200(tmp_path: Path, answer: bytes, said: tuple[str, int]) -> None:
    """Anything else is named by its status."""
    with scripted_server(tmp_path / "s") as server:
        server.answers = [answer]
        assert ask(tmp_path / "s") == said

    assert server.requests[0].startswith(b"GET /generation HTTP/1.1\r\n")
    assert b"\r\nConnection: close\r\n" in server.requests[0]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n" + b"9" * 100_000, b"42"])
def test_answer_that_makes_no_sense_is_an_error(tmp_path: Path, answer: bytes) -> None:
    """None, one without end, and one that is not HTTP prove nothing."""
    with scripted_server(tmp_path / "s") as server:
        server.answers = [answer]
        with pytest.raises(ExchangeError):
            ask(tmp_path / "s")


def test_nobody_listening_is_an_error(tmp_path: Path) -> None:
    """The caller tells it apart from a wrong answer."""
    with pytest.raises(ExchangeError, match="no such socket"):
        ask(tmp_path / "none")


def test_listener_that_never_answers_is_an_error(tmp_path: Path) -> None:
    """It must not hold up the proof for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        with pytest.raises(ExchangeError, match="timed out"):
            ask(tmp_path / "s", timeout=0.01)


def test_many_are_asked_at_once(tmp_path: Path) -> None:
    """Each question on a connection of its own; an answer that makes no sense is none."""
    with scripted_server(tmp_path / "s") as server, Questions(tmp_path / "s") as questions:
        server.answers = [b"", b"42", *(b"HTTP/1.1 200 OK\r\n\r\n42 %d" % number for number in (7, 8, 9))]
        answers = questions.ask(5, wait=30)

    assert sorted(answers) == [("42", 7), ("42", 8), ("42", 9)]
    assert server.connections == 5


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n42 7",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"9" * 5000 + b" 7",
        b"HTTP/1.1 200 OK\r\n\r\n42 " + b"9" * 5000,
    ],
)
def test_a_number_without_end_proves_nothing(tmp_path: Path, answer: bytes) -> None:
    """And is no error of ours."""
    with scripted_server(tmp_path / "s") as server, Questions(tmp_path / "s") as questions:
        server.answers = [answer]
        answers = questions.ask(1, wait=30)

    assert ("42", 7) not in answers
    assert all(len(one.generation) < 20 for one in answers)


def test_a_socket_with_an_odd_name_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may contain newlines, and lines that the kernel never wrote."""
    monkeypatch.chdir(tmp_path)
    odd = "\n0: 0 0 zz 1 1 1 x\n0 0 0 0 0 0 0 0"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        other.bind(odd)
        other.listen()

        assert opened(tmp_path / "s") == 1


def test_what_is_not_answered_in_time_is_heard_later(tmp_path: Path) -> None:
    """A worker may be busy; its answer still counts."""
    with socket.socket(socket.AF_UNIX) as listener, Questions(tmp_path / "s") as questions:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        at_first = questions.ask(1, wait=0.01)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n42 7")

        assert (at_first, questions.ask(0, wait=30)) == ([], [("42", 7)])


def test_a_full_queue_ends_the_questions_not_the_proof(tmp_path: Path) -> None:
    """No worker accepts: none of them answers, and none is waited for longer than said."""
    with socket.socket(socket.AF_UNIX) as listener, Questions(tmp_path / "s") as questions:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)

        assert [questions.ask(500, wait=0.01) for _ in range(3)] == [[], [], []]


def test_nobody_to_ask_is_an_error_with_a_reason(tmp_path: Path) -> None:
    """No file, and a file that nobody listens on."""
    with Questions(tmp_path / "s") as questions:
        with pytest.raises(ConnectError, match="no such socket"):
            questions.ask(1, wait=1)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
        with pytest.raises(ConnectError, match="nothing is listening"):
            questions.ask(1, wait=1)


def test_a_socket_whose_file_was_removed_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    """Its listener goes on, where nobody can connect; also if another file took its place."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        before = unlinked(path)
        listener.bind(str(path))
        listener.listen()
        there = unlinked(path)
        path.unlink()
        removed = unlinked(path)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        replaced = unlinked(path)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            taken = unlinked(path)
    after = unlinked(path)

    assert [before, there, removed, replaced, taken, after] == [False, False, True, True, True, False]


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

        monkeypatch.setattr("agentd.nginx.canary.time.sleep", replace)

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
