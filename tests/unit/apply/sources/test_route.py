"""Redirects: few, and none to where an event could not have sent us itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentd.apply.sources import route
from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.fence import Fence
from agentd.apply.sources.route import SignedRoute, WebRoute
from agentd.apply.sources.web import Answer
from agentd.errors import PermanentError
from agentd.reference import parse_location
from agentd.source_options import SourceOptions
from tests.unit.apply.sources.scripted import Scripted, ScriptedRoute


def _answer(monkeypatch: pytest.MonkeyPatch, *answers: Scripted) -> list[str]:
    """Let servers answer this; returns the URLs that are asked for."""
    script, asked = ScriptedRoute(list(answers)), list[str]()

    @contextmanager
    def ask(url: str, *rest: object) -> Iterator[Answer]:
        asked.append(url)
        with script.ask(*rest) as answer:  # type: ignore[arg-type] # the rest of `web.ask`'s arguments
            yield answer

    monkeypatch.setattr(route, "ask", ask)
    return asked


def test_a_redirect_within_the_fence_is_followed(
    allowance: Allowance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to where it came from."""
    moved = [
        Scripted(301, headers={"Location": "b/c?sig=x"}),
        Scripted(308, headers={"Location": "/feeds/d#f"}),
    ]
    asked = _answer(monkeypatch, *moved, Scripted(200, b"x"))
    web = WebRoute(parse_location("https://h/feeds/a"), Fence.of(["https://h/feeds"]))
    with web.ask({}, SourceOptions(), allowance) as answer:
        assert answer.read(10) == b"x"
    assert asked == ["https://h/feeds/a", "https://h/feeds/b/c?sig=x", "https://h/feeds/d"]


def test_a_store_may_not_send_us_elsewhere(allowance: Allowance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token would go along."""
    _answer(monkeypatch, Scripted(307))
    signed = SignedRoute("s3://bucket/a", lambda _: ("https://s/b", {"Authorization": "SECRET"}))
    with (
        pytest.raises(PermanentError, match="correct the region"),
        signed.ask({}, SourceOptions(), allowance),
    ):
        pass


@pytest.mark.parametrize(
    "target, words",
    [
        ("https://evil/a", "where it may not"),
        ("/elsewhere/a", "where it may not"),
        ("../secret", "where it may not"),
        ("file:///etc/passwd", "not followed"),
        ("//evil/feeds/a", "where it may not"),
        ("https://u:p@h/feeds/a", "no usable address"),
        ("", "more than 5 redirects"),
        ("b", "more than 5 redirects"),
    ],
)
def test_a_redirect_must_pass_the_fence(
    allowance: Allowance, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    """Each of them; and there is an end to them."""
    _answer(monkeypatch, *[Scripted(302, headers={"Location": target})] * 9)
    web = WebRoute(parse_location("https://h/feeds/a"), Fence.of(["https://h/feeds", "kv:x"]))
    with pytest.raises(PermanentError, match=words), web.ask({}, SourceOptions(), allowance):
        pass
