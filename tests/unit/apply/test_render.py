"""What a handler renders once for all changes of a commit, and what becomes of them if it cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from agentd.commands.dry_run import try_change
from agentd.config.load import ConfiguredHandler, HandlerEntry
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Context, HandlerOptions
from tests.servers.waiting import wait_until
from tests.unit.apply.stand import Scribe, Stand, event, settle


class Renderer(Scribe):
    """A scribe that renders one file of all that its changes stored.

    Attributes:
        rendered: what was stored each time.
        judge: may raise, given the names of what is stored.
    """

    def __init__(self, options: Any = None) -> None:  # noqa: ANN401 (as Scribe's)
        super().__init__(options)
        self.rendered: list[str] = []
        self.judge: Callable[[str], object] = lambda _: None

    def render(self, context: Context) -> None:
        """Write what is stored."""
        text = "".join(sorted(context.store))
        self.rendered.append(text)
        self.judge(text)
        context.files.write("rendered", text.encode())


@pytest.fixture
def renderer() -> Renderer:
    """The handler."""
    return Renderer()


def fault(name: str, error: Exception) -> Callable[[str], None]:
    """A judge that raises while that is stored."""

    def judge(text: str) -> None:
        if name in text:
            raise error

    return judge


def fire(stand: Stand, names: str) -> None:
    """An event for each letter, which stores it."""
    stand.receive(*(event(name, f"store {name}=1") for name in names))


def test_changes_are_rendered_once_a_commit(stand: Stand, renderer: Renderer) -> None:
    """However many they are; each of them is applied."""
    worker = stand.worker(renderer)
    before = stand.tree.current
    fire(stand, "abcd")
    settle(worker)

    assert renderer.rendered == ["abcd"]
    assert stand.files == {"rendered": b"abcd"}
    assert stand.tree.current == before + 1
    assert stand.outcomes == dict.fromkeys("abcd", "applied")


def test_what_a_refused_change_stored_is_not_rendered(stand: Stand, renderer: Renderer) -> None:
    """It never happened."""
    worker = stand.worker(renderer)
    renderer.raises["store b=1"] = [PermanentError("no")]
    fire(stand, "abc")
    settle(worker)

    assert renderer.rendered == ["ac"]
    assert stand.outcomes == {"a": "applied", "b": "refused", "c": "applied"}


def test_nothing_is_rendered_if_all_is_refused(stand: Stand, renderer: Renderer) -> None:
    """There is nothing to commit."""
    worker = stand.worker(renderer)
    for name in "ab":
        renderer.raises[f"store {name}=1"] = [PermanentError("no")]
    fire(stand, "ab")
    settle(worker)

    assert renderer.rendered == []
    assert stand.outcomes == {"a": "refused", "b": "refused"}


def test_what_is_rendered_of_a_single_change_is_its_own(stand: Stand, renderer: Renderer) -> None:
    """Though its call itself left nothing, a generation holds it."""
    worker = stand.worker(renderer)
    stand.receive(event("a", "nothing"))
    settle(worker)

    assert stand.files == {"rendered": b""}
    assert stand.outcomes == {"a": "applied"}


def test_a_dry_run_shows_what_would_be_rendered(stand: Stand, renderer: Renderer) -> None:
    """Not only what the call itself stages."""
    attempts = stand.worker(renderer)._attempts
    configured = ConfiguredHandler("scribe", HandlerEntry(use="tests:x"), Renderer, HandlerOptions())
    told = try_change(attempts.begin().batch, configured, event("a", "store a=1"))

    assert told["outcome"] == "changed"
    assert [file["path"] for file in told["files"]] == ["rendered"]


def test_a_change_that_cannot_be_rendered_is_refused_alone(stand: Stand, renderer: Renderer) -> None:
    """Those before and after it are applied, all in one commit."""
    worker = stand.worker(renderer)
    before = stand.tree.current
    renderer.judge = fault("b", PermanentError("too much"))
    fire(stand, "abc")
    settle(worker)

    assert stand.outcomes == {"a": "applied", "b": "refused", "c": "applied"}
    assert stand.reason("b") == "too much"
    assert stand.files == {"rendered": b"ac"}
    assert stand.tree.current == before + 1


def test_changes_are_together_again_after_those_that_could_not_be(stand: Stand, renderer: Renderer) -> None:
    """One bad change does not make all later ones slow."""
    worker = stand.worker(renderer)
    renderer.judge = fault("b", PermanentError("too much"))
    fire(stand, "abc")
    settle(worker)
    renderer.rendered.clear()
    fire(stand, "def")
    settle(worker)

    assert renderer.rendered == ["acdef"]


def test_a_change_that_cannot_be_rendered_yet_holds_back_those_behind(
    stand: Stand, renderer: Renderer
) -> None:
    """Those before it are committed."""
    worker = stand.worker(renderer)
    renderer.judge = fault("b", TemporaryError("not now"))
    fire(stand, "abc")
    settle(worker)
    during = dict(stand.outcomes)
    renderer.judge = lambda _: None
    stand.clock.now += 10
    settle(worker)

    assert during == {"a": "applied", "b": None, "c": None}
    assert stand.outcomes == dict.fromkeys("abc", "applied")
    assert stand.files == {"rendered": b"abc"}


def test_a_bug_in_rendering_fails_the_change_that_meets_it(stand: Stand, renderer: Renderer) -> None:
    """It is retried and capped as any other, and the others do not fail with it."""
    worker = stand.worker(renderer)
    renderer.judge = fault("b", ValueError("oops"))
    fire(stand, "abc")
    for _ in range(5):
        settle(worker)
        stand.clock.now += 100

    assert stand.outcomes == {"a": "applied", "b": "failed", "c": "applied"}
    assert "bug in the handler: ValueError: oops" in stand.reason("b")


def test_rendering_that_hangs_commits_nothing_of_the_batch(stand: Stand, renderer: Renderer) -> None:
    """Its thread may still write into it; once it has ended, all is handled again."""
    go_on = threading.Event()
    worker = stand.worker(renderer, timeout=0.05)

    def hang(_: str) -> None:
        renderer.judge = lambda _: None
        assert go_on.wait(60)

    renderer.judge = hang
    fire(stand, "abc")
    before = stand.tree.current
    worker.step()
    during = stand.tree.current
    go_on.set()
    wait_until(lambda: not worker._attempts.calls.busy, "the call to end")
    settle(worker)

    assert during == before
    assert stand.outcomes == dict.fromkeys("abc", "applied")
    assert stand.files == {"rendered": b"abc"}
