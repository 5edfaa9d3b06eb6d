"""One call within its time."""

from __future__ import annotations

import sys
import threading

import pytest
import structlog

from agentd.apply.observer import Observer
from agentd.apply.timed_call import TimedCalls, TimedOut

_log = structlog.get_logger()


class Seen(Observer):
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


def caller(seen: Seen, timeout: float = 10.0) -> TimedCalls:
    """A caller that nobody watches."""
    return TimedCalls("h", timeout, beat=lambda: None, observer=seen)


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
    calls, go = caller(seen, timeout=1.0), threading.Event()

    with pytest.raises(TimedOut, match=r"did not return within 1 s") as caught:
        calls.call(lambda: go.wait(60))

    assert calls.busy
    go.set()
    caught.value.thread.join(60)
    assert not calls.busy
    assert calls.call(lambda: 1) == 1
    calls.close()


def test_a_long_call_beats(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog knows that the worker waits for it."""
    monkeypatch.setattr("agentd.apply.timed_call._BEAT_EVERY", 0.005)
    enough = threading.Event()
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 4:
            enough.set()

    calls = TimedCalls("h", 10, beat=beat, observer=seen)

    assert calls.call(lambda: enough.wait(60))
    calls.close()
