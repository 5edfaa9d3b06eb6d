"""One call within its time, and one batch: what is kept, what is dropped."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
import structlog

from agentd.apply.attempt import Batch
from agentd.apply.call import Caller, LeftBehind
from agentd.apply.observer import Blind
from agentd.apply.outcome import Entry
from agentd.errors import TemporaryError
from agentd.options import NginxOptions
from tests.unit.apply.stand import Stand, event

_log = structlog.get_logger()


class Seen(Blind):
    """Remembers what was handled."""

    def __init__(self) -> None:
        self.handled_by: list[str] = []

    def handled(self, handler: str, seconds: float) -> None:
        """Remember it."""
        assert seconds >= 0
        self.handled_by.append(handler)


@pytest.fixture
def seen() -> Seen:
    """An observer."""
    return Seen()


def caller(seen: Seen, timeout: float = 10.0) -> Caller:
    """A caller that nobody watches."""
    return Caller("h", timeout, beat=lambda: None, observer=seen)


# ---------------------------------------------------------------- calls


def test_a_call_returns_what_it_returns(seen: Seen) -> None:
    """From another thread than the worker's."""
    calls = caller(seen)

    thread = calls.call(threading.current_thread)

    assert thread is not threading.current_thread()
    assert seen.handled_by == ["h"]
    calls.close()


def test_calls_share_a_thread(seen: Seen) -> None:
    """Starting one for each would cost more than most calls."""
    calls = caller(seen)

    first, second = calls.call(threading.get_ident), calls.call(threading.get_ident)

    assert first == second
    calls.close()


def test_a_call_raises_what_it_raises(seen: Seen) -> None:
    """And the next one is made all the same."""
    calls = caller(seen)

    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 / 0)

    assert calls.call(lambda: 7) == 7
    assert seen.handled_by == ["h", "h"]
    calls.close()


def test_a_call_cannot_end_the_worker(seen: Seen) -> None:
    """SystemExit becomes an error like another, with its cause."""
    calls = caller(seen)

    with pytest.raises(RuntimeError, match="raised SystemExit") as caught:
        calls.call(sys.exit)

    assert isinstance(caught.value.__cause__, SystemExit)
    calls.close()


def test_a_call_that_is_left_behind_keeps_the_handler_busy(seen: Seen) -> None:
    """Until it returns."""
    calls, go = caller(seen, timeout=0.02), threading.Event()

    with pytest.raises(LeftBehind, match=r"did not return within 0\.02 s") as caught:
        calls.call(lambda: go.wait(10))

    assert calls.busy
    go.set()
    caught.value.thread.join(10)
    assert not calls.busy
    assert calls.call(lambda: 1) == 1
    calls.close()


def test_a_long_call_beats(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog knows that the worker waits for it."""
    monkeypatch.setattr("agentd.apply.call._BEAT_EVERY", 0.005)
    enough = threading.Event()
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 4:
            enough.set()

    calls = Caller("h", 10, beat=beat, observer=seen)

    assert calls.call(lambda: enough.wait(10))
    calls.close()


# ---------------------------------------------------------------- batches


def batch(
    stand: Stand, store: dict[str, Any] | None = None, *, timeout: float = 10.0, dry_run: bool = False
) -> Batch:
    """A batch on what is current."""
    return Batch(
        handler="h",
        stage=stand.tree.stage("h"),
        store=store or {"kept": 1},
        nginx=NginxOptions(),
        generation=stand.tree.current,
        timeout=timeout,
        dry_run=dry_run,
    )


def entry(identity: str) -> Entry:
    """An entry of a batch."""
    return Entry(
        seq=1, handler="h", id=identity, change=event(identity), attempts=0, received=0.0, not_before=0.0
    )


def test_a_batch_knows_which_entries_changed_something(stand: Stand) -> None:
    """Files and store count; writing the same again does not."""
    made = batch(stand)
    made.stage.write("a", b"1")
    made.keep(entry("a"))
    made.stage.write("a", b"1")
    made.keep(entry("b"))
    made.store["more"] = 1
    made.keep(entry("c"))

    assert [kept.changed for kept in made.kept] == [True, False, True]
    assert made.new_store == {"kept": 1, "more": 1}


def test_changes_that_cancel_out_leave_a_batch_clean(stand: Stand) -> None:
    """Nothing is to be committed then."""
    made = batch(stand)
    made.stage.write("a", b"1")
    made.keep(entry("a"))
    made.stage.remove("a")
    made.keep(entry("b"))

    assert made.clean
    assert made.new_store is None


def test_what_is_dropped_goes_back_to_the_last_that_was_kept(stand: Stand) -> None:
    """In files and in store, nested values included."""
    made = batch(stand, {"list": [1]})
    made.stage.write("a", b"1")
    made.store["list"].append(2)
    made.keep(entry("a"))
    made.stage.write("a", b"2")
    made.store["list"].append(3)
    made.store["more"] = 1

    made.refuse(entry("b"), "no")

    assert made.stage.read("a") == b"1"
    assert made.store == {"list": [1, 2]}
    assert [kept.refused for kept in made.kept] == [None, "no"]


def test_a_batch_knows_which_call_ran_a_program(stand: Stand) -> None:
    """Each call begins anew."""
    made = batch(stand)
    context = made.context(0.0, _log)
    assert context.run(["true"]).returncode == 0
    made.keep(entry("a"))
    made.context(0.0, _log)
    made.keep(entry("b"))

    assert [kept.ran for kept in made.kept] == [True, False]


def test_a_dry_run_runs_nothing(stand: Stand) -> None:
    """It only notes what it would have run."""
    made = batch(stand, dry_run=True)

    done = made.context(0.0, _log).run(["/no/such/program", "x"])

    assert done.returncode == 0
    assert made.would_run == [("/no/such/program", "x")]


def test_a_program_gets_what_is_left_of_the_calls_time(stand: Stand) -> None:
    """And none if nothing is left."""
    made = batch(stand, timeout=0.05)
    context = made.context(0.0, _log)

    with pytest.raises(TemporaryError, match="ran out of time"):
        context.run(["sleep", "60"])
    with pytest.raises(TemporaryError, match="no time is left to run sleep"):
        context.run(["sleep", "60"])
