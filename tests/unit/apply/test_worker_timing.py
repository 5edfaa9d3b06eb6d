"""Timed work, the life of a worker's thread, and its end."""

from __future__ import annotations

import threading

import pytest

from agentd.apply.worker import IDLE
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Change, Context
from tests.unit.apply.stand import Prover, Pulse, Scribe, Stand, event, settle


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


def test_timed_work_is_journalled_like_a_change(stand: Stand) -> None:
    """`agentd history` shows it with its outcome."""
    worker = stand.worker(Timer(stand.clock.now))

    settle(worker)

    rows = [row for row in stand.journal.history() if row["kind"] == "timer"]
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

    rows = [row for row in stand.journal.history() if row["kind"] == "timer"]
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
        broken.setattr(stand.committer.ledger, "prepare", _kill)
        with pytest.raises(Kill):
            worker._turn()
    left = stand.journal.pending("scribe")
    stand.restart()

    settle(stand.worker(timer))

    assert [entry.change.kind for entry in left] == ["timer"]
    assert stand.journal.pending("scribe") == []
    assert "time" in stand.files


def _kill(*_: object) -> None:
    raise Kill


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
    assert [row["outcome"] for row in stand.journal.history() if row["kind"] == "timer"] == ["applied"]


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
    waits = worker._turn_safely()
    stand.receive(event("a", "write a=1"))

    settle(worker)

    assert waits > 0
    assert stand.outcomes == {"a": "applied"}


# ---------------------------------------------------------------- the thread


class Entered(Scribe):
    """Says when it was called."""

    def __init__(self, *, runs: bool = False) -> None:
        super().__init__()
        self.entered = threading.Event()
        self._runs = runs

    def handle(self, change: Change, context: Context) -> None:
        """Say so, and run a program without end if it should."""
        super().handle(change, context)
        self.entered.set()
        if self._runs:
            context.run(["sleep", "600"])


def test_a_worker_wakes_when_something_comes(stand: Stand) -> None:
    """It does not wait for its next look at the journal."""
    entered = Entered()
    worker = stand.raw_worker(entered)
    worker.start()
    stand.found(worker)
    stand.receive(event("a", "write a=1"))

    worker.wake()

    assert entered.entered.wait(10)
    worker.stop()
    assert worker.join(10)
    assert stand.outcomes == {"a": "applied"}


def test_draining_finishes_what_waits(stand: Stand) -> None:
    """Then the thread ends by itself."""
    worker = stand.worker(Scribe())
    stand.receive(*(event(f"e{n}", f"write f{n}=1") for n in range(20)))
    worker.drain()

    worker.start()

    assert worker.join(10)
    assert set(stand.outcomes.values()) == {"applied"}


def test_draining_does_not_wait_for_a_retry(stand: Stand) -> None:
    """It stays owed in the journal."""
    scribe = Scribe()
    scribe.raises = {"x": [TemporaryError("down", retry_after=3600)]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"))
    worker.drain()

    worker.start()

    assert worker.join(10)
    assert stand.outcomes == {"a": None}


def test_draining_waits_out_a_hold(stand: Stand) -> None:
    """A reload that is merely held for the interval is done before the daemon ends."""

    class Held(Prover):
        asked = 0

        def hold(self, now: float, context: Context) -> float:
            self.asked += 1
            return 0.01 if now == context.now and self.asked < 3 else 0.0

    proving = stand.worker(Held(), "prover", provers=("prover",))
    writing = stand.worker(Scribe(), provers=("prover",), notify=("prover",))
    stand.receive(event("a", "write a=1"))
    settle(writing)
    proving.drain()

    proving.start()

    assert proving.join(10)
    assert stand.outcomes == {"a": "applied"}


def test_draining_ends_a_worker_that_never_became_ready(stand: Stand) -> None:
    """Its start is tried again after the restart."""
    worker = stand.raw_worker(Scribe())
    worker.drain()

    worker.start()

    assert worker.join(10)
    assert not worker.ready.is_set()


def test_stop_ends_the_program_in_hand_without_counting_an_attempt(stand: Stand) -> None:
    """The end of the daemon is no fault of the change."""
    endless = Entered(runs=True)
    worker = stand.worker(endless)
    stand.receive(event("a", "x"))
    worker.start()
    assert endless.entered.wait(10)

    worker.stop()

    assert worker.join(10)
    waiting = stand.journal.pending("scribe")
    assert [(entry.attempts, entry.not_before) for entry in waiting] == [(0, 0.0)]


def test_a_worker_outlives_whatever_goes_wrong_in_a_turn(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits and takes the next turn."""
    worker = stand.worker(Scribe())
    failures = [OSError("unexpected")] * 2
    pending = stand.journal.pending

    def failing(handler: str) -> object:
        if failures:
            raise failures.pop()
        return pending(handler)

    monkeypatch.setattr(stand.journal, "pending", failing)
    stand.receive(event("a", "write a=1"))

    waits = [worker._turn_safely() for _ in range(3)]

    assert waits[0] > 0
    assert waits[1] > waits[0]
    assert stand.outcomes == {"a": "applied"}


def test_a_worker_beats_before_each_turn_and_longer_before_a_commit(stand: Stand) -> None:
    """A check may take its time; the watchdog must not take it for a hang."""
    pulse = Pulse()
    worker = stand.raw_worker(Scribe(), heartbeat=pulse)
    stand.found(worker)
    stand.receive(event("a", "write a=1"))

    settle(worker)

    assert pulse.beats > 1
    assert pulse.longest >= 60
