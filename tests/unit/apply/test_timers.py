"""Timed work, the life of a worker's thread, and its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.apply.worker import IDLE
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Change, Context
from agentd.journal.history import history
from tests.unit.apply.stand import Scribe, Stand, event, settle, step


class Timer(Scribe):
    """Writes the time at `times`, and says when the next one is."""

    def __init__(self, *times: float) -> None:
        super().__init__()
        self.times = list(times)
        self.asked: list[float] = []

    def due(self, now: float, context: Context) -> float | None:
        """Write what is due."""
        self.asked.append(now)
        done = float(context.store.get("done", 0))
        for moment in self.times:
            if done < moment <= now:
                context.store["done"] = moment
                context.files.write("time", str(moment).encode())
        return min((moment for moment in self.times if moment > now), default=None)


def test_timed_work_is_done_when_it_is_due(stand: Stand) -> None:
    """Not before, and once."""
    worker = stand.worker(Timer(stand.clock.now + 5))
    first = settle(worker)
    early = dict(stand.files)
    stand.clock.now += 5

    settle(worker)

    assert first == IDLE
    assert early == {}
    assert stand.files == {"time": str(stand.clock.now).encode()}


def test_a_clock_that_is_set_back_has_what_is_due_asked_for_again(stand: Stand) -> None:
    """The time that the handler named may be a year ahead now."""
    timer = Timer(stand.clock.now + 5)
    worker = stand.worker(timer)
    settle(worker)
    stand.clock.now -= 365 * 86400.0

    settle(worker)

    assert timer.asked[-1] == stand.clock.now


def test_timed_work_is_journalled_like_a_change(stand: Stand) -> None:
    """`agentd history` shows it with its outcome."""
    worker = stand.worker(Timer(stand.clock.now))

    settle(worker)

    rows = [row for row in history(stand.journal) if row["kind"] == "timer"]
    assert [(row["outcome"], row["paths"]) for row in rows] == [("applied", ["time"])]


class Unable(Timer):
    """Cannot do its timed work, and says so once."""

    def due(self, now: float, context: Context) -> float | None:
        """Refuse the first time."""
        self.asked.append(now)
        if len(self.asked) == 1:
            context.files.write("half", b"done")
            raise PermanentError("the feed is broken")
        return None


def test_timed_work_that_cannot_be_done_is_told_in_the_history(stand: Stand) -> None:
    """It is journalled as refused with its reason, nothing of it is kept, and the handler is asked again."""
    timer = Unable()
    worker = stand.worker(timer)

    settle(worker)

    rows = [row for row in history(stand.journal) if row["kind"] == "timer"]
    assert [(row["outcome"], row["reason"]) for row in rows] == [("refused", "the feed is broken")]
    assert stand.files == {}
    assert len(timer.asked) == 2


def test_what_is_due_is_asked_at_the_start_and_after_each_commit(stand: Stand) -> None:
    """A change may make other work due."""
    timer = Timer()
    worker = stand.worker(timer)
    settle(worker)
    at_start = len(timer.asked)
    settle(worker)
    stand.receive(event("a", "write a=1"))

    settle(worker)

    assert at_start == 1
    assert len(timer.asked) == 2


def test_what_is_due_is_asked_after_a_rollback(stand: Stand) -> None:
    """The store says again what it said then."""
    timer = Timer(stand.clock.now)
    worker = stand.worker(timer)
    settle(worker)
    before = len(timer.asked)
    stand.committer.roll_back(1, "by hand", ())

    settle(worker)

    assert len(timer.asked) > before
    assert stand.files["time"]


class Kill(BaseException):
    """The process ends here."""


def test_timed_work_survives_a_kill(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that a kill left behind between journal and commit is done after the restart."""
    timer = Timer(stand.clock.now)
    worker = stand.worker(timer)
    with monkeypatch.context() as broken:
        broken.setattr(stand.committer.commits, "prepare", _kill)
        with pytest.raises(Kill):
            worker.step()
    left = stand.journal.pending("scribe")
    stand.restart()

    settle(stand.worker(timer))

    assert [entry.change.kind for entry in left] == ["timer"]
    assert stand.journal.pending("scribe") == []
    assert "time" in stand.files


