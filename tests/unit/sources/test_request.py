"""Redirects, what a status means, and what a broken exchange means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentd.deadline import Deadline
from agentd.errors import PermanentError, TemporaryError
from agentd.http import Body, CertificateError, ConnectError, Headers
from agentd.sources import request
from agentd.sources.allowlist import Allowlist
from agentd.sources.options import SourceOptions
from agentd.sources.reference import parse_location
from agentd.sources.request import (
    SignedRequest,
    WebRequest,
    refusal,
    unanswered,
)
from tests.unit.sources.scripted import Scripted, ScriptedRequest


def _answer(monkeypatch: pytest.MonkeyPatch, *answers: Scripted) -> list[str]:
    """Let servers answer this; returns the URLs that are asked for."""
    script, asked = ScriptedRequest(list(answers)), list[str]()

    @contextmanager
    def get(url: str, *rest: object) -> Iterator[Body]:
        asked.append(url)
        with script.send(*rest) as answer:  # type: ignore[arg-type] # the rest of `_get`'s arguments
            yield answer

    monkeypatch.setattr(request, "_get", get)
    return asked


def test_a_redirect_within_the_allowlist_is_followed(
    deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to where it came from."""
    moved = [
        Scripted(301, headers={"Location": "b/c?sig=x"}),
        Scripted(308, headers={"Location": "/feeds/d#f"}),
    ]
    asked = _answer(monkeypatch, *moved, Scripted(200, b"x"))
    web = WebRequest(parse_location("https://h/feeds/a"), Allowlist.of(["https://h/feeds"]))
    with web.send({}, SourceOptions(), deadline) as answer:
        assert answer.read(10) == b"x"
    assert asked == ["https://h/feeds/a", "https://h/feeds/b/c?sig=x", "https://h/feeds/d"]


def test_a_store_may_not_send_us_elsewhere(deadline: Deadline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token would go along."""
    _answer(monkeypatch, Scripted(307))
    signed = SignedRequest("s3://bucket/a", lambda _: ("https://s/b", {"Authorization": "SECRET"}))
    with (
        pytest.raises(PermanentError, match="correct the region"),
        signed.send({}, SourceOptions(), deadline),
    ):
        pass


@pytest.mark.parametrize(
    "target, words",
    [
        ("https://evil/a", "a place that is not allowed"),
        ("/elsewhere/a", "a place that is not allowed"),
        ("../secret", "a place that is not allowed"),
        ("file:///etc/passwd", "not followed"),
        ("//evil/feeds/a", "a place that is not allowed"),
        ("https://u:p@h/feeds/a", "unusable address"),
        ("", "redirects without saying where"),
        ("b", "more than 5 redirects"),
    ],
)
def test_a_redirect_must_pass_the_allowlist(
    deadline: Deadline, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    """Each of them; and there is an end to them."""
    _answer(monkeypatch, *[Scripted(302, headers={"Location": target})] * 9)
    web = WebRequest(parse_location("https://h/feeds/a"), Allowlist.of(["https://h/feeds", "kv:x"]))
    with pytest.raises(PermanentError, match=words), web.send({}, SourceOptions(), deadline):
        pass


def test_unknown_status_is_named_all_the_same() -> None:
    """And 599 is a 5xx."""
    error = refusal("https://h/a", 599, Headers())
    assert isinstance(error, TemporaryError)
    assert "599 (an unknown status)" in str(error)


def test_untrusted_certificate_names_the_option() -> None:
    """The operator may want to trust it."""
    assert "sources.ca_file" in str(
        unanswered("https://h/a", CertificateError("its certificate is not trusted"))
    )


def test_broken_exchange_is_worth_another_try() -> None:
    """With what broke."""
    error = unanswered("https://h/a", ConnectError("nothing is listening there"))
    assert isinstance(error, TemporaryError)
    assert str(error) == "https://h/a: nothing is listening there"
