"""The limits of a look at nginx's listeners; what the handshakes show is tested on a real nginx."""

from __future__ import annotations

from pathlib import Path

from agentd.nginx.ticket_keys import ask_all
from agentd.nginx.tls_listeners import Question


def test_no_handshake_begins_once_the_time_is_up(tmp_path: Path) -> None:
    """What was not asked is counted."""
    listeners = [Question(f"*:{port}", unaskable="nobody knows") for port in (443, 8443)]

    found = ask_all(listeners, [b"name"], tmp_path / "none.sock", total=0)

    assert found.not_asked() == "2 more listeners were not asked (0 s)"


def test_long_lists_of_what_cannot_be_asked_are_cut(tmp_path: Path) -> None:
    """Three are quoted, the others counted."""
    listeners = [Question(f"*:{port}", unaskable="nobody knows") for port in range(5)]

    said = ask_all(listeners, [b"name"], tmp_path / "none.sock").not_asked()

    assert said.count("nobody knows") == 3
    assert said.endswith("; and 2 more")


def test_what_the_files_turn_off_need_not_be_asked(tmp_path: Path) -> None:
    """It is told with the place, and with how to exclude it."""
    off = Question("*:443", ("a.example",), unaskable="nobody knows", off="n.conf:3: ssl_session_tickets off")

    [wrong] = ask_all([off], [b"name"], tmp_path / "none.sock").wrong

    assert wrong.reason == (
        "by nginx's files it sends no session ticket (n.conf:3: ssl_session_tickets off);"
        " remove that and reload nginx, or exclude it in `probe`: except *:443 a.example"
    )
