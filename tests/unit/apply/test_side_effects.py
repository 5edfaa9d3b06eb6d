"""A handler whose calls cannot be undone: each is recorded before the next begins, or none begins."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from agentd.errors import JournalError, TemporaryError, TreeError
from agentd.handler import Change, Context
from agentd.journal.journal import Journal
from tests.unit.apply.stand import Scribe, Stand, event, settle, step


class Irrevocable(Scribe):
    """What it does stays done."""

    side_effects: ClassVar[bool] = True


def test_each_is_recorded_before_the_next_begins(stand: Stand) -> None:
    """However many wait, a kill during one finds all before it closed."""
    seen: list[dict[str, str | None]] = []

    class Looks(Irrevocable):
        def handle(self, change: Change, context: Context) -> None:
            seen.append(dict(stand.outcomes))
            super().handle(change, context)

    worker = stand.worker(Looks())
    stand.receive(*(event(name, "run true") for name in "abc"))

    settle(worker)

    assert [list(one.values()).count("applied") for one in seen] == [0, 1, 2]


def test_one_that_takes_too_long_repeats_itself_alone(stand: Stand) -> None:
    """Those before it have ended, and those behind it wait for their turn."""
    handler = Irrevocable()
    handler.raises["run true;slow"] = [TemporaryError("too slow"), TemporaryError("too slow")]
    worker = stand.worker(handler)
    stand.receive(event("a", "run true"), event("b", "run true;slow"), event("c", "run true;last"))

    for _ in range(30):
        stand.clock.now += step(worker)

    assert handler.calls == ["run true", *["run true;slow"] * 3, "run true;last"]
    assert set(stand.outcomes.values()) == {"applied"}


def test_one_that_does_not_return_repeats_itself_alone(stand: Stand) -> None:
    """A call beyond its time limit takes nothing of the others with it."""
    held = threading.Event()

    class Hangs(Irrevocable):
        def handle(self, change: Change, context: Context) -> None:
            super().handle(change, context)
            if self.calls.count("hang") == 1 and self.calls[-1] == "hang":
                held.wait(60)

    handler = Hangs()
    worker = stand.worker(handler, timeout=1.0)  # in which a busy machine runs `true`
    stand.receive(event("a", "run true"), event("b", "hang"), event("c", "run true"))
    step(worker)
    step(worker)
    held.set()
    for _ in range(6000):
        stand.clock.now += step(worker)
        if all(stand.outcomes.values()):
            break
        threading.Event().wait(0.01)  # the thread of the call that was given up takes its time to end

    assert handler.calls == ["run true", "hang", "hang", "run true"]


@contextmanager
def _unwritable(monkeypatch: pytest.MonkeyPatch, *methods: str) -> Iterator[None]:
    def full(*_: Any, **__: Any) -> None:  # noqa: ANN401 (of any method)
        raise JournalError("the journal cannot be written: database or disk is full")

    with monkeypatch.context() as patch:
        for method in methods:
            patch.setattr(Journal, method, full)
        yield


def test_nothing_begins_that_cannot_be_recorded(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk full no program runs; with room again each runs once."""
    handler = Irrevocable()
    worker = stand.worker(handler)
    stand.receive(event("a", "run true"), event("b", "run true"))

    with _unwritable(monkeypatch, "begin", "end", "defer"):
        for _ in range(5):
            step(worker)
    assert handler.calls == []

    settle(worker)
    assert handler.calls == ["run true", "run true"]


class _Patience(threading.Event):
    """Waits no time, and lets the test act at each wait."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__()
        self._act, self._waits = act, 0

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 (the interface)
        """Act instead."""
        self._waits += 1
        self._act(self._waits)
        return self.is_set()


@pytest.mark.parametrize("failed", [False, True])
def test_an_end_that_cannot_be_recorded_is_kept_until_it_can(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, *, failed: bool
) -> None:
    """The disk filled up while the program ran: it does not run again for that."""
    handler = Irrevocable()
    worker = stand.worker(handler, retry={"attempts": 1})
    if failed:
        handler.raises["run true"] = [TemporaryError("no")]
    stand.receive(event("a", "run true"))
    full = _unwritable(monkeypatch, "end", "defer")
    waits: list[int] = []

    def act(number: int) -> None:
        waits.append(number)
        if number == 7:
            full.__exit__(None, None, None)

    monkeypatch.setattr(worker._attempts, "stop", _Patience(act))
    full.__enter__()
    settle(worker)

    assert len(waits) == 7
    assert handler.calls == ["run true"]
    assert stand.outcomes == {"a": "failed" if failed else "applied"}


def test_a_tree_that_is_full_repeats_no_call(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was staged beside the program is committed later; the history says what it waits for."""
    handler = Irrevocable()
    worker = stand.worker(handler)
    stand.receive(event("a", "run true;write x=1"))
    reasons: list[str] = []
    stand.check.extend(TreeError("the file system is full") for _ in range(3))
    monkeypatch.setattr(worker._attempts, "stop", _Patience(lambda _: reasons.append(stand.reason("a"))))

    settle(worker)

    assert handler.calls == ["run true;write x=1"]
    assert stand.outcomes == {"a": "applied"}
    assert stand.files["x"] == b"1"
    assert reasons == ["done, but that cannot be recorded yet: the file system is full"] * 3


def test_the_beginning_of_a_call_is_on_the_disk_before_it(stand: Stand) -> None:
    """Another connection sees it while the program runs."""
    found: list[float | None] = []

    class Looks(Irrevocable):
        def handle(self, change: Change, context: Context) -> None:  # noqa: ARG002 (the interface)
            with sqlite3.connect(f"file:{stand.journal.path}?mode=ro", uri=True) as other:
                found.append(other.execute("SELECT started FROM changes WHERE id = 'a'").fetchone()[0])

    worker = stand.worker(Looks())
    stand.receive(event("a"))
    settle(worker)

    assert found == [stand.clock.now]


def test_what_a_program_leaves_behind_is_logged_without_arguments(stand: Stand) -> None:
    """By process id alone."""

    class Leaves(Irrevocable):
        def handle(self, change: Change, context: Context) -> None:  # noqa: ARG002 (the interface)
            context.run(["sh", "-c", "sleep 301 & : s3cret"], background="end")

    worker = stand.worker(Leaves())
    stand.receive(event("a"))
    with capture_logs() as logs:
        settle(worker)

    (line,) = [line for line in logs if line["event"] == "process.left_behind"]
    assert line["program"] == "sh"
    assert len(line["pids"]) == 1
    assert line["ended"]
    assert "s3cret" not in str(logs)
    assert "sleep" not in str(logs)
