"""The longest ssl_session_timeout is read from nginx's files, or is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.tls_ticket_keys.session_timeout import longest

_HTTP = "http { %s server { listen 443 ssl; %s } server { listen 80; } }"


@pytest.mark.parametrize(
    "http,server,seconds",
    [
        ("", "", 300),
        ("ssl_session_timeout 1d;", "", 86_400),
        ("ssl_session_timeout 60;", "", 60),
        ("ssl_session_timeout 90s;", "", 90),
        ('ssl_session_timeout "1h 30m";', "", 5400),
        ("ssl_session_timeout 1h30m;", "ssl_session_timeout 2h;", 7200),
        ("", "ssl_session_timeout 10m;", 600),
        ("", "ssl_session_timeout 1m;", 300),
        ("ssl_session_timeout 1w2d;", "", 777_600),
    ],
)
def test_the_longest_counts(tmp_path: Path, http: str, server: str, seconds: int) -> None:
    """Where a server may have nginx's default, that counts as well."""
    conf = tmp_path / "nginx.conf"
    conf.write_text(_HTTP % (http, server))

    assert longest(conf) == seconds


@pytest.mark.parametrize("http", ["ssl_session_timeout soon;", "ssl_session_timeout 1m1h;", "}"])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, http: str) -> None:
    """It is not guessed."""
    conf = tmp_path / "nginx.conf"
    conf.write_text(_HTTP % (http, ""))

    assert longest(conf) is None


def test_without_a_file_it_is_not_known(tmp_path: Path) -> None:
    """Such as where there is no nginx."""
    assert longest(tmp_path / "nginx.conf") is None