def _kill(*_: object) -> None:
    raise Kill


def test_changes_that_keep_coming_do_not_hold_up_timed_work(stand: Stand) -> None:
    """Whoever may fire events could have blocked addresses stay blocked, and feeds stay old."""
    timer = Timer(stand.clock.now + 5)
    worker = stand.worker(timer)
    settle(worker)
    for number in range(50):
        stand.receive(event(f"e{number}", f"write a={number}"))
        step(worker)
        stand.clock.now += 0.2

    assert "time" in stand.files
    assert all(stand.outcomes[f"e{number}"] == "applied" for number in range(40))
    assert len(timer.asked) < 15


def test_timed_work_that_cannot_be_committed_waits(stand: Stand) -> None:
    """It is not asked for again and again, and done once the check passes."""
    timer = Timer(stand.clock.now)
    worker = stand.worker(timer)
    stand.check = [TemporaryError("[emerg] elsewhere")] * 2
    for _ in range(2):
        assert settle(worker) > 0
        stand.clock.now += 11

    settle(worker)

    assert "time" in stand.files
    assert [row["outcome"] for row in history(stand.journal) if row["kind"] == "timer"] == ["applied"]


def test_timed_work_is_done_while_a_change_waits_to_be_retried(stand: Stand) -> None:
    """A change that fails for an hour does not keep an entry from expiring."""
    timer = Timer(stand.clock.now + 5)
    timer.raises = {"x": [TemporaryError("down", retry_after=3600)]}
    worker = stand.worker(timer)
    stand.receive(event("a", "x"))
    settle(worker)
    stand.clock.now += 5

    settle(worker)

    assert "time" in stand.files


@pytest.mark.parametrize("stages", [False, True])
def test_a_handler_that_answers_with_the_past_is_asked_less_and_less(stand: Stand, stages: bool) -> None:  # noqa: FBT001 (a case)
    """Its bug neither fills the disk nor keeps a processor busy."""

    class Stubborn(Timer):
        def due(self, now: float, context: Context) -> float | None:
            self.asked.append(now)
            if stages:
                context.files.write("n", str(len(self.asked)).encode())
            return 0.0

    stubborn = Stubborn()
    worker = stand.worker(stubborn)
    waits = []
    for _ in range(8):
        waits.append(settle(worker))
        stand.clock.now += 1

    assert min(waits) > 0
    assert len(stubborn.asked) < 15


def test_a_failing_due_is_asked_again_later_and_holds_nothing_back(stand: Stand) -> None:
    """Changes are handled meanwhile."""

    class Broken(Timer):
        def due(self, now: float, context: Context) -> float | None:
            super().due(now, context)
            raise ValueError("a bug")

    broken = Broken()
    worker = stand.worker(broken)
    waits = step(worker)
    stand.receive(event("a", "write a=1"))

    settle(worker)

    assert waits > 0
    assert stand.outcomes == {"a": "applied"}
    assert worker.timer_trouble == "ValueError, see the log"


def test_changes_without_end_do_not_keep_timed_work_waiting(tmp_path: Path) -> None:
    """Where something always waits, it is done once a second all the same."""
    stand, calls = Stand(tmp_path), list[float]()

    class Timed(Scribe):
        def handle(self, change: Change, context: Context) -> None:
            super().handle(change, context)
            stand.clock.now += 0.5
            stand.receive(event(f"next-{stand.clock.now}", "write a=1"))

        def due(self, now: float, context: Context) -> float | None:  # noqa: ARG002 (the interface)
            calls.append(now)
            return now + 1.0

    worker = stand.worker(Timed())
    stand.receive(event("first", "write a=1"))
    for _ in range(10):
        step(worker)

    assert len(calls) >= 3
