"""Tasks: who gets which again, how many run, what ends them, and that one which hangs is not waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.apply import tasks as module
from agentd.apply.observer import Observer
from agentd.apply.tasks import TIMED, HandlerTasks
from agentd.handler import Task, TaskContext, TemporaryError, UnderWay
from agentd.sources.fetcher import Sources
from agentd.sources.options import SourceOptions
from agentd.testing.staging import RecordedLog
from tests.servers.waiting import wait_until


class Counts(Observer):
    """The last that was told."""

    def __init__(self) -> None:
        self.last = (0, 0, 0)

    def tasks(self, handler: str, running: int, waiting: int, hanging: int) -> None:  # noqa: ARG002
        """Keep it."""
        self.last = running, waiting, hanging


class Gate:
    """Work that goes on until it is let go, and counts how often it began."""

    def __init__(self) -> None:
        self.open, self.began, self.count = threading.Event(), threading.Event(), 0

    def __call__(self, context: TaskContext) -> Path:
        """Wait."""
        self.count += 1
        self.began.set()
        assert self.open.wait(60)
        return context.scratch


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Work that the test lets go, at the latest when it ends."""
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def log() -> RecordedLog:
    """What was logged."""
    return RecordedLog()


@pytest.fixture
def counts() -> Counts:
    """What was counted."""
    return Counts()


@pytest.fixture
def new_tasks(tmp_path: Path, log: RecordedLog, counts: Counts) -> Iterator[Callable[..., HandlerTasks]]:
    """Make the tasks of a handler."""
    made: list[HandlerTasks] = []

    def make(*, parallel: int = 4, seconds: float = 20.0) -> HandlerTasks:
        sources = Sources(SourceOptions(parallel=parallel), tmp_path / "fetched")
        made.append(HandlerTasks("h", sources, seconds, log, counts))
        return made[-1]

    yield make
    for one in made:
        one.close()


def finished(task: Task[Any]) -> None:
    """Wait for it."""
    wait_until(lambda: task.done, "the task")


def test_work_is_done_beside_the_caller(new_tasks: Callable[..., HandlerTasks], gate: Gate) -> None:
    """It is under way until it returns; then the worker is woken, and the value is there."""
    tasks, woken = new_tasks(), threading.Event()
    tasks.wake = woken.set
    task = tasks.of("change")("load", gate)

    with pytest.raises(UnderWay, match="load: under way"):
        task.result()
    assert tasks.under_way("change")
    gate.open.set()

    assert woken.wait(60)
    assert task.result().stat().st_mode & 0o777 == 0o700
    assert not tasks.under_way("change")


def test_who_asks_again_gets_the_same(new_tasks: Callable[..., HandlerTasks], gate: Gate) -> None:
    """As long as the change waits; another change with the same words has its own."""
    tasks = new_tasks()
    gate.open.set()
    first = tasks.ask("one", "load", gate)
    finished(first)

    assert tasks.ask("one", "load", gate) is first
    assert tasks.ask("two", "load", gate) is not first
    tasks.keep_only({"two"})
    assert tasks.ask("one", "load", gate) is not first


def test_timed_work_keeps_what_it_asks_for(new_tasks: Callable[..., HandlerTasks], gate: Gate) -> None:
    """What it does not ask for any more is forgotten, and changes have no say in it."""
    tasks = new_tasks()
    kept, gone = tasks.ask(TIMED, "kept", gate), tasks.ask(TIMED, "gone", gate)
    tasks.keep_only(())
    tasks.keep_timed({"kept"})

    assert tasks.ask(TIMED, "kept", gate) is kept
    assert tasks.ask(TIMED, "gone", gate) is not gone


def test_news_are_those_of_timed_work(new_tasks: Callable[..., HandlerTasks], gate: Gate) -> None:
    """Told once each."""
    tasks = new_tasks()
    gate.open.set()
    finished(tasks.ask("change", "load", gate))
    before = tasks.news()
    tasks.ask(TIMED, "feed", gate)

    assert not before
    assert wait_until(tasks.news, "the news")
    assert not tasks.news()


@pytest.mark.parametrize(
    "raised,expected", [(OverflowError("year"), OverflowError), (SystemExit(3), RuntimeError)]
)
def test_whatever_it_raises_is_its_own(
    new_tasks: Callable[..., HandlerTasks], raised: BaseException, expected: type[Exception]
) -> None:
    """It reaches who asks for the result, and nobody else; not even what would end the process."""

    def work(_: TaskContext) -> None:
        raise raised

    task = new_tasks().ask(TIMED, "feed", work)
    finished(task)

    with pytest.raises(expected):
        task.result()


