"""The worker's thread: how it is woken, drained and stopped."""

from __future__ import annotations

import threading
import time

import pytest

from agentd.errors import TemporaryError
from agentd.handler import Change, Context
from tests.unit.apply.stand import Prover, Pulse, Scribe, Stand, event, settle, step


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

    assert entered.entered.wait(60)
    worker.stop()
    assert worker.join(60)
    assert stand.outcomes == {"a": "applied"}


def test_draining_finishes_what_waits(stand: Stand) -> None:
    """Then the thread ends by itself."""
    worker = stand.worker(Scribe())
    stand.receive(*(event(f"e{n}", f"write f{n}=1") for n in range(20)))
    worker.drain()

    worker.start()

    assert worker.join(60)
    assert set(stand.outcomes.values()) == {"applied"}


def test_draining_does_not_wait_for_a_retry(stand: Stand) -> None:
    """It stays owed in the journal."""
    scribe = Scribe()
    scribe.raises = {"x": [TemporaryError("down", retry_after=3600)]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"))
    worker.drain()

    worker.start()

    assert worker.join(60)
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

    assert proving.join(60)
    assert stand.outcomes == {"a": "applied"}


def test_draining_ends_a_worker_that_never_became_ready(stand: Stand) -> None:
    """Its start is tried again after the restart."""
    worker = stand.raw_worker(Scribe())
    worker.drain()

    worker.start()

    assert worker.join(60)
    assert not worker.ready.is_set()


def test_stop_ends_the_program_in_hand_without_counting_an_attempt(stand: Stand) -> None:
    """The end of the daemon is no fault of the change."""
    endless = Entered(runs=True)
    worker = stand.worker(endless)
    stand.receive(event("a", "x"))
    worker.start()
    assert endless.entered.wait(60)

    worker.stop()

    assert worker.join(60)
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

    waits = [step(worker) for _ in range(3)]

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


def test_who_wakes_a_worker_gives_way_until_the_handler_is_entered(stand: Stand) -> None:
    """A poller that went on at once would share the interpreter with the worker."""
    worker = stand.worker(scribe := Entered())
    worker.start()
    stand.receive(event("a", "write a=1"))

    worker.wake()
    worker.wait_until_entered(time.monotonic() + 10)

    assert scribe.entered.wait(60)
    worker.stop()
    assert worker.join(60)


def test_who_wakes_a_busy_worker_goes_on_after_the_deadline(stand: Stand) -> None:
    """It is not the poller's fault that the handler is slow."""
    worker = stand.worker(Scribe())  # its thread does not run, so that nothing is ever entered
    worker.wake()

    before = time.monotonic()
    worker.wait_until_entered(before + 0.01)

    assert time.monotonic() - before < 30


class Watchful(Scribe):
    """Its timed work finds something the first time; it is next due in an hour."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def due(self, now: float, context: Context) -> float | None:
        """Look, and write what was found."""
        self.looks += 1
        context.files.write("seen", b"1")
        return now + 3600


def test_a_worker_that_is_to_settle_does_its_timed_work_at_once(stand: Stand) -> None:
    """It says so once nothing is left: what it found is committed, and it has looked again."""
    handler = Watchful()
    worker = stand.worker(handler)
    settle(worker)
    looks = handler.looks
    stand.receive(event("a", "write a=1"))

    done = worker.settle()
    worker.start()

    assert done.wait(60)
    assert stand.files == {"a": b"1", "seen": b"1"}
    assert handler.looks > looks
    worker.stop()
    assert worker.join(60)


def test_nobody_waits_for_a_worker_that_has_ended(stand: Stand) -> None:
    """Whether it was asked before or after."""
    worker = stand.worker(Scribe())
    before = worker.settle()
    worker.stop()
    worker.start()
    assert worker.join(60)

    assert before.is_set()
    assert worker.settle().is_set()
