"""Work that a signal stops between two steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from threading import Event

import pytest

from agentd.commands.signals import Signals, run_stoppable
from agentd.errors import AgentdError
from tests.servers.waiting import wait_until


def _interrupted(status: int, stop: Event) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wait(60)
    return status


@pytest.mark.parametrize("status,expected", [(1, 128 + signal.SIGTERM), (0, 0)])
def test_signal_sets_the_event_and_the_status(status: int, expected: int) -> None:
    """Unless the work ended well all the same."""
    assert run_stoppable(lambda stop: _interrupted(status, stop)) == expected


def _main_thread_waits() -> bool:
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    return frame.f_code is Signals.get.__code__


def _interrupted_in_its_own_thread(stop: Event) -> int:
    wait_until(_main_thread_waits, "the main thread to wait")
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    return int(stop.wait(60))


def test_signal_that_another_thread_receives_counts_too() -> None:
    """The kernel may give it to any thread; the main thread is then not woken."""
    assert run_stoppable(_interrupted_in_its_own_thread) == 128 + signal.SIGTERM


def test_status_of_the_work_is_returned() -> None:
    """Where no signal came."""
    assert run_stoppable(lambda _: 7) == 7


def test_what_the_work_raises_is_raised() -> None:
    """In the main thread, which tells it."""

    def fail(_: Event) -> int:
        raise AgentdError("no")

    with pytest.raises(AgentdError, match="no"):
        run_stoppable(fail)


def test_handlers_of_signals_are_as_before() -> None:
    """Once the work has ended."""
    before = signal.getsignal(signal.SIGINT)
    run_stoppable(lambda _: 0)
    assert signal.getsignal(signal.SIGINT) is before