def test_no_more_than_the_limit_run(
    new_tasks: Callable[..., HandlerTasks], gate: Gate, log: RecordedLog, counts: Counts
) -> None:
    """The next waits its turn and says so; the timed work has its own share."""
    tasks, second = new_tasks(parallel=1), Gate()
    second.open.set()
    tasks.ask("one", "first", gate)
    waits, feed = tasks.ask("two", "second", second), tasks.ask(TIMED, "feed", second)
    finished(feed)

    with pytest.raises(UnderWay, match=r"second: waits for one of 1 others \(sources.parallel\)"):
        waits.result()
    assert [line.event for line in log.lines] == ["task.waits"]
    wait_until(lambda: counts.last == (1, 1, 0), "the metric")
    gate.open.set()
    finished(waits)


@pytest.mark.parametrize("owner", [TIMED, "change"])
def test_those_that_take_long_keep_no_other_waiting(
    new_tasks: Callable[..., HandlerTasks], gate: Gate, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """However many slow servers there are, each look at the time starts as many more as the limit says."""
    tasks, quick = new_tasks(parallel=1), Gate()
    quick.open.set()
    slow = [tasks.ask(owner, f"slow {number}", gate) for number in range(3)]
    good = tasks.ask(owner, "good", quick)
    tasks.news()
    waited = [one.waits != "" for one in (*slow, good)]
    monkeypatch.setattr(module, "_LONG", 0.0)
    while any(one.waits for one in (*slow, good)):
        tasks.news()
    finished(good)

    assert waited == [False, True, True, True]
    assert not any(one.done for one in slow)


def test_changes_have_a_limit_of_slow_ones_too(
    new_tasks: Callable[..., HandlerTasks], gate: Gate, monkeypatch: pytest.MonkeyPatch, counts: Counts
) -> None:
    """Whoever may fire events does not decide how many threads there are."""
    monkeypatch.setattr(module, "_LONG", 0.0)
    tasks = new_tasks(parallel=1)
    for number in range(9):
        tasks.ask("change", f"load {number}", gate)
        tasks.news()

    assert counts.last == (4, 5, 0)


def test_files_go_with_the_task(new_tasks: Callable[..., HandlerTasks], gate: Gate, tmp_path: Path) -> None:
    """A private directory for each, removed once nobody asks for the task any more."""
    tasks = new_tasks()
    gate.open.set()
    finished(tasks.ask("change", "load", gate))
    during = list((tmp_path / "fetched").iterdir())
    tasks.forget("change")

    assert len(during) == 1
    assert not list((tmp_path / "fetched").iterdir())


def test_a_fetch_ends_with_its_task(new_tasks: Callable[..., HandlerTasks]) -> None:
    """Nobody waits for what it would have fetched."""
    tasks, stopped, begun = new_tasks(), threading.Event(), threading.Event()

    def work(context: TaskContext) -> None:
        begun.set()
        try:
            context.run(["sleep", "300"])
        finally:
            stopped.set()

    tasks.ask("change", "load", work)
    assert begun.wait(60)
    tasks.keep_only(())

    assert stopped.wait(60)


def test_a_thread_that_hangs_is_abandoned(
    new_tasks: Callable[..., HandlerTasks],
    gate: Gate,
    log: RecordedLog,
    counts: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has failed when its time is up, goes on counting, and is not started a second time beside itself."""
    monkeypatch.setattr(module, "_GRACE", 0.0)
    tasks = new_tasks(seconds=0.05)
    task = tasks.ask(TIMED, "feed", gate)
    assert gate.began.wait(60)
    assert wait_until(tasks.news, "the end of its time")
    with pytest.raises(TemporaryError, match=r"feed: did not end within 0\.05 s"):
        task.result()
    assert counts.last == (0, 0, 1)
    assert [line.event for line in log.lines] == ["task.hangs"]
    tasks.keep_timed(())

    with pytest.raises(TemporaryError, match="still hangs"):
        tasks.ask(TIMED, "feed", gate).result()
    tasks.keep_timed(())
    gate.open.set()
    wait_until(lambda: counts.last == (0, 0, 0), "its end")
    assert tasks.ask(TIMED, "feed", gate) is not task
    assert gate.count <= 2


def test_nothing_is_started_after_the_end(new_tasks: Callable[..., HandlerTasks], gate: Gate) -> None:
    """A call that outlived the worker asks in vain."""
    tasks = new_tasks()
    tasks.close()

    assert not tasks.ask("change", "load", gate).done
    assert gate.count == 0
